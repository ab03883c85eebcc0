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

from tfdml._utils.limited_yaml import EXPONENT
from tfdml.experiments import plugins
from tfdml.experiments.errors import RecipeError, unknown
from tfdml.experiments.parsing import lay_over, nested, parse_yaml, recipe_from_mapping, to_mapping, with_present_keys
from tfdml.experiments.recipe import FORMER_KEYS, Recipe
from tfdml.experiments.table_files import load_table, quoted_rows, table_names, table_recipes

_BUILT_IN = pathlib.Path(__file__).parent / "recipes"
_PRESETS = pathlib.Path(__file__).parent / "presets"
# The options that belong to a name, and not to another one.
_OF_NAMES = {"name": ("options", "miner"), "backbone": ("backbone_options",), "pooling": ("pooling_options",)}


def recipe_names(tables=True):
    """The names of the recipes of the package, `default` first; with those of `tables`, as `table-3.1/cub/c2-ccp-l`."""
    names = sorted((path.stem for path in _BUILT_IN.glob("*.yaml")), key=lambda name: (name != "default", name))
    return [*names, *table_recipes()] if tables else names


def preset_names():
    """The names of the presets that come with the package."""
    return list(_all_presets())


def load_preset(name):
    """A preset of `preset_names()`: a part of a recipe, as a nested mapping.

    Example:
        >>> load_preset("thesis/c1")
        {'loss': {'name': 'c1', 'options': {'negative_margin': 0.5}}}
    """
    if name not in _all_presets():
        raise RecipeError(f"{unknown('preset', name, _all_presets())} --list-presets shows all.")
    return _all_presets()[name]


@functools.cache
def _all_presets():
    return {
        f"{path.stem}/{name}": mapping
        for path in sorted(_PRESETS.glob("*.yaml"))
        for name, mapping in parse_yaml(path.read_text(encoding="utf-8"), path).items()
    }


def load_recipe(name_or_path="default", overrides=None, presets=()):
    """Reads a recipe.

    A recipe's file may name others, recipes or presets, in the key `base` and give what differs from them; each of
    several is merged into those before it. What none of them gives has the default of `Recipe`. Mappings are merged
    key by key, with one exception: the `options` of a section, and the `miner` of a loss, belong to its `name`, as
    those of backbone and pooling to theirs, so a new name starts without them.

    Args:
        name_or_path: A name of `recipe_names()`, or the path of a YAML file.
        overrides: Final changes: a nested mapping, or dotted keys such as `{"model.gsp.ratio": 0.5}`.
        presets: Names of `preset_names()` that are merged into the recipe, one after the other.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown, or a value does not fit; it says which.

    Example:
        >>> load_recipe("gap", {"seed": 3, "training.patience": 5}).model.pooling
        'gap'
    """
    mapping = _merged([_compose(name_or_path), *map(load_preset, presets)])
    # Presets may fit together only with the overrides.
    if overrides:
        mapping = _merged([to_mapping(Recipe()), mapping, with_present_keys(nested(overrides))])
    return recipe_from_mapping(mapping)


def dump_recipe(recipe):
    """The whole recipe as YAML."""
    return yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True)


def merge(base, changes):
    """The base with the changes laid over it; a section's new `name` drops `options` and `miner` of the old one.

    Modules to import (`imports`) are those of both.
    """
    merged, both = _merge_section(base, changes), (base.get("imports"), changes.get("imports"))
    if all(isinstance(modules, (list, tuple)) for modules in both):
        merged["imports"] = list(dict.fromkeys([*both[0], *both[1]]))
    return merged


def _merge_section(base, changes):
    base = dict(base)
    for name, of_name in _OF_NAMES.items():
        if changes.get(name, base.get(name)) != base.get(name):
            base.update({key: {} for key in of_name if key in base})
    return lay_over(base, changes, _merge_section)


def _merged(parts, folder=None, seen=()):
    """Mappings, presets and recipes, each merged into those before it."""
    merged = {}
    for part in parts:
        if not isinstance(part, Mapping):
            part = load_preset(part) if part in _all_presets() else _compose(part, folder, seen)
        merged = merge(merged, part)
    return merged


@functools.cache
def table_recipe_mapping(name):
    """The recipe of `table_recipes()` as a nested mapping, composed of its parts, without defaults."""
    table, row, data = table_recipes()[name]
    mapping = _merged(table.parts_of(row, data))
    return {**mapping, "name": name, "description": f"{table.title}: {row.label}, {data.label}"}


def _compose(name_or_path, folder=None, seen=()):
    """The recipe of a name or file, on top of its bases, as a nested mapping."""
    if name_or_path in table_recipes():
        return table_recipe_mapping(name_or_path)
    path = _find(name_or_path, folder)
    if path in seen:
        raise RecipeError(f"A recipe is its own base: {' -> '.join(map(str, (*seen, path)))}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}") from error
    mapping = parse_yaml(text, path)
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"A recipe is a mapping. Received: {type(mapping).__name__} in {path}.")
    # An empty section, all of its lines commented out, says nothing.
    mapping = {key: value for key, value in {"name": path.stem, **mapping}.items() if value is not None}
    mapping = with_present_keys(mapping)
    if isinstance(mapping.get("imports"), list):
        mapping["imports"] = [plugins.absolute(module, path.parent) for module in mapping["imports"]]
    bases = mapping.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(
            "base must be the name or the path of a recipe, the name of a preset, or a list of these. "
            f"Received: {bases!r} in {path}."
        )
    mapping = merge(_merged(bases, path.parent, (*seen, path)), mapping)
    if path.parent != _BUILT_IN:
        # The message names the file, which may be the base of another one.
        try:
            recipe_from_mapping(mapping)
        except RecipeError as error:
            raise RecipeError(f"{error} (in {path})") from error
    return mapping


def _find(name_or_path, folder):
    """The file of a recipe; a path inside a recipe is taken from that recipe's folder."""
    text, built_in, presets = os.fspath(name_or_path), recipe_names(tables=False), preset_names()
    if text in built_in:
        return _BUILT_IN / f"{text}.yaml"
    path = pathlib.Path(text).expanduser()
    path = path if folder is None else folder / path
    if path.is_file():
        return path.resolve()
    if folder is None and text in presets:
        raise RecipeError(f"{text} is a preset, which goes over a recipe: RECIPE --preset {text}.")
    if text in quoted_rows():
        raise RecipeError(f"The table quotes {text} from the literature: it has figures and no recipe.")
    rows, known = _rows_like(text), ", ".join(built_in)
    if path.suffix in (".yaml", ".yml") or (len(path.parts) > 1 and folder is None and not rows):
        raise RecipeError(f"There is no recipe file {path}. Recipes of the package: {known}; --list-recipes.")
    raise RecipeError(
        f"{unknown('recipe', text, rows or [*recipe_names(), *(presets if folder else ())])} "
        f"Expected one of {known}, a row of a table (--list-recipes), or the path of a YAML file."
    )


def _rows_like(text):
    """The rows of the table that a text names, perhaps misspelled; none if it does not name one."""
    prefixes = {table.recipes for table in map(load_table, table_names())}
    first, *rest = text.split("/")
    of_table = difflib.get_close_matches(first, prefixes, n=1, cutoff=0.75) if rest else ()
    return [name for name in table_recipes() if name.split("/")[0] in of_table]


def recipe_hash(recipe):
    """Twelve hexadecimal digits that identify a recipe by what decides its results.

    Not in it are the recipe's name and description, the devices (`training.strategy`), and where on this machine its
    files are: `data.options.path` and `.root`, and the folder of weights and of `imports`. Defaults of `Recipe()` are
    left out, so that a later version with more keys gives the same digits; the order of keys does not matter.

    Args:
        recipe: A `Recipe`, or a nested mapping of what differs from `Recipe()`.

    Example:
        >>> one, other = load_recipe("gap"), load_recipe("gap", {"name": "mine", "data.options.path": "/data"})
        >>> recipe_hash(one) == recipe_hash(other) != recipe_hash(load_recipe("gap", {"seed": 1}))
        True
    """
    # Under former keys, so that recipes of earlier versions keep their digits.
    former = {present: former for former, present in FORMER_KEYS.items()}
    values = {former.get(key, key): value for key, value in decisive_values(recipe).items()}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive_values(recipe):
    """What `recipe_hash` looks at: the values that are not the default of `Recipe`, by dotted keys."""
    mapping = with_present_keys(recipe if isinstance(recipe, Mapping) else to_mapping(recipe))
    values = {}

    def collect(mapping, defaults, prefix):
        for key, value in mapping.items():
            if isinstance(value, Mapping) and isinstance(defaults[key], Mapping) and defaults[key]:
                collect(value, defaults[key], f"{prefix}{key}.")
            elif (plain := _plain(f"{prefix}{key}", value)) != _plain(f"{prefix}{key}", defaults[key]):
                values[prefix + key] = plain

    collect(mapping, _defaults(), "")
    return {key: value for key, value in values.items() if key not in ("name", "description", "training.strategy")}


@functools.cache
def _defaults():
    return to_mapping(Recipe())


def _plain(key, value):
    """A value as JSON knows it, equal for equal values; without folders."""
    if isinstance(value, Mapping):
        items = {f"{key}.{name}": (str(name), item) for name, item in value.items()}
        for location in ("data.options.path", "data.options.root"):
            items.pop(location, None)
        return {name: _plain(path, item) for path, (name, item) in items.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if isinstance(value, str):
        if key in ("imports", "model.first_weights", "model.backbone_options.weights"):
            return re.split(r"[/\\]", value)[-1]
        value = float(value) if EXPONENT.fullmatch(value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
