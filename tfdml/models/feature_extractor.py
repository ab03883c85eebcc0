"""Networks of any kind, frozen, as functions from images to features."""

from __future__ import annotations

from typing import Callable, NamedTuple

import keras
import tensorflow as tf

from tfdml import backbones, data
from tfdml._utils.naming import unknown_name
from tfdml.backbones.hub_models import PREFIX, PRETRAINED, image_tower
from tfdml.backbones.input_range import call_with_images
from tfdml.backbones.token_layout import TokenLayout, resolve_token_layout, token_layout
from tfdml.models.embedder import resolve_pooling

_SIGNATURE = "serving_default"


class FeatureExtractor(NamedTuple):
    """A network that is ready.

    Attributes:
        forward: From a batch of images to features.
        batches: From a batch size to batches of the images that it was made for.
        images: dict. The preprocessing and the scale of the images, for the record.
        tokens: The layout of its tokens, if the network tells.
    """

    forward: Callable
    batches: Callable
    images: dict
    tokens: TokenLayout | None = None


def refuse(options, name, kind):
    """Raises a ValueError if there are options, which do not go with this kind of network."""
    if options:
        raise ValueError(f"This does not go with {kind}. Received: {name}={options}.")


def backbone_extractor(name, dataset, given, options, output):
    """A backbone by name, with the weights that its options name; arguments as for `keras_extractor`."""
    if not options.get("weights", PRETRAINED if name.lower().startswith(PREFIX) else None):
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
    model = image_tower(getattr(model, "embedder", model))
    inputs = _tensors(model, "inputs")
    if len(inputs) > 1:
        raise ValueError(f"Received: a model with {len(inputs)} inputs, {model.name!r}; expected one, of images.")
    shape, input_dtype = (tuple(inputs[0].shape), tf.as_dtype(inputs[0].dtype)) if inputs else (None, tf.float32)
    model = with_output(model, output)
    network = _extractor(
        lambda images: call_with_images(model, images, training=False), shape, input_dtype, dataset, given
    )
    return network._replace(tokens=token_layout(model) if _tensors(model, "outputs") else None)


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
    if height is None or width is None or channels is None:
        raise ValueError(
            "The model takes images of any shape, and images in files can have any. "
            f"Received: size={size}, channels={given.get('channels')}; expected both to be given."
        )
    return data.Preprocessing((height, width), channels, given.get("short_side"))


def feature_pooling(name, layout=None, skip_tokens=None, token_grid=None):
    """Returns a function from the output of a network to vectors, float32.

    Args:
        name: Name of a pooling without trainable weights, for feature maps and tokens; of tokens also `"cls"` or
            `"cls+NAME"`, the concatenation of the class token and the pooled patch tokens. `None` is `"gap"`.
        layout: `TokenLayout` that the network tells, or `None`.
        skip_tokens: int. As for `build_embedder`.
        token_grid: `(height, width)`. As for `build_embedder`.
    """
    has_class_token, layer = resolve_pooling("gap" if name is None else name, {})
    of_tokens = [("pooling", name)] * has_class_token + [("skip_tokens", skip_tokens), ("token_grid", token_grid)]

    def pool(values):
        values = tf.cast(values, tf.float32)
        rank = values.shape.rank
        if rank == 2:
            refuse(name, "pooling", "a network that gives vectors")
        if rank in (2, 4):
            for option, value in of_tokens:
                refuse(value, option, "a network without tokens")
        if rank == 2:
            return values
        if rank not in (3, 4):
            raise ValueError(
                f"The output of the network is of no use. Received: {values.shape}. Expected: vectors (b, d), a "
                "feature map (b, h, w, c) or tokens (b, n, c)."
            )
        parts = []
        if rank == 3:
            skip, grid = resolve_token_layout(values.shape[1], skip_tokens, token_grid, layout)
            if has_class_token:
                if not skip:
                    raise ValueError(f"There is no class token. Received: pooling={name!r} with skip_tokens=0.")
                parts.append(values[:, 0])
            values = values[:, skip:]
            if grid is not None:
                values = tf.reshape(values, (-1, *grid, values.shape[-1]))
        if layer is not None:
            parts.append(layer(values))
            if any(len(weight.shape) for weight in layer.weights):
                raise ValueError(f"This pooling has weights that must be trained. Received: pooling={name!r}.")
        return tf.concat(parts, axis=-1)

    return pool
