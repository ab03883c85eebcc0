"""Build embedders and use them: embeddings, local features and pooling maps."""

from __future__ import annotations

import contextlib
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
from tfdml.layers import ClassToken, GeneralizedSumPooling, L2Clip, L2Normalization, PatchTokens
from tfdml.layers import pooling as poolings
from tfdml.models.batches import (
    check_finite_embeddings,
    check_images,
    data_errors,
    image_batches,
    warn_of_bytes,
)
from tfdml.models.distribution import Workers
from tfdml.ops import UNIT_RANGE, at_least_float32, check_input_range

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
    r"""Build an embedder: backbone → 1×1 convolution → pooling → normalization.

    This is where most projects start: choose a backbone and a pooling, then train the result with `MetricModel` or
    `CCPModel`.

    The convolution projects every local feature to the embedding size before pooling. For average pooling this equals
    the usual fully connected layer after pooling, because both are linear. For nonlinear poolings it is a different
    network; `embed_before_pooling=False` builds the variant with the fully connected layer.

    For a backbone that returns tokens `(batch, tokens, channels)`, such as a vision transformer, patch tokens are
    arranged on their grid and pooled as a feature map. Without a known grid they are pooled as a bag, and the
    convolution is a dense layer. `pooling="cls"` embeds the class token with a dense layer. `"cls+gap"`, `"cls+gsp"`
    and so on project class token and patch tokens to half the embedding size each, with separate layers, pool the patch
    tokens, and concatenate and normalize both halves together. With `embed_before_pooling=False`, class token and
    pooled patch tokens are concatenated first, and one dense layer embeds both.

    Args:
        backbone: str or `keras.Model`. A name that `tfdml.backbones.get` accepts, or a model from images to a feature
            map `(batch, height, width, channels)` or tokens `(batch, tokens, channels)`. Channels come last, regardless
            of Keras' global image data format.
        pooling: str or `keras.layers.Layer`. A name of `tfdml.layers.pooling.names()`, or a layer from
            `(batch, height, width, channels)` to `(batch, dim)`. For tokens also `"cls"`, `"cls+NAME"` or
            `["cls", layer]`. Default `"gap"`, global average pooling.
        embedding_size: int. Size of the local features that are pooled. It is also the size of the embedding, except
            for NetVLAD and optimal-transport pooling, which return one vector per prototype. Default 128.
        normalization: `"l2"` (unit length), `"clip"` (at most unit length), a layer, or `None`. Default `"l2"`, which
            suits almost all losses; their default margins assume it.
        input_shape: tuple (height, width, channels) of the images. Required for a backbone given by name.
        pooling_options: dict. Arguments of a pooling layer given by name. Default `None`.
        name: str. Name of the model. Default `"embedder"`.
        embed_before_pooling: bool. `True` projects the local features before pooling; `False` projects the pooled
            feature: backbone → pooling → fully connected layer → normalization. A `GeneralizedSumPooling` with
            `channels` equal to `embedding_size` needs `False` and contains the projection: it transports projected
            features, pools the unprojected ones and projects the result, as the author's code does. Default `True`.
        input_range: tuple (low, high) or a mode (`"caffe"`, `"tf"`, `"torch"` of `keras.applications`; `"clip"`). Range
            of pixel values that the backbone expects; the embedder scales images from 0–1 to this range. `None`
            recognizes networks of `keras.applications`, vision transformers of KerasHub and a `Rescaling` or
            `Normalization` layer at the start of the backbone, and means (0, 1) for other networks. Default `None`.
        skip_tokens: int. Number of leading tokens that are not patches: the class token and register tokens. `None`
            infers it for models of KerasHub or from `token_grid`; otherwise it is 0 if the number of tokens is a square
            or unknown. Default `None`.
        token_grid: tuple (height, width). Grid of the patch tokens. `None` infers it for models of KerasHub; for others
            it is square if the number of patch tokens is a square. Default `None`.

    Returns:
        Functional `keras.Model` from images, float32 in 0–1 regardless of what the backbone expects, to embeddings
        `(batch, dim)`. Its layers include `"embedding"`, `"pooling"`, `"normalization"` unless `normalization` is
        `None`, and `"class_embedding"` for a class token with a pooling. If the backbone expects another range, the
        model contains the layer `"input_range"`, and the backbone is a single nested layer.

    Raises:
        ValueError: If a name is unknown, `embedding_size` is not a positive integer, the backbone has an integer input
            or several outputs or returns neither a channels-last feature map nor tokens with a known number of
            channels, the tokens do not match `skip_tokens` and `token_grid`, or `input_range` is required and missing
            or contradicts the first layer.

    Example:
        >>> images = keras.Input((32, 32, 3))
        >>> backbone = keras.Model(images, keras.layers.Conv2D(8, 3, strides=4, activation="relu")(images))
        >>> embedder = build_embedder(backbone, pooling="gap", embedding_size=16)
        >>> tuple(embedder.output.shape)
        (None, 16)
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
            f"backbone that returns {tuple(features.shape)}. Expected: a backbone that returns tokens (b, n, c)."
        )
    embeddings = _pooled(features, class_token, pooling, int(embedding_size), embed_before_pooling)
    if normalization is not None:
        embeddings = resolve_normalization(normalization)(embeddings)
    return keras.Model(inputs, embeddings, name=name)


def _pooled(features, class_token, pooling, embedding_size, embed_before_pooling):
    """Return embeddings before normalization; without local features, those of the class token."""
    if features is None:
        return keras.layers.Dense(embedding_size, name="embedding")(class_token)
    embeds = isinstance(pooling, GeneralizedSumPooling) and pooling.channels is not None
    if embeds and (embed_before_pooling or class_token is not None or pooling.channels != embedding_size):
        raise ValueError(
            f"The pooling projects features itself. Received: {type(pooling).__name__}(channels={pooling.channels}) "
            f"with embed_before_pooling={embed_before_pooling}, embedding_size={embedding_size}"
            f"{' and a class token' if class_token is not None else ''}. Expected: embed_before_pooling=False, "
            "embedding_size equal to channels, and no class token."
        )
    if embed_before_pooling:
        if class_token is not None:
            if embedding_size % 2:
                raise ValueError(
                    f"Class token and pooled tokens each use half of the embedding. Received: embedding_size="
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
        # The second output, the attributes, is used by `with_attributes` only.
        embeddings = embeddings[0]
    if class_token is not None:
        embeddings = keras.layers.Concatenate(name="concatenation")([class_token, embeddings])
    if not (embed_before_pooling or embeds):
        embeddings = keras.layers.Dense(embedding_size, name="embedding")(embeddings)
    return embeddings


def _layout(backbone, skip_tokens, token_grid, has_class_token, pooling):
    """Return the layout of a backbone's tokens for a pooling; without a grid for a layer that pools only bags."""
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
    """Raise a ValueError unless a backbone returns one feature map, or tokens, with a known number of channels."""
    if not getattr(backbone, "outputs", None):
        raise ValueError(
            "The backbone must be a functional or sequential model. Received: "
            f"{type(backbone).__name__} without symbolic outputs. Expected: keras.Model(inputs, outputs)."
        )
    if len(backbone.outputs) != 1 or len(backbone.inputs) != 1:
        raise ValueError(
            f"The backbone must have one input and one output. Received: {len(backbone.inputs)} inputs and "
            f"{len(backbone.outputs)} outputs. Expected: one of each; select the output with "
            "keras.Model(backbone.inputs[0], backbone.outputs[0])."
        )
    shape = tuple(backbone.outputs[0].shape)
    if len(shape) not in (3, 4):
        hint = " Remove its global pooling, or train a head on its vectors (`build_head`)." * (len(shape) == 2)
        raise ValueError(
            "The backbone must return a feature map (b, h, w, channels) or tokens (b, n, channels). "
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
    """Return the input, in 0–1, and the output of a backbone that expects `input_range`."""
    images = backbone.inputs[0]
    if not tf.as_dtype(images.dtype).is_floating:
        raise ValueError(
            "Embedders expect float images in 0–1. Received: a backbone with an input of type "
            f"{tf.as_dtype(images.dtype).name}. Expected: a backbone with a float input, keras.Input(shape)."
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
    """Raise a ValueError if the last layer with a data format is channels-first and no later layer permutes axes."""
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
    """Return whether the class token is part of the embedding, and the pooling layer or `None`."""
    if isinstance(choice, (list, tuple)):
        if len(choice) != 2 or choice[0] != "cls":
            raise ValueError(f"Invalid pooling. Received: pooling={choice!r}. Expected: ['cls', layer].")
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
            raise ValueError(
                f"pooling_options apply only to a pooling given by name. Received: {options} with the layer "
                f"{choice.name!r}. Expected: no options. Pass them to the layer itself."
            )
        return choice
    return poolings.get(choice, name="pooling", **options)


def resolve_normalization(choice):
    """Return the normalization layer for a name (`"l2"`, `"clip"`); layers are returned unchanged."""
    if isinstance(choice, keras.layers.Layer):
        return choice
    if choice not in _NORMALIZATIONS:
        raise ValueError(
            f"Unknown normalization. Received: {choice!r}. Expected: one of {sorted(_NORMALIZATIONS)}, or a layer."
        )
    return _NORMALIZATIONS[choice](name="normalization")


def largest_distance(embedder, distance="l2"):
    """Return the largest possible distance of two embeddings, or `None` if the last layer does not bound it.

    Args:
        embedder: `keras.Model`.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`. Default `"l2"`.
    """
    if distance == "cosine":
        return 2.0
    last = embedder.layers[-1] if embedder.layers else None
    if not isinstance(last, (L2Normalization, L2Clip)):
        return None
    diameter = 2.0 * getattr(last, "max_norm", 1.0)
    return diameter**2 if distance == "squared_l2" else diameter


def local_features(embedder: keras.Model) -> keras.Model:
    """Return the part of an embedder before its pooling layer, as a model.

    Use it to inspect or reuse the local features that the pooling layer receives.

    Args:
        embedder: `keras.Model` with a layer named `"pooling"`, such as one made by `build_embedder`.

    Returns:
        Functional `keras.Model` from images to local features `(batch, height, width, channels)`. It shares the
        embedder's weights.

    Raises:
        ValueError: If the embedder has no layer named `"pooling"`.

    Example:
        >>> backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2, 2)])
        >>> embedder = build_embedder(backbone, pooling="gap", embedding_size=16)
        >>> tuple(local_features(embedder).output.shape)
        (None, 4, 4, 16)
    """
    return keras.Model(embedder.input, _pooling_layer(embedder).input)


def with_attributes(embedder: keras.Model) -> keras.Model:
    """Return an embedder that outputs the attributes of its pooling in addition to the embeddings.

    Use it to inspect attributes. `MetricModel` calls it itself if it is given a `ZeroShotPrediction`.

    Args:
        embedder: `keras.Model` whose layer named `"pooling"` returns attributes, such as
            `GeneralizedSumPooling(…, return_attributes=True)`.

    Returns:
        Functional `keras.Model` from images to embeddings `(batch, dim)` and attributes `(batch, prototypes)`. It
        shares the embedder's weights.

    Raises:
        ValueError: If there is no layer named `"pooling"`, or it does not return attributes.

    Example:
        >>> backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2, 2)])
        >>> options = {"prototypes": 5, "return_attributes": True}
        >>> embedder = build_embedder(backbone, "gsp", embedding_size=16, pooling_options=options)
        >>> [tuple(output.shape) for output in with_attributes(embedder).outputs]
        [(None, 16), (None, 5)]
    """
    output = _pooling_layer(embedder).output
    if not isinstance(output, (list, tuple)):
        raise ValueError(
            "The pooling layer does not return attributes. Received: "
            f"{type(_pooling_layer(embedder)).__name__}. Expected: GeneralizedSumPooling with return_attributes=True; "
            "with ratio=1.0 its embedding is that of average pooling."
        )
    return keras.Model(embedder.input, [embedder.output, output[1]], name=f"{embedder.name}_with_attributes")


def with_parts(embedder):
    """Return an embedder that also outputs attributes and the embeddings before normalization, and the normalization.

    Args:
        embedder: `keras.Model`, as for `with_attributes`.

    Returns:
        Functional `keras.Model` from images to embeddings, attributes and embeddings before an `L2Normalization` or
        `L2Clip` at the end of the embedder; and that layer, or `None` if there is none.
    """
    attributes = with_attributes(embedder).outputs[1]
    last = embedder.layers[-1]
    normalization = last if isinstance(last, (L2Normalization, L2Clip)) else None
    unnormalized = embedder.output if normalization is None else normalization.input
    return keras.Model(embedder.input, [embedder.output, attributes, unnormalized]), normalization


def _pooling_layer(embedder):
    names = [layer.name for layer in embedder.layers]
    if "pooling" not in names:
        raise ValueError(
            f"The embedder has no layer named 'pooling'. Received: a model with layers {names}. Expected: one. Pass "
            "name='pooling' to the pooling layer."
        )
    return embedder.get_layer("pooling")


def adapt_pooling(embedder: keras.Model, images: Batches, pooled: bool = False, **options: Any) -> None:
    """Initialize the prototypes of an embedder's pooling from its own local features.

    Call it once before training: random prototypes rarely match any local feature, and adapted ones train better. If
    the backbone starts from random weights and uses batch normalization, call `calibrate_batch_norm` first.

    Args:
        embedder: `keras.Model` whose layer `"pooling"` is a `PrototypePooling`, such as `GeneralizedSumPooling`.
        images: Array of images, or finite batches of images or (images, labels), as for `embed`. Training images, drawn
            at random.
        pooled: bool. Choose among average-pooled features, one per image, instead of local features. They are mapped to
            the space of the prototypes (for generalized sum pooling: projected and clipped) after averaging. There must
            be at least as many images as prototypes. Default `False`.
        **options: Arguments of `PrototypePooling.adapt`.

    Raises:
        ValueError: If the pooling layer has no prototypes, or the dataset is endless; or if `pooled` is set for
            convolutional prototypes, which are patches of local features.

    Example:
        >>> backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2, 2)])
        >>> embedder = build_embedder(backbone, "gsp", embedding_size=16, pooling_options={"prototypes": 5})
        >>> adapt_pooling(embedder, np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype("float32"))
    """
    pooling = _pooling_layer(embedder)
    if not hasattr(pooling, "adapt"):
        raise ValueError(f"The pooling layer has no prototypes to adapt. Received: {type(pooling).__name__}.")
    if pooled and getattr(pooling, "maps_only", False):
        raise ValueError(
            "Pooled features have no neighborhood. Received: pooled=True with convolutional prototypes "
            f"(kernel_size={getattr(pooling, 'kernel_size', None)}). Expected: pooled=False."
        )
    features = local_features(embedder)
    batches = (features(batch, training=False) for batch, _ in image_batches(images))
    pooling.adapt((_average(batch) for batch in batches) if pooled else batches, **options)


def _average(features):
    """Average of feature maps or bags over their places, `(b, d)`, in at least float32."""
    return tf.reduce_mean(at_least_float32(features), axis=list(range(1, len(features.shape) - 1)))


def calibrate_batch_norm(embedder: keras.Model, images: Batches) -> None:
    """Update the moving statistics of batch normalization to those of the data, without any other change.

    Use it before training from scratch, when prototypes or first proxies are selected from inference features: the
    initial moving statistics belong to no data, so inference features would differ from those seen in training.

    Args:
        embedder: `keras.Model` from images to embeddings.
        images: Array of images, or finite batches of images, as for `embed`. A few dozen batches suffice.

    Raises:
        ValueError: If the dataset is endless.

    Example:
        >>> layer = keras.layers.BatchNormalization(momentum=0.0)
        >>> embedder = keras.Sequential([keras.Input((2,)), layer])
        >>> calibrate_batch_norm(embedder, np.array([[1.0, 4.0], [3.0, 4.0]], "float32"))
        >>> np.asarray(layer.moving_mean).tolist()
        [2.0, 4.0]
    """
    forward = tf.function(lambda batch: embedder(batch, training=True), reduce_retracing=True)
    for batch, _ in image_batches(images):
        check_images(embedder, batch)
        forward(batch)


def pooling_maps(embedder: keras.Model, images: TensorLike) -> np.ndarray:
    """Return the weight of each spatial location of an image in its embedding.

    Use it to see which parts of an image the embedding depends on; `tfdml.plots.pooling_maps` draws them.

    Args:
        embedder: `keras.Model` made by `build_embedder`.
        images: float array or tensor, `(batch, height, width, channels)`.

    Returns:
        NumPy float32 array `(batch, h, w)` over the feature map, or `(batch, tokens)` over tokens without a grid. The
        weights of an image sum to 1; the class token of `pooling="cls+…"` is excluded. They are uniform for a pooling
        layer without the method `pooling_weights`.

    Raises:
        ValueError: If the embedding depends only on the class token (`pooling="cls"`).

    Example:
        >>> backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2, 4)])
        >>> embedder = build_embedder(backbone, pooling="gap", embedding_size=16)
        >>> pooling_maps(embedder, np.zeros((1, 8, 8, 3), "float32")).tolist()
        [[[0.25, 0.25], [0.25, 0.25]]]
    """
    pooling = _pooling_layer(embedder)
    if isinstance(pooling, ClassToken):
        raise ValueError(
            "A class token does not weight the locations of an image. Received: an embedder with pooling='cls'. "
            "Expected: one that pools local features, such as pooling='cls+gap'."
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
    """Return a compiled function from images to float32 embeddings.

    Use it to embed many times without tracing a new graph each time, for example in a callback or a server; `embed`
    accepts it in place of the embedder.

    Args:
        embedder: `keras.Model` from images to embeddings.
        workers: `Workers` whose replicas share each batch. `None` uses one device. Default `None`.
        run_eagerly: bool. Run without a graph; on one device only. Default `False`.

    Returns:
        Function from images `(batch, height, width, channels)` to a float32 tensor `(batch, dim)`.

    Example:
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> forward = inference_function(embedder)
        >>> embed(forward, np.zeros((3, 4), "float32")).shape
        (3, 2)
    """

    def forward(images):
        check_images(embedder, images)
        return tf.cast(embedder(images, training=False), tf.float32)

    if workers is None or workers.is_single:
        if run_eagerly:
            return forward
        check, first_check = (functools.partial(one, embedder) for one in (check_images, warn_of_bytes))
        return compiled_for_batches(forward, check, first_check)

    @functools.partial(tf.function, reduce_retracing=True)
    def on_replicas(parts):
        return tf.concat(workers.strategy.experimental_local_results(workers.strategy.run(forward, (parts,))), axis=0)

    def embed_on_replicas(images):
        return on_replicas(workers.split(images))

    embed_on_replicas.get_concrete_function = on_replicas.get_concrete_function  # type: ignore[attr-defined]
    return embed_on_replicas


def compiled_for_batches(forward, check=None, first_check=None, autograph=True, may_need_sizes=False):
    """Compile a function of batches whose size is unknown from the start: a smaller last batch needs no other graph.

    Args:
        forward: Function of a batch: a tensor or array, or a dict or tuple of these.
        check: Function that raises an error for a batch that does not fit. Default: none.
        first_check: The same, called with the first batch alone. Default: none.
        autograph: bool, as for `tf.function`. Default `True`.
        may_need_sizes: bool. The function may need the size of its batch: if it cannot be traced for any size, it is
            traced for the given one. Default `False`.
    """
    function = tf.function(forward, reduce_retracing=True, autograph=autograph)

    def embed_batch(images):
        # Each batch: a relaxed graph would accept images of another size. Errors also tell the size of the batch.
        if check is not None:
            check(images)
        if function.experimental_get_tracing_count() == 0:
            if first_check is not None:
                first_check(images)
            parts = tf.nest.flatten(images)
            if all(isinstance(part, (tf.Tensor, np.ndarray)) and len(part.shape) > 0 for part in parts):
                specs = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in parts]
                with contextlib.suppress(Exception) if may_need_sizes else contextlib.nullcontext():
                    function.get_concrete_function(tf.nest.pack_sequence_as(images, specs))
        return function(images)

    embed_batch.get_concrete_function = function.get_concrete_function  # type: ignore[attr-defined]
    embed_batch.experimental_get_tracing_count = function.experimental_get_tracing_count  # type: ignore[attr-defined]
    return embed_batch


def embed(
    embedder: keras.Model | Callable[[tf.Tensor], tf.Tensor], data: Batches, batch_size: int = 256
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Embed a whole dataset.

    Use it after training, to compute metrics, to plot embeddings or to fill an index.

    Args:
        embedder: `keras.Model` from images to embeddings, or a function made by `inference_function`.
        data: Array of images `(n, height, width, channels)`, or a tuple (images, labels) of arrays; or a finite
            `tf.data.Dataset`, `keras.utils.PyDataset`, generator or other iterable whose batches are images or
            (images, labels).
        batch_size: int. Images per batch; used for arrays only. Default 256.

    Returns:
        NumPy float32 array of embeddings `(n, dim)`; if the data has labels, the pair (embeddings, labels `(n,)`).

    Raises:
        ValueError: If the dataset is empty or endless, an image or an embedding contains NaN or infinity, or the images
            do not match the embedder's input. Integer images are rejected, because embedders expect floats in 0–1.

    Example:
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> embeddings, labels = embed(embedder, (np.zeros((3, 4), "float32"), np.array([0, 0, 1])))
        >>> embeddings.shape, labels.tolist()
        ((3, 2), [0, 0, 1])
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
