"""Backbones by name."""

from __future__ import annotations

from typing import Any

import keras

from tfdml._utils.registry import Registry


class _Backbones(Registry):
    """Also takes functions of `(input_shape, **options)` and the names of other libraries' networks."""

    def is_known(self, name: str) -> bool:
        """Whether `get` accepts a name; of a preset of KerasHub only the prefix is checked.

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
        """Returns the names among which a wrong one should be: those of `keras.applications` for one of its names."""
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
    """Makes a backbone, a model from images to their local features, from an identifier.

    Args:
        identifier: A name of `names()` in any case; `"keras.applications.NAME"`, a network of Keras without its
            classifier; `"keras_hub:PRESET"`, a preset of KerasHub or its folder (Keras 3, extra `keras-hub`); a
            function of `(input_shape, **options)` that builds a model; a configuration, as `serialize` gives it; or a
            `keras.Model`, which is returned as it is.
        input_shape: `(height, width, channels)` of the images; height and width can be `None`. Needed with a name or a
            function.
        **options: Options of the builder, for a name or a function.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1, `(b, height, width, channels)` to a feature map `(b, h',
        w', features)`.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested), takes no such option, or the backbone takes
            no such images.
        TypeError: If the identifier is none of these.

    Example:
        >>> import tfdml.backbones
        >>> get("resnet20", (32, 32, 3)).count_params()
        273392
    """
    return _REGISTRY.get(identifier, *([] if input_shape is _NOT_GIVEN else [input_shape]), **options)
