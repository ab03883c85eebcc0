"""Modules of a user that register losses, miners, poolings, backbones and datasets. Nothing here imports TensorFlow.

A recipe names the modules that it needs (`imports`), and never runs code by that: a module is imported only if the user
names it (`--import`), or says that the recipe is to be trusted (`--trust`).
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import importlib.util
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator

from tfdml.experiments import names
from tfdml.experiments.errors import InputError

_logger = logging.getLogger(__name__)

_PACKAGE = pathlib.Path(__file__).parents[1]
# The files that were imported, by their real paths, with the names of their modules; and the names that were given.
_FILES: dict[str, str] = {}
_NAMES: set[str] = set()
_TRUSTED = contextvars.ContextVar("trusted", default=False)


def import_modules(modules: Iterable[str]) -> list[str]:
    """Imports modules, which register what they have.

    Args:
        modules: Dotted names of modules, which are also looked for in the current folder, or paths of `.py` files.

    Returns:
        What a recipe is to record: the modules, with absolute paths.

    Raises:
        InputError: If there is no such module, or importing it fails.
    """
    return [_import(module, "--import") for module in modules]


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Recipes that are read in the block import their modules by themselves if `trust` is set."""
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def require(modules: Iterable[str]) -> None:
    """Imports the modules that a recipe names, if that is allowed.

    Args:
        modules: The recipe's `imports`.

    Raises:
        InputError: If a module is not imported yet and the recipe is not trusted, and as for `import_modules`.
    """
    missing = [module for module in modules if not _is_imported(module)]
    if missing and not _TRUSTED.get():
        options = " ".join(f"--import {_last(module)}" for module in missing)
        raise InputError(
            f"The recipe needs code that is not imported yet. Received: imports={missing}. Expected: {options}, with "
            "the path of the file or the whole name of the module, or --trust if you know who wrote it. In Python, "
            "import the module first."
        )
    for module in missing:
        _import(module, "imports")


def absolute(module: str, folder: pathlib.Path) -> str:
    """A module as a recipe's file names it; a relative path starts from the folder of the file."""
    is_file = isinstance(module, str) and _is_file(module)
    return str((folder / pathlib.Path(module).expanduser()).resolve()) if is_file else module


def _is_file(module):
    return module.endswith(".py") or "/" in module or os.sep in module


def _last(module):
    """What tells a module wherever it lies: its name without packages and folders."""
    return pathlib.Path(module).name if _is_file(module) else module.rpartition(".")[2]


def _is_imported(module):
    """Whether the module, or one of its name in another place, is imported already."""
    if not _is_file(module) and module in sys.modules:
        return True
    name = _last(module).removesuffix(".py")
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None and pathlib.Path(file).stem == name and not _is_of_a_library(file):
        return True
    return any(_last(one).removesuffix(".py") == name for one in [*_FILES, *_NAMES])


def _import(module, option):
    received = f"{option} {module}"
    if not _is_file(module):
        if module not in sys.modules:
            with _reported(received, module), _counted(received):
                _import_by_name(module)
        _NAMES.add(module)
        return module
    path = pathlib.Path(module).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"There is no such file. Received: {received}. Expected: the path of a .py file.")
    path = path.resolve()
    if str(path) not in _FILES:
        with _reported(received, module), _counted(received):
            _import_file(path)
    return str(path)


def _import_by_name(module):
    # Unlike `python -m`, an installed command does not look in the current folder.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.import_module(module)


def _import_file(path):
    # Files of Keras name a class by its module, so the name is always the same; other modules stay what they are.
    name = re.sub(r"\W", "_", path.stem)
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None and pathlib.Path(file).resolve() == path:
        _FILES[str(path)] = name
        return
    found = None if name in sys.modules else importlib.util.find_spec(name)
    if name in sys.modules or (found is not None and pathlib.Path(str(found.origin)).resolve() != path):
        name = f"tfdml_import_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[str(path)] = name


@contextlib.contextmanager
def _reported(received, module):
    """Turns what a module raises into one line that names the place."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if is_missing and not _is_file(module):
            raise InputError(
                f"There is no module {error.name!r}. Received: {received}. Expected: a module that Python finds, also "
                f"in the current folder, or the path of a .py file."
            ) from error
        message = " ".join(str(error).split()) or "no message"
        raise InputError(
            f"The module cannot be imported: {type(error).__name__}: {message} ({_place_of(error)}). Received: "
            f"{received}."
        ) from error


def _place_of(error):
    """File and line where an error arose: in the module of the user, not in the libraries that it called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _is_of_a_library(frame.filename)]
    frame = (users or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _is_of_a_library(file):
    path = pathlib.Path(file)
    is_of_python = file.startswith("<frozen") or pathlib.Path(importlib.__file__).parents[1] in path.parents
    return is_of_python or _PACKAGE in path.parents or "site-packages" in path.parts


@contextlib.contextmanager
def _counted(received):
    """Warns of a module that registers nothing."""
    before = {kind: names.registered(kind) for kind in names.KINDS}
    yield
    if all(names.registered(kind) == before[kind] for kind in before):
        _logger.warning(
            "The module registers nothing. Received: %s. Expected: calls of register of tfdml.losses, tfdml.miners, "
            "tfdml.layers.pooling, tfdml.backbones or tfdml.data.", received,
        )  # fmt: skip
