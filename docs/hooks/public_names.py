"""A Griffe extension: every name that a package exports is found under that package.

Griffe reads sources and does not run them, so it cannot know names that a package imports when they are first used,
nor the methods of a registry that are exported as functions. Both are looked up in the imported package.
"""

import importlib
import inspect
import re
import types

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class PublicNames(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            # Griffe knows the section by its plural only, and reads doctests in no other place.
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        for module in [pkg, *_packages(pkg)]:
            _add_exports(module)


def _packages(module: griffe.Module):
    for member in list(module.members.values()):
        if not member.is_alias and member.is_module and member.is_init_module and not member.name.startswith("_"):
            yield member
            yield from _packages(member)


def _add_exports(module: griffe.Module) -> None:
    imported = importlib.import_module(module.path)
    module.exports = list(getattr(imported, "__all__", []))
    for name in module.exports:
        value = getattr(imported, name)
        value = value.__func__ if isinstance(value, types.MethodType) else value
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        known = module.members.get(name)
        if known is not None and not known.is_alias and known.is_module:
            # A function with the name of its module: its page names it by its path in that module.
            continue
        path = f"{value.__module__}.{value.__qualname__}"
        if path != f"{module.path}.{name}":
            module.members.pop(name, None)
            module.set_member(name, griffe.Alias(name, path))
