"""Recipes as YAML files that build on one another."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import yaml

from tfdml.experiments.errors import RecipeError, nearest_key
from tfdml.experiments.parsing import parse_yaml, recipe_from_mapping, to_mapping

_BUILT_IN = pathlib.Path(__file__).parent / "recipes"
_SUFFIXES = (".yaml", ".yml")


def recipe_names():
    """The names of the recipes that come with the package, `default` first."""
    return sorted(
        (path.stem for path in _BUILT_IN.glob("*.yaml")), key=lambda name: (name != "default", name)
    )


def load_recipe(name_or_path="default", overrides=None):
    """Reads a recipe.

    A recipe's file may name another in the key `base` and give what differs from it. What neither gives has
    the default of `Recipe`. Mappings are merged key by key, with one exception: the `options` of a section
    belong to its `name`, so a file that gives a section another name starts with no options there.

    Args:
        name_or_path: A name of `recipe_names()`, or the path of a YAML file.
        overrides: What to change: a nested mapping, or dotted keys such as `{"model.gsp.ratio": 0.5}`.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown, or a value does not fit; it says which.

    Example:
        >>> load_recipe("gap", {"seed": 3, "training.patience": 5}).model.pooling
        'gap'
    """
    mapping = _compose(name_or_path, None, ())
    recipe = recipe_from_mapping(mapping)
    if not overrides:
        return recipe
    return recipe_from_mapping(merge(to_mapping(recipe), nested(overrides)))


def dump_recipe(recipe):
    """The whole recipe as YAML."""
    return yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True)


def merge(base, changes):
    """The base with the changes laid over it; a section's new `name` drops the `options` of the old one."""
    merged = dict(base)
    if "options" in base and changes.get("name", base.get("name")) != base.get("name"):
        merged["options"] = {}
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def nested(overrides):
    """Dotted keys as nested mappings.

    Example:
        >>> nested({"model.gsp.ratio": 0.5, "model": {"pooling": "gsp"}})
        {'model': {'gsp': {'ratio': 0.5}, 'pooling': 'gsp'}}
    """
    result = {}
    for key, value in overrides.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge(result, value)
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
    base = mapping.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"base must be the name or the path of a recipe. Received: {base!r} in {path}.")
        mapping = merge(_compose(base, path.parent, (*seen, path)), mapping)
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
    if path.suffix in _SUFFIXES or len(path.parts) > 1 and folder is None:
        raise RecipeError(
            f"There is no recipe file {path}. Recipes of the package: {', '.join(recipe_names())}."
        )
    names = recipe_names()
    raise RecipeError(
        f"Unknown recipe {text!r}. Did you mean {nearest_key(text, names)!r}? "
        f"Expected one of {', '.join(names)}, or the path of a YAML file."
    )
