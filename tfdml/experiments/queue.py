"""A queue of recipes, each a run or the runs of a protocol, that can be stopped and continued."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tfdml._utils.input_errors import InputError
from tfdml._utils.naming import nearest_name
from tfdml._utils.types import PathLike
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.protocols import protocol_result_of
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import load_recipe, recipe_names
from tfdml.experiments.runner import NonFiniteLossError, result_of

_logger = logging.getLogger(__name__)


def match_recipes(patterns: Sequence[str]) -> list[str]:
    """Return the names of recipes that match patterns such as `"table-5.1/cub/*"`; `*` also matches `/`.

    Example:
        >>> match_recipes(["gap*"])
        ['gap', 'gap-ccp']
    """
    known, names = recipe_names(), {}
    for pattern in patterns:
        matching = fnmatch.filter(known, pattern)
        if not matching:
            nearest = nearest_name(pattern, known)
            raise RecipeError(f"No recipe matches. Received: {pattern!r}. Did you mean {nearest!r}?")
        names.update(dict.fromkeys(matching))
    return list(names)


def load_queue(
    patterns: str | Sequence[str], overrides: Mapping[str, Any] | None = None, presets: Sequence[str] = ()
) -> dict[str, Recipe]:
    """Read the recipes of a queue.

    Args:
        patterns: str or sequence of str. As for `match_recipes`, or paths of YAML files, in which `*`, `?` and `**` are
            expanded.
        overrides: mapping. Changes of each recipe, as for `load_recipe`.
        presets: sequence of str. Presets merged into each recipe, as for `load_recipe`.

    Returns:
        The recipes by the names of their folders.

    Raises:
        RecipeError: If a pattern matches nothing, a recipe cannot be read, or two files have recipes of one name.

    Example:
        >>> load_queue("gap*", {"seed": 1})["gap-ccp"].seed
        1
    """
    recipes: dict[str, Recipe] = {}
    sources: dict[str, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        are_files = pattern.endswith((".yaml", ".yml"))
        for source in _matching_files(pattern) if are_files else match_recipes([pattern]):
            recipe = load_recipe(source, overrides, presets)
            name = recipe.name if are_files else source
            if sources.setdefault(name, source) != source:
                raise RecipeError(
                    f"Two recipes have the same name, and so the same folder. Received: {sources[name]} and {source}, "
                    f"both {name!r}. Expected: different file names, or different values of the key 'name'."
                )
            recipes[name] = recipe
    return recipes


def _matching_files(pattern):
    path = os.path.expanduser(pattern)
    # The name of an existing file is not a pattern, whatever characters it has.
    files = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    if not files:
        raise RecipeError(f"There is no recipe file. Received: {pattern!r}. Expected: a YAML file or a pattern.")
    return [os.path.abspath(file) for file in files]


def with_seeds(recipe: Recipe, seeds: Sequence[int]) -> dict[str, Recipe]:
    """Return a recipe with each of several seeds, by the names of their folders: `seed0`, `seed1`, …

    Example:
        >>> list(with_seeds(Recipe(), [0, 3]))
        ['seed0', 'seed3']
    """
    return {f"seed{seed}": dataclasses.replace(recipe, seed=seed) for seed in seeds}


def run_all(
    recipes: Mapping[str, Recipe], out: PathLike, *, verbose: Literal[0, 1, 2] | None = None
) -> tuple[dict[str, Any], dict[str, Exception]]:
    """Train recipes one after the other, each in the folder of its name.

    Finished recipes are not repeated and interrupted ones are resumed, so the same call with the same folder continues
    the queue. A recipe that fails, because of its input or a non-finite loss, does not stop the others.

    Args:
        recipes: mapping. `Recipe`s by name.
        out: path. Folder of all of them.
        verbose: As for `tfdml.experiments.train`.

    Returns:
        Two dicts by the recipes' names: the results (`TrainingResult` or `ProtocolResult`), and the errors.
    """
    results: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        _logger.info("Recipe %d of %d: %s", number, len(recipes), name)
        carry_out = result_of if recipe.protocol.name == "single" else protocol_result_of
        try:
            results[name] = carry_out(recipe, pathlib.Path(out).expanduser() / name, verbose=verbose)
        except (InputError, NonFiniteLossError) as error:
            _logger.error("%s: %s", name, error)
            errors[name] = error
    return results, errors
