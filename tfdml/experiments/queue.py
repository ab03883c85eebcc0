"""A queue of recipes, each a run or the runs of a protocol, that can stop and continue."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import logging
import os
import pathlib

from tfdml._utils.input_errors import InputError, nearest_key
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.protocols import protocol_result_of
from tfdml.experiments.recipe_files import load_recipe, recipe_names
from tfdml.experiments.runner import NonFiniteLossError, result_of

_logger = logging.getLogger(__name__)


def match_recipes(patterns):
    """The names of recipes that match patterns such as `"table-5.1/cub/*"`, each once; a `*` may stand for a `/`."""
    known, names = recipe_names(), {}
    for pattern in patterns:
        matching = fnmatch.filter(known, pattern)
        if not matching:
            nearest = nearest_key(pattern, known)
            raise RecipeError(f"No recipe matches. Received: {pattern!r}. Did you mean {nearest!r}?")
        names.update(dict.fromkeys(matching))
    return list(names)


def load_queue(patterns, overrides=None, presets=()):
    """The recipes of a queue by the names of their folders.

    Args:
        patterns: One or several names as for `match_recipes`, or paths of YAML files, in which `*`, `?` and `**` are
            expanded.
        overrides: Changes of each recipe, as for `load_recipe`.
        presets: Presets merged into each recipe, as for `load_recipe`.

    Raises:
        RecipeError: If a pattern matches nothing, a recipe cannot be read, or two files give recipes of one name.
    """
    recipes, sources = {}, {}
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


def with_seeds(recipe, seeds):
    """A recipe with each of several seeds, by the names of their folders: `seed0`, `seed1`, …"""
    return {f"seed{seed}": dataclasses.replace(recipe, seed=seed) for seed in seeds}


def run_queue(patterns, out, overrides=None, presets=(), *, verbose=None):
    """Trains the recipes of `load_queue`, as `run_all` does."""
    return run_all(load_queue(patterns, overrides, presets), out, verbose=verbose)


def run_all(recipes, out, *, verbose=None):
    """Trains recipes one after the other, each in the folder of its name.

    Finished recipes are not repeated and interrupted ones continue, so the same call with the same folder continues the
    queue. A recipe that fails, by its input or by a loss that is not finite, does not stop the others.

    Args:
        recipes: `Recipe`s by name.
        out: The folder of all of them.
        verbose: As for `tfdml.experiments.train`.

    Returns:
        Two dicts by the recipes' names: the results (`TrainingResult` or `ProtocolResult`), and the errors.
    """
    results, errors = {}, {}
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        _logger.info("Recipe %d of %d: %s", number, len(recipes), name)
        carry_out = result_of if recipe.protocol.name == "single" else protocol_result_of
        try:
            results[name] = carry_out(recipe, pathlib.Path(out).expanduser() / name, verbose=verbose)
        except (InputError, NonFiniteLossError) as error:
            _logger.error("%s: %s", name, error)
            errors[name] = error
    return results, errors
