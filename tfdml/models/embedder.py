"""Embedders: from an image to a point in the embedding space."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from tfdml import backbones
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Batches, Config, InputRange, Shape, TensorLike
from tfdml.backbones.hub_models import image_tower
from tfdml.backbones.input_range import call_with_images, check_fits_first_layer, with_input_range
from tfdml.backbones.token_layout import resolve_token_layout
from tfdml.layers import ClassToken, L2Clip, L2Normalization, PatchTokens
from tfdml.layers import pooling as poolings
from tfdml.models.batches import check_finite_embeddings, check_images, data_errors, image_batches
from tfdml.models.distribution import Workers
from tfdml.ops import UNIT_RANGE, check_input_range

_OWN_LAYERS = {
    "class_embedding", "class_token", "concatenation", "embedding", "normalization", "patches", "pooling",
}  # fmt: skip
_NORMALIZATIONS = {"l2": L2Normalization, "clip": L2Clip}


def build_embedder(
    backbone: str | keras.Model,
    pooling: str | keras.layers.Layer | Sequence[Any] = "gap",
    embedding_size: int = 128,
    normalization: str | keras.layers.Layer | None = "l2",
    input_shape: Shape | None = None,
    pooling_options: Config | None = None,
    name: str = "embedder",
    embed_before_pooling: bool = True,
    input_range: InputRange | None = None,
    skip_tokens: int | None = None,
    token_grid: Shape | None = None,
) -> keras.Model:
    r"""Builds an embedder: backbone → 1×1 convolution → pooling → normalization.

    The convolution brings every local feature to the size of the embedding before pooling. With average pooling
    that is the usual fully connected layer after it, since both are linear; with poolings that are not linear it is
    another network, which `embed_before_pooling=False` builds.

    A backbone that gives tokens `(b, n, c)`, such as a vision transformer, has its patch tokens put back on their grid,
    so they are pooled as a feature map; without a known grid they are pooled as a bag, and the convolution is a dense
    layer. With `pooling="cls"` the embedding is the class token behind a dense layer. With `"cls+gap"`, `"cls+gsp"` and
    so on, class token and patch tokens are brought to half the size of the embedding each, by layers of their own; the
    patch tokens are pooled, and both halves are concatenated, then normalized together. With
    `embed_before_pooling=False` the class token and the pooled patch tokens are concatenated as they are, and one dense
    layer embeds both.

    Args:
        backbone: A name that `tfdml.backbones.get` takes, or a model from images to a feature map
            `(b, h, w, channels)` or tokens `(b, n, channels)`. Channels come last, whatever Keras' global image data
            format is.
        pooling: A name of `tfdml.layers.pooling.names()`, or a layer from `(b, h, w, c)` to `(b, d)`. Of tokens also
            `"cls"`, `"cls+NAME"` or `["cls", layer]`.
        embedding_size: Size of the local features that are pooled, and of the embedding unless the pooling gives
            another: NetVLAD and optimal-transport pooling give one vector for each of their prototypes.
        normalization: `"l2"` (unit length), `"clip"` (at most unit length), a layer, or `None`.
        input_shape: `(height, width, channels)` of the images, for a backbone given by name.
        pooling_options: Arguments of a pooling layer given by name.
        name: The model's name.
        embed_before_pooling: Whether local features are brought to the size of the embedding, or what is pooled of
            them: backbone → pooling → fully connected layer → normalization.
        input_range: What the backbone expects of images, `(low, high)` or a mode (`"caffe"`, `"tf"`, `"torch"` of
            `keras.applications`; `"clip"`). `None` recognizes a network of `keras.applications`, a vision transformer
            of KerasHub, a `Rescaling` or a `Normalization` at the start of the backbone, and is (0, 1) for other
            networks. The embedder scales images to this range.
        skip_tokens: int. Number of leading tokens that are not patches: the class token and register tokens. `None`
            infers it for models of KerasHub or from `token_grid`; otherwise it is 0 if the number of tokens is square
            or unknown.
        token_grid: `(height, width)`. Grid of the patch tokens. `None` infers it for models of KerasHub, and is a
            square for others if the number of patch tokens is one.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1 whatever the backbone expects, to embeddings `(b, d)`,
        with layers named `"embedding"`, `"pooling"` and, if there is one, `"normalization"`; of a class token with a
        pooling also `"class_embedding"`. A backbone that expects another range is one layer of it, behind the layer
        `"input_range"`.

    Raises:
        ValueError: If a name is unknown, the embedding size is not positive, the backbone takes integers, has several
            outputs or gives neither a feature map nor tokens with a known number of channels, the tokens do not fit
            what is given of them, or `input_range` is needed and not given, or contradicts the first layer.
    """
    embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
    if isinstance(backbone, str):
        if input_shape is None:
            raise ValueError(f"A backbone given by name needs an input_shape. Received: backbone={backbone!r}.")
        backbone = backbones.get(backbone, input_shape)
    backbone = image_tower(backbone)
    _check_output(backbone)
    has_class_token, pooling = resolve_pooling(pooling, pooling_options or {})
    inputs, features = _with_input_range(backbone, input_range)
    class_token = None
    if len(features.shape) == 3:
        layout = _layout(backbone, skip_tokens, token_grid, has_class_token, pooling)
        tokens, features = features, None
        if has_class_token:
            class_token = ClassToken(name="class_token" if pooling is not None else "pooling")(tokens)
        if pooling is not None:
            features = PatchTokens(*layout, name="patches")(tokens)
    elif has_class_token or skip_tokens is not None or token_grid is not None:
        raise ValueError(
            "A feature map has no tokens. Received: "
            f"{'pooling=cls' if has_class_token else f'skip_tokens={skip_tokens!r}, token_grid={token_grid!r}'} with a "
            f"backbone that gives {tuple(features.shape)}. Expected: a backbone that gives tokens (b, n, c)."
        )
    embeddings = _pooled(features, class_token, pooling, int(embedding_size), embed_before_pooling)
    if normalization is not None:
        embeddings = resolve_normalization(normalization)(embeddings)
    return keras.Model(inputs, embeddings, name=name)


def _pooled(features, class_token, pooling, embedding_size, embed_before_pooling):
    """Embeddings before they are normalized; without local features those of the class token alone."""
    if features is None:
        return keras.layers.Dense(embedding_size, name="embedding")(class_token)
    if embed_before_pooling:
        if class_token is not None:
            if embedding_size % 2:
                raise ValueError(
                    f"Class token and pooled tokens take half of the embedding each. Received: embedding_size="
                    f"{embedding_size}. Expected: an even number, or embed_before_pooling=False."
                )
            embedding_size //= 2
            class_token = keras.layers.Dense(embedding_size, name="class_embedding")(class_token)
        if len(features.shape) == 4:
            embed = keras.layers.Conv2D(embedding_size, 1, data_format="channels_last", name="embedding")
        else:
            embed = keras.layers.Dense(embedding_size, name="embedding")
        features = embed(features)
    embeddings = pooling(features)
    if isinstance(embeddings, (list, tuple)):
        # The attributes are there for `with_attributes`; the embedder itself gives embeddings alone.
        embeddings = embeddings[0]
    if class_token is not None:
        embeddings = keras.layers.Concatenate(name="concatenation")([class_token, embeddings])
    if not embed_before_pooling:
        embeddings = keras.layers.Dense(embedding_size, name="embedding")(embeddings)
    return embeddings


def _layout(backbone, skip_tokens, token_grid, has_class_token, pooling):
    """The layout of a backbone's tokens for a pooling, without a grid for a layer that takes bags only."""
    shape = tuple(backbone.outputs[0].shape)
    layout = resolve_token_layout(shape[1], skip_tokens, token_grid, backbones.token_layout(backbone))
    if has_class_token and not layout.skip:
        raise ValueError(
            "The tokens have no class token. Received: pooling=cls with skip_tokens=0. Expected: skip_tokens >= 1, or "
            "another pooling."
        )
    rank = getattr(getattr(pooling, "input_spec", None), "ndim", None)
    if layout.grid is None and (getattr(pooling, "maps_only", False) or rank == 4):
        raise ValueError(
            f"{type(pooling).__name__} pools feature maps. Received: tokens {shape} without a known grid, "
            f"skip_tokens={layout.skip}. Expected: token_grid=(height, width), or a pooling of bags, such as 'gap'."
        )
    return layout._replace(grid=None) if rank == 3 else layout


def _check_output(backbone):
    """Raises a ValueError unless a backbone gives one feature map, or tokens, with a known number of channels."""
    if not getattr(backbone, "outputs", None):
        raise ValueError(
            "The backbone must be a functional or sequential model. Received: "
            f"{type(backbone).__name__} without symbolic outputs. Expected: keras.Model(inputs, outputs)."
        )
    if len(backbone.outputs) != 1 or len(backbone.inputs) != 1:
        raise ValueError(
            f"The backbone must have one input and one output. Received: {len(backbone.inputs)} inputs and "
            f"{len(backbone.outputs)} outputs. Expected: one of each; choose the output by "
            "keras.Model(backbone.inputs[0], backbone.outputs[0])."
        )
    shape = tuple(backbone.outputs[0].shape)
    if len(shape) not in (3, 4):
        hint = " Leave out its global pooling, or train a head on its vectors (`build_head`)." * (len(shape) == 2)
        raise ValueError(
            "The backbone must give a feature map (b, h, w, channels) or tokens (b, n, channels). "
            f"Received: an output of shape {shape}.{hint}"
        )
    if shape[-1] is None:
        raise ValueError(
            f"The number of channels must be known. Received: a backbone with an output of shape {shape}. Expected: a "
            "fixed last axis."
        )
    if len(shape) == 4:
        _check_channels_last(backbone)


def _with_input_range(backbone, input_range):
    """The input, in 0–1, and the output of a backbone that expects this range."""
    images = backbone.inputs[0]
    if not tf.as_dtype(images.dtype).is_floating:
        raise ValueError(
            f"Embedders take float images in 0–1. Received: a backbone that takes {tf.as_dtype(images.dtype).name}. "
            "Expected: a backbone with a float input, keras.Input(shape)."
        )
    if input_range is None:
        input_range = backbones.expected_range(backbone)[0] or UNIT_RANGE
    else:
        check_fits_first_layer(backbone, input_range)
    if check_input_range(input_range) == UNIT_RANGE:
        if not _OWN_LAYERS & {layer.name for layer in getattr(backbone, "layers", [])}:
            return images, backbone.outputs[0]
        # As one layer the backbone may have a layer "embedding", as CLIP does.
        inputs = keras.Input(tuple(images.shape[1:]), name="images")
        return inputs, call_with_images(backbone, inputs)
    return with_input_range(backbone, input_range)


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


def resolve_pooling(choice, options):
    """Whether the class token is part of the embedding, and the pooling layer or `None`."""
    if isinstance(choice, (list, tuple)):
        if len(choice) != 2 or choice[0] != "cls":
            raise ValueError(f"The pooling is wrong. Received: pooling={choice!r}. Expected: ['cls', layer].")
        return True, _pooling(choice[1], options)
    if isinstance(choice, str):
        first, _, rest = choice.partition("+")
        if first.strip().lower() == "cls":
            if rest:
                return True, _pooling(rest.strip(), options)
            if options:
                raise ValueError(f"Pooling 'cls' has no options. Received: pooling_options={options}.")
            return True, None
    return False, _pooling(choice, options)


def _pooling(choice, options):
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
        NumPy array of weights `(b, h', w')` over the feature map, or `(b, n)` over tokens without a grid; those of an
        image sum to 1. A pooling layer without `pooling_weights` is taken for average pooling. The class token of
        `pooling="cls+…"` is left out.

    Raises:
        ValueError: If the embedding is that of the class token alone.
    """
    pooling = _pooling_layer(embedder)
    if isinstance(pooling, ClassToken):
        raise ValueError(
            "A class token does not weight the places of an image. Received: an embedder with pooling='cls'. Expected: "
            "one that pools local features, such as pooling='cls+gap'."
        )
    check_images(embedder, tf.convert_to_tensor(images))
    features = local_features(embedder)(tf.convert_to_tensor(images), training=False)
    if hasattr(pooling, "pooling_weights"):
        return np.asarray(pooling.pooling_weights(features), np.float32)
    places = tuple(features.shape)[1:-1]
    return np.full((len(features), *places), 1.0 / np.prod(places), np.float32)


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

    embed_on_replicas.get_concrete_function = on_replicas.get_concrete_function  # type: ignore[attr-defined]
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
