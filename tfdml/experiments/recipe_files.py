"""Recipes as YAML files that build on one another."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping

import yaml

from tfdml.experiments.errors import RecipeError, nearest_key
from tfdml.experiments.parsing import parse_yaml, recipe_from_mapping, to_mapping
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.table_files import load_table, quoted_rows, table_names, table_recipes

_BUILT_IN = pathlib.Path(__file__).parent / "recipes"
_PRESETS = pathlib.Path(__file__).parent / "presets"
_SUFFIXES = (".yaml", ".yml")


def recipe_names(tables=True):
    """The names of the recipes that come with the package, `default` first.

    Args:
        tables: Whether the recipes of the rows of tables are among them, as in `"table-3.1/cub/c2-ccp-l"`.
    """
    names = sorted((path.stem for path in _BUILT_IN.glob("*.yaml")), key=lambda name: (name != "default", name))
    return [*names, *table_recipes()] if tables else names


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
    key, with one exception: the `options` of a section, and the `miner` of a loss, belong to its `name`, as those of
    backbone and pooling to theirs, so who gives a section another name starts without them.

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


# What belongs to a name, and is not for another.
_OF_NAMES = {
    "name": ("options", "miner"),
    "backbone": ("backbone_options",),
    "pooling": ("pooling_options",),
}


def merge(base, changes):
    """The base with the changes laid over it; a section's new `name` drops `options` and `miner` of the old one."""
    base = dict(base)
    for name, of_name in _OF_NAMES.items():
        if changes.get(name, base.get(name)) != base.get(name):
            base.update({key: {} for key in of_name if key in base})
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


@functools.cache
def table_recipe_mapping(name):
    """The recipe of a table's row as a nested mapping, composed of its parts; what they leave out is not in it.

    Args:
        name: A key of `table_recipes()`.
    """
    table, row, data = table_recipes()[name]
    mapping = {}
    for part in table.parts_of(row, data):
        if not isinstance(part, Mapping):
            part = load_preset(part) if part in _all_presets() else _compose(part, None, ())
        mapping = merge(mapping, part)
    return {**mapping, "name": name, "description": f"{table.title}: {row.label}, {data.label}"}


def _compose(name_or_path, folder, seen):
    if name_or_path in table_recipes():
        return table_recipe_mapping(name_or_path)
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
    if path.parent != _BUILT_IN:
        # So that the message names the file, which may be the base of another one.
        try:
            recipe_from_mapping(mapping)
        except RecipeError as error:
            raise RecipeError(f"{error} (in {path})") from error
    return mapping


def _find(name_or_path, folder):
    """The file of a recipe; a path inside a recipe is taken from that recipe's folder."""
    text = os.fspath(name_or_path)
    if text in recipe_names(tables=False):
        return _BUILT_IN / f"{text}.yaml"
    path = pathlib.Path(text).expanduser()
    path = path if folder is None else folder / path
    if path.is_file():
        return path.resolve()
    if folder is None and text in preset_names():
        raise RecipeError(f"{text} is a preset, which goes over a recipe: RECIPE --preset {text}.")
    if text in quoted_rows():
        raise RecipeError(f"The table quotes {text} from the literature: it has figures and no recipe.")
    rows = _rows_like(text)
    is_path = path.suffix in _SUFFIXES or len(path.parts) > 1 and folder is None and not rows
    built_in = ", ".join(recipe_names(tables=False))
    if is_path:
        raise RecipeError(f"There is no recipe file {path}. Recipes of the package: {built_in}; --list-recipes.")
    presets = preset_names() if folder is not None else ()
    nearest = nearest_key(text, rows or [*recipe_names(), *presets])
    raise RecipeError(
        f"Unknown recipe {text!r}. Did you mean {nearest!r}? "
        f"Expected one of {built_in}, a row of a table (--list-recipes), or the path of a YAML file."
    )


def _rows_like(text):
    """The rows of the table that a text names, perhaps misspelt; nothing if it is no such name."""
    prefixes = {table.recipes for table in map(load_table, table_names())}
    first, *rest = text.split("/")
    of_table = difflib.get_close_matches(first, prefixes, n=1, cutoff=0.75) if rest else ()
    return [name for name in table_recipes() if name.split("/")[0] in of_table]


def recipe_hash(recipe):
    """Twelve hexadecimal digits that tell a recipe by what decides its results.

    That is everything but the recipe's name and description, the devices it runs on (`training.strategy`), and where
    on this machine its files lie: `data.options.path`, and of a file of weights the folder. Values that are those of
    `Recipe()` are left out, so that a later version with more keys gives the same digits; the order of keys does not
    matter.

    Args:
        recipe: A `Recipe`, or a nested mapping of what differs from `Recipe()`.

    Returns:
        The first digits of the SHA-256 of canonical JSON.

    Example:
        >>> one, other = load_recipe("gap"), load_recipe("gap", {"name": "mine", "data.options.path": "/data"})
        >>> recipe_hash(one) == recipe_hash(other) != recipe_hash(load_recipe("gap", {"seed": 1}))
        True
    """
    text = json.dumps(decisive_values(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive_values(recipe):
    """What `recipe_hash` looks at: from dotted keys to values, of those that are not the default of `Recipe`."""
    mapping = recipe if isinstance(recipe, Mapping) else to_mapping(recipe)
    values = {}

    def collect(mapping, defaults, prefix):
        for key, value in mapping.items():
            if isinstance(value, Mapping) and isinstance(defaults[key], Mapping) and defaults[key]:
                collect(value, defaults[key], f"{prefix}{key}.")
            elif (plain := _plain(f"{prefix}{key}", value)) != _plain(f"{prefix}{key}", defaults[key]):
                values[prefix + key] = plain

    collect({key: mapping[key] for key in mapping if key not in ("name", "description")}, _defaults(), "")
    values.pop("training.strategy", None)
    return values


@functools.cache
def _defaults():
    return to_mapping(Recipe())


def _plain(key, value):
    """A value as JSON knows it, equal for equal values; without folders."""
    if isinstance(value, Mapping):
        paths = {f"{key}.{name}": (name, item) for name, item in value.items()}
        paths.pop("data.options.path", None)
        return {str(name): _plain(path, item) for path, (name, item) in paths.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if isinstance(value, str):
        if key in ("model.first_weights", "model.backbone_options.weights"):
            return re.split(r"[/\\]", value)[-1]
        # YAML takes 1e-3, without a point, for text.
        value = float(value) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
