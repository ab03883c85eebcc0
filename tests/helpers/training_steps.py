"""Recipes with the same training step."""

import json

from tfdml.experiments.recipe_files import decisive_values


def what_a_step_does(recipe):
    """Key that is equal for recipes whose training steps differ only in numbers.

    Args:
        recipe: A `Recipe`, or a nested mapping with the differences from `Recipe()`.
    """
    values = decisive_values(recipe)
    elsewhere = ("name", "description", "data", "augmentation", "evaluation", "protocol", "training")
    kept = {key: value for key, value in values.items() if key.split(".")[0] not in elsewhere}
    options = sorted(kept.pop("loss.options", {}))
    numbers = {key for key, value in kept.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return json.dumps([options, sorted(numbers), {key: kept[key] for key in sorted(kept) if key not in numbers}])
