"""Modules of a user, imported by name or by the path of their file, with one-line errors. Without TensorFlow."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator

from tfdml._utils.input_errors import InputError

_PACKAGE = pathlib.Path(__file__).parents[1]


class UserModules:
    """The modules that were imported by name or file.

    Attributes:
        files: dict. Names of the modules by the real paths of their files.
        names: set. Names of the modules imported by name.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.names: set[str] = set()

    def is_imported(self, module: str) -> bool:
        """Return whether the module, or one of the same name in another place, is imported."""
        if not is_file(module) and module in sys.modules:
            return True
        name = last_part(module).removesuffix(".py")
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and pathlib.Path(file).stem == name and not _is_in_library(file):
            return True
        return any(last_part(one).removesuffix(".py") == name for one in [*self.files, *self.names])

    def find(self, module: str, received: str) -> pathlib.Path | None:
        """Return the file of a module given by its path, or None for a name; InputError if there is no such file."""
        if not is_file(module):
            return None
        path = pathlib.Path(module).expanduser()
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"There is no such file. Received: {received}. Expected: the path of a .py file.")
        return path.resolve()

    def import_module(self, module: str, received: str) -> bool:
        """Import a module unless it is imported already.

        Args:
            module: str. Dotted name, also looked up in the current folder, or path of a `.py` file.
            received: str. The option that names the module, for messages.

        Returns:
            Whether it was imported now.

        Raises:
            InputError: If there is no such module, or importing it fails.
        """
        path = self.find(module, received)
        if (module in sys.modules) if path is None else (str(path) in self.files):
            is_new = False
        else:
            is_new = True
            with _reported(received, module):
                if path is None:
                    _import_name(module)
                else:
                    self.files[str(path)] = _import_file(path)
        if path is None:
            self.names.add(module)
        return is_new


def is_file(module: str) -> bool:
    """Return whether a module is given by the path of its file."""
    return module.endswith(".py") or "/" in module or os.sep in module


def last_part(module: str) -> str:
    """Return the name of a module without packages, or of its file without folders."""
    return pathlib.Path(module).name if is_file(module) else module.rpartition(".")[2]


def _import_name(module):
    # Unlike `python -m`, installed commands do not look in the current folder.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.import_module(module)


def _import_file(path):
    """Import a file and return the module's name."""
    # Keras files refer to a class by its module, so the name must always be the same and hide no other module.
    name = re.sub(r"\W", "_", path.stem)
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None and pathlib.Path(file).resolve() == path:
        return name
    found = None if name in sys.modules else importlib.util.find_spec(name)
    if name in sys.modules or (found is not None and pathlib.Path(str(found.origin)).resolve() != path):
        name = f"tfdml_import_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    return name


@contextlib.contextmanager
def _reported(received: str, module: str) -> Iterator[None]:
    """Re-raise what a module raises as an InputError of one line that names file and line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}.") and not is_file(module):
            raise InputError(
                f"There is no module {missing!r}. Received: {received}. Expected: a module that Python finds, also "
                "in the current folder, or the path of a .py file."
            ) from error
        message = " ".join(str(error).split()) or "no message"
        raise InputError(
            f"The module cannot be imported: {type(error).__name__}: {message} ({_place_of(error)}). Received: "
            f"{received}."
        ) from error


def _place_of(error):
    """File and line that raised an error, in the user's module rather than in the libraries that it called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _is_in_library(frame.filename)]
    frame = (users or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _is_in_library(file):
    path = pathlib.Path(file)
    is_of_python = file.startswith("<frozen") or pathlib.Path(importlib.__file__).parents[1] in path.parents
    return is_of_python or _PACKAGE in path.parents or "site-packages" in path.parts
