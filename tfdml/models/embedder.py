"""Embedders: from an image to a point in the embedding space."""

from __future__ import annotations

import functools
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from tfdml import backbones
from tfdml._utils.types import Batches, Config, InputRange, Shape, TensorLike
from tfdml.layers import L2Clip, L2Normalization
from tfdml.layers import pooling as poolings
from tfdml.models.batches import check_finite_embeddings, check_images, data_errors, image_batches
from tfdml.models.distribution import Workers
from tfdml.ops import UNIT_RANGE, check_input_range, input_convention

_NORMALIZATIONS = {"l2": L2Normalization, "clip": L2Clip}


def build_embedder(
    backbone: str | keras.Model,
    pooling: str | keras.layers.Layer = "gap",
    embedding_size: int = 128,
    normalization: str | keras.layers.Layer | None = "l2",
    input_shape: Shape | None = None,
    pooling_options: Config | None = None,
    name: str = "embedder",
    embed_before_pooling: bool = True,
    input_range: InputRange | None = None,
) -> keras.Model:
    r"""Builds an embedder: backbone → 1×1 convolution → pooling → normalisation.

    The convolution brings every local feature to the size of the embedding before pooling. With average pooling
    that is the usual fully connected layer after it, since both are linear; with poolings that are not linear it is
    another network, which `embed_before_pooling=False` builds.

    Args:
        backbone: A name of `tfdml.backbones.names()`, or a model from images to a feature map
            `(b, h, w, channels)`. Channels come last, whatever Keras' global image data format is.
        pooling: A name of `tfdml.layers.pooling.names()`, or a layer from `(b, h, w, c)` to `(b, d)`.
        embedding_size: Size of the local features that are pooled, and of the embedding unless the pooling gives
            another: NetVLAD and optimal-transport pooling give one vector for each of their prototypes.
        normalization: `"l2"` (unit length), `"clip"` (at most unit length), a layer, or `None`.
        input_shape: `(height, width, channels)` of the images, for a backbone given by name.
        pooling_options: Arguments of a pooling layer given by name.
        name: The model's name.
        embed_before_pooling: Whether local features are brought to the size of the embedding, or what is pooled of
            them: backbone → pooling → fully connected layer → normalisation.
        input_range: What the backbone expects of images, `(low, high)` or a mode of `keras.applications` (`"caffe"`,
            `"tf"`, `"torch"`). `None` recognizes a network of `keras.applications`, a `Rescaling` or a `Normalization`
            at the start of the backbone, and is (0, 1) for other networks. The embedder scales images to this range.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1 whatever the backbone expects, to embeddings `(b, d)`,
        with layers named `"embedding"`, `"pooling"` and, if there is one, `"normalization"`. A backbone that expects
        another range is one layer of it, behind the layer `"input_range"`.

    Raises:
        ValueError: If a name is unknown, the embedding size is not positive, the backbone takes integers or gives no
            feature map with its channels last, or `input_range` is needed and not given.
    """
    if int(embedding_size) != embedding_size or embedding_size < 1:
        raise ValueError(f"embedding_size must be a positive integer. Received: embedding_size={embedding_size!r}.")
    if isinstance(backbone, str):
        if input_shape is None:
            raise ValueError(f"A backbone given by name needs an input_shape. Received: backbone={backbone!r}.")
        backbone = backbones.get(backbone, input_shape)
    if len(backbone.outputs[0].shape) != 4:
        raise ValueError(
            "The backbone must give a feature map (b, h, w, channels). "
            f"Received: an output of shape {tuple(backbone.outputs[0].shape)}."
        )
    _check_channels_last(backbone)
    inputs, features = _with_input_range(backbone, input_range)
    pooling = _resolve_pooling(pooling, pooling_options or {})
    if embed_before_pooling:
        embed_places = keras.layers.Conv2D(int(embedding_size), 1, data_format="channels_last", name="embedding")
        features = embed_places(features)
    embeddings = pooling(features)
    if isinstance(embeddings, (list, tuple)):
        # The attributes are there for `with_attributes`; the embedder itself gives embeddings alone.
        embeddings = embeddings[0]
    if not embed_before_pooling:
        embeddings = keras.layers.Dense(int(embedding_size), name="embedding")(embeddings)
    if normalization is not None:
        embeddings = resolve_normalization(normalization)(embeddings)
    return keras.Model(inputs, embeddings, name=name)


def _with_input_range(backbone, input_range):
    """The input, in 0–1, and the feature map of a backbone that expects this range."""
    images = backbone.inputs[0]
    if not tf.as_dtype(images.dtype).is_floating:
        raise ValueError(
            f"Embedders take float images in 0–1. Received: a backbone that takes {tf.as_dtype(images.dtype).name}. "
            "Expected: a backbone with a float input, keras.Input(shape)."
        )
    if input_range is None:
        input_range = backbones.expected_range(backbone)[0] or UNIT_RANGE
    scale, mean, reverse_channels = input_convention(input_range)
    if check_input_range(input_range) == UNIT_RANGE:
        return images, backbone.outputs[0]
    if len(mean) not in (1, images.shape[-1]):
        raise ValueError(
            f"The input range {input_range!r} is for color images. Received: a backbone that takes "
            f"{images.shape[-1]} channels. Expected: {len(mean)}."
        )
    inputs = keras.Input(images.shape[1:], name="images")
    convention = backbones.InputConvention(scale, mean, reverse_channels, name="input_range")
    features = backbone(convention(inputs))
    return inputs, features[0] if isinstance(features, (list, tuple)) else features


def _check_channels_last(backbone):
    """Raises a ValueError if the last layer with a data format puts the channels first, and no layer permutes them."""
    for layer in reversed(getattr(backbone, "layers", [])):
        if isinstance(layer, keras.layers.Permute):
            return
        data_format = getattr(layer, "data_format", None)
        if data_format is not None:
            break
    else:
        return
    if data_format == "channels_first":
        raise ValueError(
            "The backbone's feature map must have its channels last. Received: a backbone whose layer "
            f"{layer.name!r} has data_format='channels_first'. Expected: layers with data_format='channels_last'; call "
            "keras.config.set_image_data_format('channels_last') (keras.backend.… in Keras 2) before building it."
        )


def _resolve_pooling(choice, options):
    if isinstance(choice, keras.layers.Layer):
        if options:
            raise ValueError(f"Options go with a pooling's name. Received: options {options} with a layer.")
        return choice
    return poolings.get(choice, name="pooling", **options)


def resolve_normalization(choice):
    """The layer that normalises embeddings, from its name (`"l2"`, `"clip"`) or itself."""
    if isinstance(choice, keras.layers.Layer):
        return choice
    if choice not in _NORMALIZATIONS:
        raise ValueError(
            f"Unknown normalization. Received: {choice!r}; expected one of {sorted(_NORMALIZATIONS)} or a layer."
        )
    return _NORMALIZATIONS[choice](name="normalization")


def largest_distance(embedder, distance="l2"):
    """The largest distance that two embeddings can have, or None if there is no bound that the last layer tells.

    Args:
        embedder: The model.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`.
    """
    if distance == "cosine":
        return 2.0
    last = embedder.layers[-1] if embedder.layers else None
    if not isinstance(last, (L2Normalization, L2Clip)):
        return None
    diameter = 2.0 * getattr(last, "max_norm", 1.0)
    return diameter**2 if distance == "squared_l2" else diameter


def local_features(embedder: keras.Model) -> keras.Model:
    """The part of an embedder up to its pooling: a model from images to what the pooling layer receives.

    Args:
        embedder: A model with a layer named `"pooling"`, as `build_embedder` gives.

    Returns:
        A functional `keras.Model` that shares the embedder's weights.

    Raises:
        ValueError: If the embedder has no layer named `"pooling"`.
    """
    return keras.Model(embedder.input, _pooling_layer(embedder).input)


def with_attributes(embedder: keras.Model) -> keras.Model:
    """An embedder that gives the attributes of its pooling, too.

    Args:
        embedder: A model whose layer named `"pooling"` gives attributes, as `GeneralizedSumPooling(...,
            return_attributes=True)` does.

    Returns:
        A functional `keras.Model` from images to embeddings and attributes, `(b, dim)` and `(b, prototypes)`, that
        shares the embedder's weights.

    Raises:
        ValueError: If there is no such layer, or it gives no attributes.
    """
    output = _pooling_layer(embedder).output
    if not isinstance(output, (list, tuple)):
        raise ValueError(
            "The pooling layer gives no attributes; GeneralizedSumPooling does with return_attributes=True, of average "
            f"pooling with ratio=1.0. Received: {type(_pooling_layer(embedder)).__name__}."
        )
    return keras.Model(embedder.input, [embedder.output, output[1]], name=f"{embedder.name}_with_attributes")


def _pooling_layer(embedder):
    names = [layer.name for layer in embedder.layers]
    if "pooling" not in names:
        raise ValueError(f"The embedder has no layer named 'pooling'. Received: a model with layers {names}.")
    return embedder.get_layer("pooling")


def adapt_pooling(embedder: keras.Model, images: Batches, **options: Any) -> None:
    """Starts the prototypes of an embedder's pooling from its own local features.

    Args:
        embedder: A model whose layer `"pooling"` is a `PrototypePooling`, such as `GeneralizedSumPooling`.
        images: An array of images, or finite batches of images or of (images, labels), as for `embed`.
        **options: Arguments of `PrototypePooling.adapt`.

    Raises:
        ValueError: If the pooling layer has nothing to adapt, or the dataset is endless.
    """
    pooling = _pooling_layer(embedder)
    if not hasattr(pooling, "adapt"):
        raise ValueError(f"The pooling layer has no prototypes to adapt. Received: {type(pooling).__name__}.")
    features = local_features(embedder)
    pooling.adapt((features(batch, training=False) for batch, _ in image_batches(images)), **options)


def calibrate_batch_norm(embedder: keras.Model, images: Batches) -> None:
    """Brings the moving statistics of batch normalisation to those of the data, and changes nothing else.

    A network that is trained from scratch starts with statistics that belong to no data: at inference its features, and
    what is chosen from them (prototypes, the first proxies), would be far from those that training sees.

    Args:
        embedder: A model from images to embeddings.
        images: An array of images, or finite batches of images, as for `embed`; some tens of batches are enough.

    Raises:
        ValueError: If the dataset is endless.
    """
    forward = tf.function(lambda batch: embedder(batch, training=True), reduce_retracing=True)
    for batch, _ in image_batches(images):
        check_images(embedder, batch)
        forward(batch)


def pooling_maps(embedder: keras.Model, images: TensorLike) -> np.ndarray:
    """How much each place of an image counts in its embedding.

    Args:
        embedder: A model as `build_embedder` gives.
        images: `(b, h, w, channels)`.

    Returns:
        NumPy array of weights `(b, h', w')` over the feature map; those of an image sum to 1. A pooling layer without
        `pooling_weights` is taken for average pooling.
    """
    pooling = _pooling_layer(embedder)
    check_images(embedder, tf.convert_to_tensor(images))
    features = local_features(embedder)(tf.convert_to_tensor(images), training=False)
    if hasattr(pooling, "pooling_weights"):
        return np.asarray(pooling.pooling_weights(features), np.float32)
    batch, height, width, _ = features.shape
    return np.full((batch, height, width), 1.0 / (height * width), np.float32)


def inference_function(
    embedder: keras.Model, workers: Workers | None = None, run_eagerly: bool = False
) -> Callable[..., Any]:
    """The embedder as one graph from images to float32 embeddings, for those who embed again and again.

    Args:
        embedder: A model from images to embeddings.
        workers: The `Workers` whose replicas share each batch; `None` embeds on one device.
        run_eagerly: bool. Leave out the graph, on one device.
    """

    def forward(images):
        check_images(embedder, images)
        return tf.cast(embedder(images, training=False), tf.float32)

    if workers is None or workers.is_single:
        return forward if run_eagerly else tf.function(forward, reduce_retracing=True)

    @functools.partial(tf.function, reduce_retracing=True)
    def on_replicas(parts):
        return tf.concat(workers.strategy.experimental_local_results(workers.strategy.run(forward, (parts,))), axis=0)

    def embed_on_replicas(images):
        return on_replicas(workers.split(images))

    embed_on_replicas.get_concrete_function = on_replicas.get_concrete_function
    return embed_on_replicas


def embed(
    embedder: keras.Model | Callable[[tf.Tensor], tf.Tensor], data: Batches, batch_size: int = 256
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Embeds a whole dataset.

    Args:
        embedder: A model from images to embeddings, or what `inference_function` made of one.
        data: An array of images or a pair of arrays (images, labels); or a finite `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a generator or another iterable of batches of images or of (images, labels).
        batch_size: For arrays.

    Returns:
        Embeddings, float32 `(n, d)`; with labels the pair (embeddings, labels `(n,)`).

    Raises:
        ValueError: If the dataset is empty or endless; an image or an embedding is not finite; the images do not fit
            the embedder, or are integers, which are not cast to the floats in 0–1 that an embedder takes.
    """
    forward = embedder if hasattr(embedder, "get_concrete_function") else inference_function(embedder)
    embeddings, labels = [], []
    for images, batch_labels in image_batches(data, batch_size):
        with data_errors():
            embeddings.append(np.asarray(forward(images)))
        if batch_labels is not None:
            labels.append(batch_labels)
    if not embeddings:
        raise ValueError("There is nothing to embed. Received: a dataset without a batch.")
    embeddings = np.concatenate(embeddings)
    check_finite_embeddings(embeddings)
    return (embeddings, np.concatenate(labels)) if labels else embeddings
