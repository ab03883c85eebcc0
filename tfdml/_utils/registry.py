"""Registries of losses, miners, poolings, backbones and datasets: one implementation for all of them."""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfdml._utils.naming import accepted_options, check_options, listed, unknown_name


class Registry:
    """Creates objects of one kind from names, classes and configurations.

    Args:
        kind: str. What the objects are, for messages, such as `"loss"`.
        base: The class of the objects.
        factories: Mapping from names to callables that create an object. Default: `None`, empty.
    """

    def __init__(self, kind: str, base: type, factories: Mapping[str, Callable] | None = None):
        self.kind = kind
        self.base = base
        self._factories = dict(factories or {})
        # How `get` made what Keras cannot serialize.
        self._made: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def names(self) -> list[str]:
        """Return the names that `get` accepts, sorted.

        Returns:
            List of str.

        Example:
            >>> from tfdml import losses, miners
            >>> miners.names()
            ['distance_weighted', 'hard', 'hard_negative', 'multi_similarity', 'semi_hard']
            >>> "multi_similarity" in losses.names()
            True
        """
        return sorted(self._factories)

    def get(self, identifier: Any, *arguments: Any, **options: Any) -> Any:
        """Create an object from an identifier.

        Args:
            identifier: One of: a name from `names()`, in any case; the name of a registered class; a class; a
                configuration from `serialize`; or an object of the right class, which is returned unchanged.
            *arguments: Positional arguments of the factory.
            **options: Arguments of the factory, if the identifier is a name or a class.

        Returns:
            The object.

        Raises:
            ValueError: If the name is unknown (the message suggests the closest one), an option is unknown or missing,
                or options are passed without a name.
            TypeError: If the identifier is none of these.
        """
        if isinstance(identifier, str):
            return self._make(identifier, self._factory_of(identifier), arguments, options)
        if inspect.isclass(identifier) and issubclass(identifier, self.base):
            return self._make(identifier.__name__, identifier, arguments, options)
        if callable(identifier) and not isinstance(identifier, self.base):
            factory = self._factory_of_callable(identifier)
            if factory is not None:
                return self._make(_name_of(identifier), factory, arguments, options)
        if options:
            raise ValueError(f"Options go with a {self.kind}'s name. Received: options {options} with {identifier!r}.")
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        return self._checked(identifier)

    def register(self, name: str, factory: Callable | None = None) -> Callable:
        """Make an object available by name.

        Recipes, `get` and the arguments that accept names then accept this one. A class with `get_config` is also
        registered with Keras, unless it already is, so that files that contain it load in safe mode. Running a notebook
        cell or reloading a module again replaces its own registration.

        Args:
            name: str, in lower case. The name.
            factory: Class, or function that creates an object from options. Default: `None`, return a decorator.

        Returns:
            The factory, unchanged.

        Raises:
            ValueError: If the name is not in lower case, or it is taken.
            TypeError: If the factory is not callable.

        Example:
            ```python
            @losses.register("my_loss")
            class MyLoss(losses.MetricLoss):
                ...
            ```
        """
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name) or name != name.lower():
            raise ValueError(
                f"The name of a {self.kind} is wrong. Received: {name!r}. Expected: text in lower case, of letters, "
                "digits, '_' and '-'."
            )
        if factory is None:
            return functools.partial(self.register, name)
        if not callable(factory):
            raise TypeError(
                f"The factory of a {self.kind} is not callable. Received: {factory!r} for {name!r}. Expected: a class, "
                f"or a function that makes a {self.kind}."
            )
        known = self._factories.get(name)
        if known is not None and not _is_same_source(known, factory):
            raise ValueError(
                f"The name of a {self.kind} is taken. Received: {name!r}, which belongs to {_source_of(known)}. "
                "Expected: a name that is free. Choose another one."
            )
        self._factories[name] = factory
        made_by = getattr(factory, "func", factory)
        if inspect.isclass(made_by) and hasattr(made_by, "get_config"):
            register_with_keras(made_by)
        return factory

    def serialize(self, x: Any) -> dict:
        """Return the configuration of an object: plain values that `deserialize` accepts.

        Args:
            x: An object, or any other identifier that `get` accepts without options.

        Returns:
            dict that can be written as JSON.

        Raises:
            ValueError: If the object has no configuration.

        Example:
            >>> from tfdml import miners
            >>> config = miners.serialize(miners.get("hard", distance="cosine"))
            >>> miners.deserialize(config).distance
            'cosine'
        """
        x = self.get(x)
        if not hasattr(x, "get_config"):
            if x not in self._made:
                raise ValueError(
                    f"The {self.kind} has no configuration. Received: {x!r}. Expected: what `get` made from a name."
                )
            name, options = self._made[x]
            return {"class_name": name, "config": dict(options)}
        return keras.saving.serialize_keras_object(x)

    def deserialize(self, config: Mapping) -> Any:
        """Create an object from its configuration. Keras' safe mode is on, so lambdas are rejected.

        Args:
            config: Mapping from `serialize`, or `{"class_name": NAME, "config": OPTIONS}` with a name that `get`
                accepts.

        Returns:
            The object.

        Raises:
            ValueError: If the configuration cannot be read.
            TypeError: If it is the configuration of another kind of object.

        Example:
            >>> from tfdml import losses
            >>> losses.deserialize({"class_name": "contrastive", "config": {"negative_margin": 0.8}}).negative_margin
            0.8
        """
        if not isinstance(config, Mapping):
            raise TypeError(
                f"The configuration of a {self.kind} is wrong. Received: {config!r} of type {type(config).__name__}. "
                "Expected: a mapping, as `serialize` gives it."
            )
        if {"class_name"} <= set(config) <= {"class_name", "config"}:
            return self.get(config["class_name"], **(config.get("config") or {}))
        try:
            x = keras.saving.deserialize_keras_object(dict(config), safe_mode=True)
        except (TypeError, KeyError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"The configuration of a {self.kind} cannot be read: {reason}. Received: "
                f"{config.get('class_name', config)!r}. Expected: what `serialize` gives."
            ) from error
        return self._checked(x)

    def _factory_of(self, name):
        factory = self._factories.get(name.lower())
        if factory is None:
            classes = (one for one in self._factories.values() if inspect.isclass(one) and one.__name__ == name)
            factory = next(classes, None) or self._factory_of_foreign_name(name)
        if factory is None:
            raise unknown_name(self.kind, name, self._factories)
        return factory

    def _factory_of_foreign_name(self, name):
        """The factory of a name that is not registered, or `None`."""
        return None

    def _factory_of_callable(self, function):
        """The factory of a function, or `None` if functions are not accepted."""
        return None

    def _make(self, name, factory, arguments, options):
        accepted = accepted_options(factory)
        if accepted is not None:
            accepted = accepted[len(arguments) :]
        check_options(self.kind, name, accepted, options)
        missing = _missing_options(factory, arguments, options)
        if missing:
            raise ValueError(
                f"{self.kind.capitalize()} {name!r} needs the option {missing[0]!r}. Received: {options or 'none'}. "
                f"Expected: {listed(missing)}."
            )
        try:
            made = factory(*arguments, **options)
        except TypeError as error:
            raise ValueError(
                f"{self.kind.capitalize()} {name!r} cannot be made from these options. Received: {options} ({error}). "
                f"Expected: {listed(accepted)}."
            ) from error
        if not isinstance(made, self.base):
            raise TypeError(
                f"The factory of the {self.kind} {name!r} made something else. Received: {made!r} of type "
                f"{type(made).__name__}. Expected: a {self.base.__name__}."
            )
        if not hasattr(made, "get_config"):
            self._made[made] = name, options
        return made

    def _checked(self, x):
        if isinstance(x, self.base):
            return x
        raise TypeError(
            f"A {self.kind} must be a name, a configuration or a {self.base.__name__}. "
            f"Received: {x!r} of type {type(x).__name__}."
        )


def register_with_keras(x):
    """Registers a class or function with Keras, so that files with it load in safe mode, unless it is already."""
    package = (x.__module__ or "__main__").partition(".")[0]
    if ">" in keras.saving.get_registered_name(x) or package in ("keras", "tf_keras", "tensorflow"):
        return
    keras.saving.register_keras_serializable("Custom" if package in ("__main__", "builtins") else package)(x)


def _missing_options(factory, arguments, options):
    """The options without a default that are not given."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        return []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in parameters[len(arguments) :]
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in by_name
        and parameter.name not in options
    ]


def _is_same_source(one, other):
    """Whether two factories are the same, or come from the same lines of a module or notebook."""
    if one is other:
        return True
    one, other = map(_bound_function, (one, other))
    places = [(getattr(x, "__module__", None), getattr(x, "__qualname__", "<lambda>")) for x in (one, other)]
    return places[0] == places[1] and "<lambda>" not in places[0][1]


def _bound_function(factory):
    """The function that a factory turns into an object, or the factory itself."""
    return factory.args[0] if isinstance(factory, functools.partial) and factory.args else factory


def _source_of(factory):
    factory = _bound_function(factory)
    factory = getattr(factory, "func", factory)
    return f"{getattr(factory, '__module__', '')}.{_name_of(factory)}"


def _name_of(function):
    return getattr(function, "__name__", type(function).__name__)
