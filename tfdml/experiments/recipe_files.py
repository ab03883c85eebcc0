"""Recipes as YAML files that build on one another."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping

import yaml

from tfdml.experiments.errors import RecipeError, nearest_key
from tfdml.experiments.parsing import parse_yaml, recipe_from_mapping, to_mapping
from tfdml.experiments.recipe import Recipe

_BUILT_IN = pathlib.Path(__file__).parent / "recipes"
_PRESETS = pathlib.Path(__file__).parent / "presets"
_SUFFIXES = (".yaml", ".yml")


def recipe_names():
    """The names of the recipes that come with the package, `default` first."""
    return sorted(
        (path.stem for path in _BUILT_IN.glob("*.yaml")), key=lambda name: (name != "default", name)
    )


def preset_names():
    """The names of the presets that come with the package."""
    return list(_all_presets())


def load_preset(name):
    """A preset: a part of a recipe, as a nested mapping.

    Args:
        name: One of `preset_names()`.

    Raises:
        RecipeError: If there is no such preset.

    Example:
        >>> load_preset("thesis/c1")
        {'loss': {'name': 'c1', 'options': {'negative_margin': 0.5}}}
    """
    presets = _all_presets()
    if name not in presets:
        raise RecipeError(
            f"Unknown preset {name!r}. Did you mean {nearest_key(str(name), presets)!r}? --list-presets shows all."
        )
    return presets[name]


@functools.cache
def _all_presets():
    presets = {}
    for path in sorted(_PRESETS.glob("*.yaml")):
        for name, mapping in parse_yaml(path.read_text(encoding="utf-8"), path).items():
            presets[f"{path.stem}/{name}"] = mapping
    return presets


def load_recipe(name_or_path="default", overrides=None, presets=()):
    """Reads a recipe.

    A recipe's file may name others, recipes or presets, in the key `base` and give what differs from them; of a list
    each goes over those before it. What none of them gives has the default of `Recipe`. Mappings are merged key by
    key, with one exception: the `options` of a section, and the `miner` of a loss, belong to its `name`, so who gives a
    section another name starts without them.

    Args:
        name_or_path: A name of `recipe_names()`, or the path of a YAML file.
        overrides: What to change in the end: a nested mapping, or dotted keys such as `{"model.gsp.ratio": 0.5}`.
        presets: Names of `preset_names()` that go over the recipe, one after the other.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown, or a value does not fit; it says which.

    Example:
        >>> load_recipe("gap", {"seed": 3, "training.patience": 5}).model.pooling
        'gap'
    """
    mapping = _compose(name_or_path, None, ())
    for preset in presets:
        mapping = merge(mapping, load_preset(preset))
    # Presets may fit together only with what overrides them.
    if overrides:
        mapping = merge(merge(to_mapping(Recipe()), mapping), nested(overrides))
    return recipe_from_mapping(mapping)


def dump_recipe(recipe):
    """The whole recipe as YAML."""
    return yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True)


def merge(base, changes):
    """The base with the changes laid over it; a section's new `name` drops `options` and `miner` of the old one."""
    base = dict(base)
    if changes.get("name", base.get("name")) != base.get("name"):
        base.update({key: {} for key in ("options", "miner") if key in base})
    return _lay_over(base, changes, merge)


def _lay_over(base, changes, merge_sections):
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_sections(merged[key], value) if both else value
    return merged


def nested(overrides):
    """Dotted keys as nested mappings.

    Example:
        >>> nested({"model.gsp.ratio": 0.5, "model": {"pooling": "gsp"}})
        {'model': {'gsp': {'ratio': 0.5}, 'pooling': 'gsp'}}
    """

    def join(one, other):
        return _lay_over(one, other, join)

    result = {}
    for key, value in overrides.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = join(result, value)
    return result


def _compose(name_or_path, folder, seen):
    path = _find(name_or_path, folder)
    if path in seen:
        chain = " -> ".join(str(other) for other in (*seen, path))
        raise RecipeError(f"A recipe is its own base: {chain}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}") from error
    mapping = parse_yaml(text, path)
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"A recipe is a mapping. Received: {type(mapping).__name__} in {path}.")
    mapping = {"name": path.stem, **mapping}
    # An empty section, all of its lines commented out, says nothing.
    mapping = {key: value for key, value in mapping.items() if value is not None}
    bases = mapping.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(
            "base must be the name or the path of a recipe, the name of a preset, or a list of these. "
            f"Received: {bases!r} in {path}."
        )
    composed = {}
    for base in bases:
        is_preset = base in preset_names()
        composed = merge(composed, load_preset(base) if is_preset else _compose(base, path.parent, (*seen, path)))
    mapping = merge(composed, mapping)
    try:
        recipe_from_mapping(mapping)
    except RecipeError as error:
        raise RecipeError(f"{error} (in {path})") from error
    return mapping


def _find(name_or_path, folder):
    """The file of a recipe; a path inside a recipe is taken from that recipe's folder."""
    text = os.fspath(name_or_path)
    if text in recipe_names():
        return _BUILT_IN / f"{text}.yaml"
    path = pathlib.Path(text).expanduser()
    path = path if folder is None else folder / path
    if path.is_file():
        return path.resolve()
    if folder is None and text in preset_names():
        raise RecipeError(f"{text} is a preset, which goes over a recipe: RECIPE --preset {text}.")
    if path.suffix in _SUFFIXES or len(path.parts) > 1 and folder is None:
        raise RecipeError(
            f"There is no recipe file {path}. Recipes of the package: {', '.join(recipe_names())}."
        )
    nearest = nearest_key(text, [*recipe_names(), *(preset_names() if folder is not None else ())])
    raise RecipeError(
        f"Unknown recipe {text!r}. Did you mean {nearest!r}? "
        f"Expected one of {', '.join(recipe_names())}, or the path of a YAML file."
    )
