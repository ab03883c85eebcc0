"""Backbones by name."""

from __future__ import annotations

from typing import Any

import keras

from tfdml._utils.registry import Registry


class _Backbones(Registry):
    """Registry that also accepts functions of `(input_shape, **options)` and names of other libraries' networks."""

    def is_known(self, name: str) -> bool:
        """Return whether `get` accepts a name. For a KerasHub preset, only the prefix is checked.

        Args:
            name: str. Name to check.

        Example:
            >>> import tfdml.backbones
            >>> tfdml.backbones.is_known("keras.applications.VGG16"), tfdml.backbones.is_known("resnet21")
            (True, False)
        """
        try:
            self._factory_of(name)
        except ValueError:
            return False
        return True

    def names_like(self, name: str) -> list[str]:
        """Return the valid names to suggest for a wrong one: those of `keras.applications` if it has that prefix."""
        from tfdml.backbones import applications

        return applications.application_names() if name.lower().startswith(applications.PREFIX) else self.names()

    def _factory_of_foreign_name(self, name):
        from tfdml.backbones import applications, hub_models

        if name.lower().startswith(applications.PREFIX):
            return applications.application(name)
        if name.lower().startswith(hub_models.PREFIX):
            return hub_models.preset(name)
        return None

    def _factory_of_callable(self, function):
        return function


_NOT_GIVEN = object()
_REGISTRY = _Backbones("backbone", keras.Model)

names, register, serialize, deserialize, is_known, names_like = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize, _REGISTRY.is_known,
    _REGISTRY.names_like,
)  # fmt: skip


def get(identifier: Any, /, input_shape: Any = _NOT_GIVEN, **options: Any) -> keras.Model:
    """Build a backbone, a model from images to local features, from an identifier.

    Use it if the name comes from a configuration; `build_embedder` accepts the same identifiers.

    Args:
        identifier: A name of `names()`, case-insensitive; `"keras.applications.NAME"`, a network of Keras without its
            classifier; `"keras_hub:PRESET"`, a preset of KerasHub or its folder (Keras 3, extra `keras-hub`); a
            function of `(input_shape, **options)` that builds a model; a configuration returned by `serialize`; or a
            `keras.Model`, which is returned unchanged.
        input_shape: tuple (height, width, channels) of the images; height and width may be `None`. Required for a name
            or a function.
        **options: Options of the builder, for a name or a function.

    Returns:
        Functional `keras.Model` from images, float32 in 0–1, `(batch, height, width, channels)` to a feature map
        `(batch, h, w, features)`.

    Raises:
        ValueError: If the name is unknown (the message suggests the closest one), the builder has no such option, or
            the backbone does not accept images of this shape.
        TypeError: If the identifier has another type.

    Example:
        >>> import tfdml.backbones
        >>> get("resnet20", (32, 32, 3)).count_params()
        273392
    """
    return _REGISTRY.get(identifier, *([] if input_shape is _NOT_GIVEN else [input_shape]), **options)
