"""Recipes as YAML files that build on each other."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tfdml._utils import limited_yaml
from tfdml._utils.input_errors import InputError, unknown
from tfdml._utils.naming import nearest_name
from tfdml._utils.typed_values import merge_mappings, nested, read_value, to_mapping, value_of
from tfdml._utils.types import PathLike
from tfdml.experiments import plugins
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.recipe import FORMER_KEYS, Recipe
from tfdml.experiments.table_files import all_tables, quoted_rows, table_recipes

_BUILT_IN = pathlib.Path(__file__).parent / "recipes"
_PRESETS = pathlib.Path(__file__).parent / "presets"
# Options that belong to the value of a key and are dropped if it changes.
_OF_NAMES = {"name": ("options", "miner"), "backbone": ("backbone_options",), "pooling": ("pooling_options",)}
_NOT_DECISIVE = ("name", "description", "training.strategy")
_DATASETS = ("data.options", "data.options.target_options", "data.options.background_options")
_LOCATIONS = tuple(f"{options}.{name}" for options in _DATASETS for name in ("path", "root"))


def recipe_names(tables: bool = True) -> list[str]:
    """Return the names of the package's recipes, `default` first, then (if `tables`) those of rows of tables.

    Example:
        >>> recipe_names(tables=False)[0], "table-3.1/cub/c2-ccp-l" in recipe_names()
        ('default', True)
    """
    names = sorted((path.stem for path in _BUILT_IN.glob("*.yaml")), key=lambda name: (name != "default", name))
    return [*names, *table_recipes()] if tables else names


def preset_names() -> list[str]:
    """Return the names of the package's presets.

    Example:
        >>> "thesis/c1" in preset_names()
        True
    """
    return list(_all_presets())


def load_preset(name: str) -> dict[str, Any]:
    """Return a preset, a part of a recipe, as a nested mapping.

    Args:
        name: str. One of `preset_names()`.

    Example:
        >>> load_preset("thesis/c1")
        {'loss': {'name': 'c1', 'options': {'negative_margin': 0.5}}}
    """
    if name not in _all_presets():
        raise RecipeError(f"{unknown('preset', name, _all_presets())} --list-presets prints all of them.")
    return _all_presets()[name]


@functools.cache
def _all_presets():
    return {
        f"{path.stem}/{name}": mapping
        for path in sorted(_PRESETS.glob("*.yaml"))
        for name, mapping in read_yaml(path).items()
    }


def load_recipe(
    name_or_path: PathLike = "default", overrides: Mapping[str, Any] | None = None, presets: Sequence[str] = ()
) -> Recipe:
    """Read a recipe.

    The key `base` of a recipe file can name one or several recipes or presets, which are merged in that order; the file
    then has only what differs from them. Keys that are missing everywhere have the defaults of `Recipe`. Mappings are
    merged key by key, with one exception: the `options` of a section and the `miner` of a loss belong to its `name`,
    and those of backbone and pooling to theirs. A new name starts without them.

    Args:
        name_or_path: str or path. One of `recipe_names()`, or a YAML file. Default: `"default"`.
        overrides: mapping. Final changes, nested or with dotted keys such as `{"model.gsp.ratio": 0.5}`.
        presets: sequence of str. Names of `preset_names()` to merge into the recipe.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown, or a value is not accepted.
        InputError: If the recipe names a module that may not be imported (`plugins.require`).

    Example:
        >>> load_recipe("gap", {"seed": 3, "training.patience": 5}).model.pooling
        'gap'
    """
    mapping = _merged([_compose(name_or_path), *map(load_preset, presets)])
    # Presets may be consistent only together with the overrides.
    if overrides:
        mapping = _merged([to_mapping(Recipe()), mapping, with_present_keys(nested(overrides))])
    return recipe_from_mapping(mapping)


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML.

    Example:
        >>> dump_recipe(load_recipe("gap")).split()[:2]
        ['name:', 'gap']
    """
    return yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True)


def recipe_from_mapping(mapping: Any) -> Recipe:
    """Create a `Recipe` from nested mappings, with the defaults of `Recipe` for missing keys.

    Raises:
        RecipeError: If a key is unknown, a value has the wrong type, or a value is not accepted.
        InputError: If the recipe names a module that may not be imported (`plugins.require`).
    """
    if isinstance(mapping, Mapping) and isinstance(mapping.get("imports"), (list, tuple)):
        plugins.require(read_value(tuple[str, ...], mapping["imports"], "imports"))
    try:
        return read_value(Recipe, with_present_keys(mapping), "")
    except RecipeError:
        raise
    except InputError as error:
        raise RecipeError(str(error)) from error


def with_present_keys(mapping: Any) -> Any:
    """Rename the keys of `FORMER_KEYS` in the nested mappings of a recipe."""
    for former, present in FORMER_KEYS.items():
        section, key = former.split(".")
        if isinstance(mapping, Mapping) and isinstance(mapping.get(section), Mapping) and key in mapping[section]:
            of_section = {present.split(".")[1] if name == key else name: v for name, v in mapping[section].items()}
            mapping = {**mapping, section: of_section}
    return mapping


def read_yaml(path: pathlib.Path) -> Any:
    """Read a YAML file. Raise a RecipeError if that is not possible."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}") from error
    try:
        return limited_yaml.load(text)
    except ValueError as error:
        raise RecipeError(f"{path} is {error}") from error


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into a recipe's mapping; a section's new `name` drops the `options` and `miner` of the old one.

    `imports` of both are kept.
    """
    merged, ours, theirs = _merge_section(base, changes), base.get("imports"), changes.get("imports")
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        merged["imports"] = list(dict.fromkeys([*ours, *theirs]))
    return merged


def _merge_section(base, changes):
    base = dict(base)
    for name, of_name in _OF_NAMES.items():
        if changes.get(name, base.get(name)) != base.get(name):
            base.update({key: {} for key in of_name if key in base})
    return merge_mappings(base, changes, _merge_section)


def _merged(parts, folder=None, seen=()):
    """Merge mappings, and presets and recipes by name, one after the other."""
    merged: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, Mapping):
            part = load_preset(part) if part in _all_presets() else _compose(part, folder, seen)
        merged = merge(merged, part)
    return merged


@functools.cache
def table_recipe_mapping(name: str) -> dict[str, Any]:
    """Return one of `table_recipes()` as a nested mapping without defaults."""
    table, row, data = table_recipes()[name]
    mapping = _merged(table.parts_of(row, data))
    return {**mapping, "name": name, "description": f"{table.title}: {row.label}, {data.label}"}


def _compose(name_or_path, folder=None, seen=()):
    """The recipe of a name or file, merged into its bases, as a nested mapping."""
    if name_or_path in table_recipes():
        return table_recipe_mapping(name_or_path)
    path = _find(name_or_path, folder)
    if path in seen:
        raise RecipeError(f"A recipe is its own base. Received: {' -> '.join(map(str, (*seen, path)))}.")
    mapping = read_yaml(path)
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"A recipe is a mapping. Received: {type(mapping).__name__} in {path}.")
    # A section whose lines are all commented out is null.
    mapping = {key: value for key, value in {"name": path.stem, **mapping}.items() if value is not None}
    mapping = with_present_keys(mapping)
    if isinstance(mapping.get("imports"), list):
        mapping["imports"] = [plugins.absolute(module, path.parent) for module in mapping["imports"]]
    bases = mapping.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(
            f"The base of a recipe is wrong. Received: {bases!r} in {path}. Expected: the name or path of a recipe, "
            "the name of a preset, or a list of these."
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
    """The file of a recipe. Paths inside a recipe are relative to that recipe's folder."""
    text, built_in, presets = os.fspath(name_or_path), recipe_names(tables=False), preset_names()
    if text in built_in:
        return _BUILT_IN / f"{text}.yaml"
    path = pathlib.Path(text).expanduser()
    path = path if folder is None else folder / path
    if path.is_file():
        return path.resolve()
    if folder is None and text in presets:
        raise RecipeError(f"A preset is not a recipe. Received: {text!r}. Expected: RECIPE --preset {text}.")
    if text in quoted_rows():
        raise RecipeError(
            f"This row of a table is quoted from the literature and has no recipe. Received: {text!r}. Expected: one "
            "of --list-recipes."
        )
    rows, known = _rows_like(text), ", ".join(built_in)
    if path.suffix in (".yaml", ".yml") or (len(path.parts) > 1 and folder is None and not rows):
        raise RecipeError(f"There is no recipe file {path}. Expected: an existing file, or one of {known}.")
    raise RecipeError(
        f"{unknown('recipe', text, rows or [*recipe_names(), *(presets if folder else ())])} "
        f"Expected: one of {known}, a row of a table (--list-recipes), or the path of a YAML file."
    )


def _rows_like(text):
    """The recipes of the table that a possibly misspelled text names."""
    prefixes = {table.recipes for table in all_tables()}
    first, *rest = text.split("/")
    of_table = nearest_name(first, sorted(prefixes), cutoff=0.75) if rest else None
    return [name for name in table_recipes() if name.split("/")[0] == of_table]


def recipe_hash(recipe: Recipe | Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that identify a recipe by what determines its results.

    The hash ignores name and description, the devices (`training.strategy`), and where files are on this machine:
    `data.options.path` and `.root`, also those of the two datasets of collages, and the folders of weights and of
    `imports`. It also ignores the order of keys and values equal to the defaults of `Recipe()`, so that keys added by a
    later version do not change it.

    Args:
        recipe: A `Recipe`, or a nested mapping of what differs from `Recipe()`.

    Example:
        >>> one, other = load_recipe("gap"), load_recipe("gap", {"name": "mine", "data.options.path": "/data"})
        >>> recipe_hash(one) == recipe_hash(other) != recipe_hash(load_recipe("gap", {"seed": 1}))
        True
    """
    # Former keys, so that recipes of earlier versions keep their hash.
    former = {present: former for former, present in FORMER_KEYS.items()}
    values = {former.get(key, key): value for key, value in decisive_values(recipe).items()}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive_values(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that `recipe_hash` uses, those that differ from `Recipe()`, by dotted keys."""
    values = {}

    def collect(mapping, prefix):
        for name, value in mapping.items():
            key = prefix + name
            default = value_of(default_mapping(), key)
            if isinstance(value, Mapping) and isinstance(default, Mapping) and default:
                collect(value, f"{key}.")
            elif (plain := _plain(key, value)) != _plain(key, default) and key not in _NOT_DECISIVE:
                values[key] = plain

    collect(with_present_keys(to_mapping(recipe)), "")
    return values


@functools.cache
def default_mapping() -> dict[str, Any]:
    """Return `Recipe()` as nested mappings, which must not be changed."""
    return to_mapping(Recipe())


def _plain(key, value):
    """A value as JSON knows it, the same for equal values, and without folders."""
    if isinstance(value, Mapping):
        items = {name: _plain(f"{key}.{name}", item) for name, item in value.items()}
        return {str(name): item for name, item in items.items() if f"{key}.{name}" not in _LOCATIONS}
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if isinstance(value, str):
        if key in ("imports", "model.first_weights", "model.backbone_options.weights"):
            return re.split(r"[/\\]", value)[-1]
        value = float(value) if limited_yaml.EXPONENT.fullmatch(value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
