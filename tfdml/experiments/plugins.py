"""Modules of a user that register losses, miners, poolings, backbones and datasets. Nothing here imports TensorFlow.

Loading a recipe does not run code: a module that it names in `imports` is imported only if the user names it too
(`--import`) or trusts the recipe (`--trust`).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import pathlib
from collections.abc import Iterable, Iterator

from tfdml._utils.input_errors import InputError
from tfdml._utils.modules import UserModules, is_file, last_part
from tfdml.experiments import names

_logger = logging.getLogger(__name__)

_MODULES = UserModules()
_TRUSTED = contextvars.ContextVar("trusted", default=False)


def import_modules(modules: Iterable[str]) -> list[str]:
    """Import modules, which register their parts.

    Args:
        modules: iterable of str. Dotted names, which are also looked up in the current folder, or paths of `.py` files.

    Returns:
        The modules as a recipe records them, with absolute paths.

    Raises:
        InputError: If there is no such module, or importing it fails.
    """
    return [_import(module, f"--import {module}") for module in modules]


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Let recipes that are loaded in the block import their modules if `trust` is true."""
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def require(modules: Iterable[str]) -> None:
    """Import the modules that a recipe names in `imports`, if that is allowed.

    Raises:
        InputError: If a module is not imported yet and the recipe is not trusted, and as in `import_modules`.
    """
    missing = [module for module in modules if not _MODULES.is_imported(module)]
    if missing and not _TRUSTED.get():
        options = " ".join(f"--import {last_part(module)}" for module in missing)
        raise InputError(
            f"The recipe needs code that is not imported yet. Received: imports={missing}. Expected: {options}, with "
            "the path of the file or the full name of the module, or --trust if you know who wrote it. In Python, "
            "import the module first."
        )
    for module in missing:
        _import(module, f"imports {module}")


def absolute(module: str, folder: pathlib.Path) -> str:
    """Return a module as a recipe file in `folder` names it; relative paths start there."""
    is_path = isinstance(module, str) and is_file(module)
    return str((folder / pathlib.Path(module).expanduser()).resolve()) if is_path else module


def _import(module, received):
    path = _MODULES.find(module, received)
    before = {kind: names.registered(kind) for kind in names.KINDS}
    is_new = _MODULES.import_module(module, received)
    if is_new and all(names.registered(kind) == before[kind] for kind in before):
        _logger.warning(
            "The module registers nothing. Received: %s. Expected: calls of register of tfdml.losses, tfdml.miners, "
            "tfdml.layers.pooling, tfdml.backbones or tfdml.data.", received,
        )  # fmt: skip
    return module if path is None else str(path)
