"""Recipes with the same training step."""

import json

from tfdml.experiments.recipe_files import decisive_values

# Values of which none adds anything to a step.
_NUMBERS = {
    "batches.classes", "batches.samples_per_class", "ccp.max_steps", "ccp.patience", "ccp.pool_size", "model.gsp.ratio",
    "model.gsp.smoothing", "optimizer.plateau_patience", "references.per_class",
}  # fmt: skip


def what_a_step_does(recipe, changed=()):
    """Key that is equal for recipes whose training steps differ only in numbers.

    Args:
        recipe: A `Recipe`, or a nested mapping with the differences from `Recipe()`.
        changed: Dotted keys whose values the test replaces.
    """
    values = decisive_values(recipe)
    elsewhere = ("name", "description", "data", "augmentation", "evaluation", "protocol", "training")
    without = {*_NUMBERS, *changed}
    kept = {key: value for key, value in values.items() if key.split(".")[0] not in elsewhere and key not in without}
    options = sorted(kept.pop("loss.options", {}))
    numbers = {key for key, value in kept.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return json.dumps([options, sorted(numbers), {key: kept[key] for key in sorted(kept) if key not in numbers}])
