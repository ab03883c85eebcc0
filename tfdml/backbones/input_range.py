"""Models of images in 0–1 from models that expect another range."""

from __future__ import annotations

import keras

from tfdml._utils.types import InputRange
from tfdml.backbones.expected_range import expected_range
from tfdml.backbones.input_convention import InputConvention
from tfdml.ops import UNIT_RANGE, check_input_range, input_convention

# Images whose values are at most this far from 0 are not bytes.
_LARGEST_OF_FLOATS = 16.0


def with_input_range(model, input_range):
    """The input, in 0–1, and the output of a model that expects an input range; the model becomes one layer.

    Args:
        model: A functional or sequential Keras model with one float input and one output.
        input_range: As for `tfdml.ops.check_input_range`.

    Returns:
        The pair of symbolic tensors (images, output), with a layer `"input_range"` behind the images.

    Raises:
        ValueError: If the range is of color images and the model takes others.
    """
    return with_convention(model, *input_convention(input_range), f"input range {input_range!r}")


def with_convention(model, scale, mean, reverse_channels, what):
    """As `with_input_range`, for the arguments of `InputConvention`; `what` names them in messages."""
    images = model.inputs[0]
    if len(mean) not in (1, images.shape[-1]):
        raise ValueError(
            f"The {what} is for color images. Received: a backbone that takes {images.shape[-1]} channels. Expected: "
            f"{len(mean)}."
        )
    inputs = keras.Input(tuple(images.shape[1:]), name="images")
    convention = InputConvention(scale, mean, reverse_channels, name="input_range")
    return inputs, call_with_images(model, convention(inputs))


def call_with_images(model, images, **options):
    """The only output of a model whose only input may have a name, as those of KerasHub have."""
    structure = getattr(model, "input", None) if not isinstance(model, keras.Sequential) else None
    outputs = model({key: images for key in structure} if isinstance(structure, dict) else images, **options)
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def check_fits_first_layer(model: keras.Model, input_range: InputRange) -> None:
    """Raises a ValueError if a model begins with a layer that is for images of other magnitude."""
    given = check_input_range(input_range)
    try:
        expected, name = expected_range(model)
    except ValueError:  # Nothing tells.
        return
    # What is recognized by names, or adapted to data, may be used otherwise.
    first = next((layer for layer in model.layers if layer.name == name), None)
    if type(first).__name__ == "Rescaling":
        fits = _is_of_bytes(given) == _is_of_bytes(expected)
    elif isinstance(first, InputConvention):
        fits = given == UNIT_RANGE
    else:
        return
    if not fits:
        raise ValueError(
            f"The input range does not fit the first layer of the backbone, {name!r}. Received: input_range="
            f"{input_range!r}. Expected: {expected}, or None to use what the layer expects."
        )


def _is_of_bytes(input_range):
    if isinstance(input_range, str):
        return input_range == "caffe"
    return max(map(abs, input_range)) > _LARGEST_OF_FLOATS
