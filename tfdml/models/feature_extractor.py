"""Turn frozen networks of any kind into functions from images to features."""

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
    """Frozen network and the batches of preprocessed images that it expects.

    Attributes:
        forward: Function from a batch of images to features.
        batches: Function from a dataset and a batch size to batches of its images, preprocessed for the network.
        images: dict. Preprocessing and scale of the images, for the record.
        tokens: `TokenLayout` of the network's tokens, or `None` if it is unknown.
    """

    forward: Callable
    batches: Callable
    images: dict
    tokens: TokenLayout | None = None


def refuse(options, name, kind):
    """Raise a ValueError if options are given that do not apply to this kind of network."""
    if options:
        raise ValueError(f"{name} does not apply to {kind}. Received: {name}={options}. Expected: no {name}.")


def backbone_extractor(name, dataset, given, options, output):
    """Make an extractor of a backbone given by name; `options` must name its weights.

    Other arguments as for `keras_extractor`.
    """
    if not options.get("weights", PRETRAINED if name.lower().startswith(PREFIX) else None):
        raise ValueError(
            f"The initial weights of a backbone are random. Received: {name!r} without backbone_options.weights. "
            "Expected: weights, or the folder of a training run."
        )
    if given.get("scale", "0-1") != "0-1":
        raise ValueError(
            "A backbone given by name scales images itself. Received: "
            f"scale={given['scale']!r} with {name!r}. Expected: no scale, or '0-1'."
        )
    preprocessing = _preprocessing((None, None, None), dataset, given)
    backbone = backbones.get(name, preprocessing.image_shape, **options)
    return keras_extractor(backbone, dataset, given, output)


def keras_extractor(model, dataset, given, output):
    """Make an extractor of a Keras model of images.

    Args:
        model: `keras.Model`. For a model with an attribute `embedder`, the embedder is used.
        dataset: `LabeledImages` to extract features of.
        given: dict. Those of `size`, `channels`, `short_side` and `scale` that the user gave.
        output: str. Name of an output or a layer. `None` uses the only output.
    """
    # A MetricModel trains an embedder; the features are the embedder's.
    model = image_tower(getattr(model, "embedder", model))
    inputs = _tensors(model, "inputs")
    if len(inputs) > 1:
        raise ValueError(
            f"The model has several inputs. Received: {model.name!r} with {len(inputs)} inputs. Expected: one."
        )
    shape, input_dtype = (tuple(inputs[0].shape), tf.as_dtype(inputs[0].dtype)) if inputs else (None, tf.float32)
    model = with_output(model, output)
    network = _extractor(
        lambda images: call_with_images(model, images, training=False), shape, input_dtype, dataset, given
    )
    return network._replace(tokens=token_layout(model) if _tensors(model, "outputs") else None)


def with_output(model, output):
    """Return the model with a single output: its only one, or the output or layer of this name."""
    outputs = _tensors(model, "outputs")
    if not outputs:
        # A subclassed model has no symbolic outputs to select from.
        refuse(output, "output", "a model without a graph of layers")
        return model
    # In Keras 3 the output of a Sequential has no name.
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
    """Return the symbolic inputs or outputs of a model; a subclassed model has none."""
    try:
        return list(getattr(model, attribute) or [])
    except (AttributeError, ValueError):
        return []


def _check_single(names):
    if len(names) != 1:
        raise ValueError(f"The model has several outputs. Received: output=None. Expected: one of {sorted(names)}.")


def saved_model_extractor(loaded, path, dataset, given, output):
    """Make an extractor of the signature `serving_default` of a loaded SavedModel.

    Other arguments as for `keras_extractor`.
    """
    if _SIGNATURE not in loaded.signatures:
        raise ValueError(
            f"The SavedModel has no signature {_SIGNATURE!r}. Received: {path} with the signatures "
            f"{sorted(loaded.signatures)}."
        )
    signature = loaded.signatures[_SIGNATURE]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise ValueError(
            f"The SavedModel has several inputs. Received: {path} with the inputs {sorted(inputs)}. Expected: one."
        )
    ((name, spec),) = inputs.items()
    if output is None:
        _check_single(list(signature.structured_outputs))
        (output,) = signature.structured_outputs
    elif output not in signature.structured_outputs:
        raise ValueError(
            f"The SavedModel has no such output. Received: output={output!r}. Expected: one of "
            f"{sorted(signature.structured_outputs)}."
        )

    def forward(images, loaded=loaded):
        # A signature keeps its variables alive only while the loaded model is alive.
        return loaded.signatures[_SIGNATURE](**{name: images})[output]

    shape = None if spec.shape.rank is None else tuple(spec.shape)
    return _extractor(forward, shape, spec.dtype, dataset, given)


def _extractor(forward, shape, input_dtype, dataset, given):
    """Make an extractor from a function of images of a shape (`None` for any), dtype and the given scale."""
    if shape is not None and (len(shape) != 4 or shape[0] is not None):
        raise ValueError(
            f"The input of the model is not a batch of images. Received: an input of shape {shape}. Expected: "
            "(None, height, width, channels)."
        )
    if not (input_dtype.is_floating or input_dtype.is_integer):
        raise ValueError(
            f"The input of the model is not numeric. Received: {input_dtype.name}. Expected: floats or integers."
        )
    scale = given.get("scale", "0-1")
    if input_dtype.is_integer and scale != "0-255":
        raise ValueError(
            f"A model with integer input needs the scale 0-255. Received: scale={scale!r} and an input of type "
            f"{input_dtype.name}. Expected: scale='0-255'."
        )
    preprocessing = _preprocessing((None, None, None) if shape is None else shape[1:], dataset, given)

    def scaled(images):
        if scale == "0-255":
            images = images * 255.0
        elif scale == "-1-1":
            images = images * 2.0 - 1.0
        return tf.cast(tf.round(images) if input_dtype.is_integer else images, input_dtype)

    return FeatureExtractor(
        lambda images: forward(scaled(images)),
        lambda images, batch_size: data.evaluation_batches(images, batch_size, preprocessing),
        {"preprocessing": preprocessing.config(), "scale": scale},
    )


def _preprocessing(shape, dataset, given):
    """Choose the preprocessing: what the user gave, else the model's input shape, else the images' own shape."""
    size = given.get("size")
    wanted = (*((size, size) if isinstance(size, int) else size or (None, None)), given.get("channels"))
    for name, ours, of_model in zip(("height", "width", "channels"), wanted, shape):
        if None not in (ours, of_model) and ours != of_model:
            raise ValueError(
                f"{name} does not match the model's input. Received: {name}={ours}. Expected: {of_model}."
            )
    own = dataset.image_shape or (None, None, None)
    height, width, channels = (next((n for n in side if n is not None), None) for side in zip(wanted, shape, own))
    if height is None or width is None or channels is None:
        raise ValueError(
            "Neither the model nor the dataset fixes the image shape. "
            f"Received: size={size}, channels={given.get('channels')}. Expected: both."
        )
    return data.Preprocessing((height, width), channels, given.get("short_side"))


def feature_pooling(name, layout=None, skip_tokens=None, token_grid=None):
    """Return a function from a network's output to float32 vectors.

    Args:
        name: str. Pooling without trainable weights, for feature maps and tokens; for tokens also `"cls"` or
            `"cls+NAME"`, the concatenation of the class token and the pooled patch tokens. `None` means `"gap"`.
        layout: Known `TokenLayout` of the network, or `None`.
        skip_tokens: int. As for `build_embedder`.
        token_grid: `(height, width)`. As for `build_embedder`.
    """
    has_class_token, layer = resolve_pooling("gap" if name is None else name, {})
    of_tokens = [("pooling", name)] * has_class_token + [("skip_tokens", skip_tokens), ("token_grid", token_grid)]

    def pool(values):
        values = tf.cast(values, tf.float32)
        rank = values.shape.rank
        if rank == 2:
            refuse(name, "pooling", "a network that returns vectors")
        if rank in (2, 4):
            for option, value in of_tokens:
                refuse(value, option, "a network without tokens")
        if rank == 2:
            return values
        if rank not in (3, 4):
            raise ValueError(
                f"The output of the network is not a feature. Received: {values.shape}. Expected: vectors (b, d), a "
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
                raise ValueError(f"This pooling has trainable weights. Received: pooling={name!r}.")
        return tf.concat(parts, axis=-1)

    return pool
