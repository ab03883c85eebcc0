"""A queue of recipes, each a run or the runs of a protocol, that can stop and go on."""

from __future__ import annotations

import fnmatch
import logging
import pathlib

from tfdml.experiments.errors import InputError, RecipeError, nearest_key
from tfdml.experiments.protocols import protocol_result_of
from tfdml.experiments.recipe_files import load_recipe, recipe_names
from tfdml.experiments.runner import NonFiniteLossError, result_of

_logger = logging.getLogger(__name__)


def match_recipes(patterns):
    """The names of recipes that match patterns, each once, in the order of the patterns.

    Args:
        patterns: Names of recipes, with `*`, `?` and `[…]` as in a shell: `"table-5.1/cub/*"`. A `*` stands for any
            text, `/` included.

    Raises:
        RecipeError: If a pattern matches nothing.
    """
    known = recipe_names()
    names = []
    for pattern in patterns:
        matching = fnmatch.filter(known, pattern)
        if not matching:
            raise RecipeError(
                f"No recipe matches. Received: {pattern!r}. Did you mean {nearest_key(pattern, known)!r}?"
            )
        names += matching
    return list(dict.fromkeys(names))


def run_queue(patterns, out, overrides=None, presets=(), *, verbose=None):
    """Carries out recipes one after the other, each in the folder of its name.

    What has finished is not repeated and what was interrupted goes on, so that the same call again, in the same folder,
    goes on with the queue. A recipe that fails, by its input or by a loss that becomes no number, does not stop the
    others.

    Args:
        patterns: As for `match_recipes`.
        out: The folder of all of them.
        overrides: Changes of each recipe, as for `load_recipe`.
        presets: Presets that go over each recipe, as for `load_recipe`.
        verbose: As for `tfdml.experiments.train`.

    Returns:
        Two dicts by the recipes' names: the results (`TrainingResult` or `ProtocolResult`), and the errors.

    Raises:
        RecipeError: If a pattern matches nothing, or a recipe cannot be read; nothing is done then.
    """
    recipes = {name: load_recipe(name, overrides, presets) for name in match_recipes(patterns)}
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
