"""Networks of any kind, frozen, as functions from images to features."""

from __future__ import annotations

from typing import Callable, NamedTuple

import keras
import tensorflow as tf

from tfdml import backbones, data
from tfdml._utils.naming import unknown_name
from tfdml.layers import pooling as poolings

_SIGNATURE = "serving_default"


class FeatureExtractor(NamedTuple):
    """A network that is ready.

    Attributes:
        forward: From a batch of images to features.
        batches: From a batch size to batches of the images that it was made for.
        images: dict. The preprocessing and the scale of the images, for the record.
    """

    forward: Callable
    batches: Callable
    images: dict


def refuse(options, name, kind):
    """Raises a ValueError if there are options, which do not go with this kind of network."""
    if options:
        raise ValueError(f"This does not go with {kind}. Received: {name}={options}.")


def backbone_extractor(name, dataset, given, options, output):
    """A backbone by name, with the weights that its options name; arguments as for `keras_extractor`."""
    if not options.get("weights"):
        raise ValueError(
            f"The first weights of a backbone are random. Received: {name!r} without backbone_options.weights; "
            "expected weights, or the folder of a run."
        )
    if given.get("scale", "0-1") != "0-1":
        raise ValueError(
            f"The backbone brings images to what its weights expect. Received: scale={given['scale']!r} with {name!r}."
        )
    preprocessing = _preprocessing((None, None, None), dataset, given)
    backbone = backbones.get(name, preprocessing.image_shape, **options)
    return keras_extractor(backbone, dataset, given, output)


def keras_extractor(model, dataset, given, output):
    """A Keras model of images.

    Args:
        model: The model; of one that trains an embedder, the embedder.
        dataset: The `LabeledImages` that go through it.
        given: dict. What is given of `size`, `channels`, `short_side` and `scale`.
        output: Name of an output or of a layer. `None` is the only output.
    """
    # What trains an embedder is no embedder.
    model = getattr(model, "embedder", model)
    inputs = _tensors(model, "inputs")
    if len(inputs) > 1:
        raise ValueError(f"Received: a model with {len(inputs)} inputs, {model.name!r}; expected one, of images.")
    shape, input_dtype = (tuple(inputs[0].shape), tf.as_dtype(inputs[0].dtype)) if inputs else (None, tf.float32)
    model = with_output(model, output)
    return _extractor(lambda images: model(images, training=False), shape, input_dtype, dataset, given)


def with_output(model, output):
    """The model with one output: its only one, or the one of this name, which can be that of a layer."""
    outputs = _tensors(model, "outputs")
    if not outputs:
        # Its code alone tells what it gives.
        refuse(output, "output", "a model without a graph of layers")
        return model
    # A Sequential of Keras 3 has one output without a name.
    output_names = list(getattr(model, "output_names", None) or [model.layers[-1].name])
    if output is None:
        _check_single(output_names)
        return model
    if output in output_names:
        return keras.Model(model.inputs[0], outputs[output_names.index(output)])
    names = [layer.name for layer in model.layers]
    if output not in names:
        raise unknown_name("output or layer", output, [*output_names, *names])
    value = model.get_layer(output).output
    return keras.Model(model.inputs[0], value[0] if isinstance(value, (list, tuple)) else value)


def _tensors(model, attribute):
    """The symbolic inputs or outputs of a model, none for one that has only code."""
    try:
        return list(getattr(model, attribute) or [])
    except (AttributeError, ValueError):
        return []


def _check_single(names):
    if len(names) != 1:
        raise ValueError(f"The model has several outputs. Received: output=None; expected one of {sorted(names)}.")


def saved_model_extractor(loaded, path, dataset, given, output):
    """The signature `serving_default` of a loaded SavedModel; other arguments as for `keras_extractor`."""
    if _SIGNATURE not in loaded.signatures:
        raise ValueError(
            f"The SavedModel has no signature {_SIGNATURE!r}. Received: {path} with {sorted(loaded.signatures)}."
        )
    signature = loaded.signatures[_SIGNATURE]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise ValueError(f"Received: {path} with the inputs {sorted(inputs)}; expected one, of images.")
    ((name, spec),) = inputs.items()
    if output is None:
        _check_single(list(signature.structured_outputs))
        (output,) = signature.structured_outputs
    elif output not in signature.structured_outputs:
        raise ValueError(
            f"There is no such output. Received: output={output!r}; expected one of "
            f"{sorted(signature.structured_outputs)}."
        )

    def forward(images, loaded=loaded):
        # The signature holds its variables only as long as the model lives.
        return loaded.signatures[_SIGNATURE](**{name: images})[output]

    shape = None if spec.shape.rank is None else tuple(spec.shape)
    return _extractor(forward, shape, spec.dtype, dataset, given)


def _extractor(forward, shape, input_dtype, dataset, given):
    """A network that takes images of a shape (None: any) and a type, on the scale that is given."""
    if shape is not None and (len(shape) != 4 or shape[0] is not None):
        raise ValueError(f"Received: a model with an input of shape {shape}; expected images (None, h, w, channels).")
    if not (input_dtype.is_floating or input_dtype.is_integer):
        raise ValueError(f"Received: a model that takes {input_dtype.name}; expected images as numbers.")
    scale = given.get("scale", "0-1")
    if input_dtype.is_integer and scale != "0-255":
        raise ValueError(f"Received: scale={scale!r} with a model that takes {input_dtype.name}; expected '0-255'.")
    preprocessing = _preprocessing((None, None, None) if shape is None else shape[1:], dataset, given)

    def scaled(images):
        if scale == "0-255":
            images = images * 255.0
        elif scale == "-1-1":
            images = images * 2.0 - 1.0
        return tf.cast(tf.round(images) if input_dtype.is_integer else images, input_dtype)

    return FeatureExtractor(
        lambda images: forward(scaled(images)),
        lambda batch_size: data.evaluation_batches(dataset, batch_size, preprocessing),
        {"preprocessing": preprocessing.config(), "scale": scale},
    )


def _preprocessing(shape, dataset, given):
    """From what is given, what the model takes and what the images are, in this order."""
    size = given.get("size")
    wanted = (*((size, size) if isinstance(size, int) else size or (None, None)), given.get("channels"))
    for name, ours, of_model in zip(("height", "width", "channels"), wanted, shape):
        if None not in (ours, of_model) and ours != of_model:
            raise ValueError(f"Received: {name} {ours}; expected {of_model}, which is what the model takes.")
    own = dataset.image_shape or (None, None, None)
    height, width, channels = (next((n for n in side if n is not None), None) for side in zip(wanted, shape, own))
    if None in (height, width, channels):
        raise ValueError(
            "The model takes images of any shape, and images in files can have any. "
            f"Received: size={size}, channels={given.get('channels')}; expected both to be given."
        )
    return data.Preprocessing((height, width), channels, given.get("short_side"))


def feature_pooling(name):
    """A function from the network's output to vectors, float32."""
    layer = poolings.get("gap" if name is None else name)

    def pool(values):
        values = tf.cast(values, tf.float32)
        if values.shape.rank == 2:
            refuse(name, "pooling", "a network that gives vectors")
            return values
        if values.shape.rank != 4:
            raise ValueError(f"Received: a network that gives {values.shape}; expected (b, d) or a map (b, h, w, c).")
        vectors = layer(values)
        if any(len(weight.shape) for weight in layer.weights):
            raise ValueError(f"This pooling has weights that must be trained. Received: pooling={name!r}.")
        return vectors

    return pool
