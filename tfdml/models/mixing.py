"""Mixed training images with two labels: mixup and CutMix."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from tfdml import ops
from tfdml._utils.arguments import check_between, check_positive, check_whole_number, configuration
from tfdml._utils.types import Config, TensorLike

# Number of equally probable values of λ.
_QUANTILES = 4096


class MixedBatch(NamedTuple):
    """A batch of images, each mixed with a partner.

    Attributes:
        images: float tensor `(batch, …)`. The mixed images of this replica.
        partners: int tensor `(batch,)`. The position of each image's partner in the whole batch of all replicas.
        share: float32 tensor, scalar. The share of an image in its mixture, the weight of its own label.
    """

    images: tf.Tensor
    partners: tf.Tensor
    share: tf.Tensor


class Mixing(abc.ABC):
    """Base class of `Mixup` and `CutMix`: partners and shares, determined by (seed, step).

    Args:
        alpha: float, > 0. Both parameters of the beta distribution of the shares.
        probability: float in 0–1. Probability that a batch is mixed. Default 1.0.
        seed: int, at least 0. Default 0.
    """

    def __init__(self, alpha: float, probability: float = 1.0, seed: int = 0) -> None:
        self.alpha = check_positive("alpha", alpha)
        self.probability = check_between("probability", probability, 0.0, 1.0)
        self.seed = check_whole_number("seed", seed, minimum=0)
        # XLA has no beta distribution.
        places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        self._shares = special.betaincinv(self.alpha, self.alpha, places).astype(np.float32)

    def __call__(self, images: TensorLike, step: TensorLike) -> MixedBatch:
        """Mix a training batch. With several replicas, each passes its part, and partners are from the whole batch.

        Args:
            images: Tensor `(batch, …)`. Integers become float32.
            step: int, scalar. Number of the training step.

        Returns:
            `MixedBatch`.
        """
        images = tf.convert_to_tensor(images)
        if not images.dtype.is_floating:
            images = tf.cast(images, tf.float32)
        share = self._share(step)
        if ops.replica_count() == 1:
            partners = self._partners(tf.shape(images)[0], step)
            others = tf.gather(images, partners)
        else:
            replica = tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
            owners = ops.gather_batch(tf.fill(tf.shape(images)[:1], replica))
            partners = self._partners(tf.size(owners), step)
            others = tf.gather(ops.gather_batch(images), tf.boolean_mask(partners, owners == replica))
        mixed, share = self._mix(images, tf.cast(others, images.dtype), share, step)
        return MixedBatch(mixed, partners, share)

    @abc.abstractmethod
    def _mix(self, images, others, share, step):
        """Return mixed images and the share of `images` in them."""

    def _share(self, step):
        place, chance = tf.unstack(self._uniform((2,), 1, step))
        share = tf.gather(self._shares, tf.cast(place * _QUANTILES, tf.int32))
        return tf.where(chance < self.probability, share, 1.0)

    def _partners(self, count, step):
        return tf.argsort(self._uniform((count,), 2, step))

    def _uniform(self, shape, number, step):
        seed = tf.stack([tf.constant(self.seed + 1_000_003 * number, tf.int64), tf.cast(step, tf.int64)])
        return tf.random.stateless_uniform(shape, seed)

    def get_config(self) -> Config:
        """Return the arguments, for `from_config`."""
        return configuration(self)

    @classmethod
    def from_config(cls, config: Config) -> Mixing:
        """Create an object from the arguments that `get_config` returns."""
        return cls(**config)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_config().items())})"


@keras.saving.register_keras_serializable(package="tfdml")
class Mixup(Mixing):
    r"""Mixes each training image with another image of its batch, for losses against class proxies.

    Pass it to `MetricModel.compile(mixing=…)`. It regularizes the fine-tuning of large networks on few images.

    For the images $x_i$ of a batch and a random permutation $\pi$, the embedder receives

    $$\tilde x_i = \lambda x_i + (1 - \lambda) \, x_{\pi(i)}, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha),$$

    with one $\lambda$ per batch. With the labels $y$, the loss is

    $$\lambda \, \ell(y, f(\tilde x)) + (1 - \lambda) \, \ell(y_\pi, f(\tilde x)).$$

    For `NormalizedSoftmaxLoss` with one proxy per class, this is the cross-entropy with the soft labels. In general it
    is a weighted sum of two losses, also for losses that couple the samples of a batch, such as `ProxyAnchorLoss`.
    Losses within the batch, memories and the zero-shot loss need one label per image, so they do not accept mixed
    images.

    Permutation and $\lambda$ are determined by the seed and the number of the training step (`model.steps`), so a
    resumed training run mixes the same images. With `jit_compile=True` they differ from those without it.

    Args:
        alpha: float, > 0. $\alpha$. Small values mix most batches only slightly. Default 0.2.
        probability: float in 0–1. Probability that a batch is mixed. Default 1.0.
        seed: int, at least 0. Default 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from tfdml import layers, models
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = models.MetricModel(embedder, layers.ClassProxies(3, embedding_size=2))
        >>> model.compile("adam", "normalized_softmax", mixing=models.Mixup(alpha=0.2))
        >>> history = model.fit(np.eye(4, dtype="float32"), np.array([0, 1, 2, 0]), verbose=0)

    Reference:
        Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.
    """

    def __init__(self, alpha: float = 0.2, probability: float = 1.0, seed: int = 0) -> None:
        super().__init__(alpha, probability, seed)

    def _mix(self, images, others, share, step):
        of_images = tf.cast(share, images.dtype)
        return of_images * images + (1.0 - of_images) * others, share


@keras.saving.register_keras_serializable(package="tfdml")
class CutMix(Mixing):
    r"""Replaces a rectangle of each training image by that of another image, for losses against class proxies.

    It is used like `Mixup`, with the same loss. A rectangle of the image's aspect ratio whose area is $1 - \lambda$ of
    the image, up to rounding to whole pixels, shows the other image; $\lambda$ is one minus the share of these pixels.
    One rectangle per batch is drawn uniformly among those inside the image. (In the paper, rectangles may extend beyond
    the image and are clipped, which makes them smaller than drawn.)

    Args:
        alpha: float, > 0. Both parameters of the beta distribution of $\lambda$. Default 1.0, uniform.
        probability: float in 0–1. Probability that a batch is mixed. Default 1.0.
        seed: int, at least 0. Default 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from tfdml import models
        >>> images = tf.reshape(tf.range(4.0), (4, 1, 1, 1)) * tf.ones((4, 6, 6, 1))
        >>> mixed = models.CutMix(seed=1)(images, step=0)
        >>> float(tf.reduce_mean(tf.cast(mixed.images[0] == 0, "float32"))) >= float(mixed.share) - 1e-6
        True

    Reference:
        Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", ICCV 2019.
    """

    def __init__(self, alpha: float = 1.0, probability: float = 1.0, seed: int = 0) -> None:
        super().__init__(alpha, probability, seed)

    def _mix(self, images, others, share, step):
        height, width = images.shape[1], images.shape[2]
        if height is None or width is None:
            height, width = tf.shape(images)[1], tf.shape(images)[2]
        sides = tf.cast(tf.stack([height, width]), tf.float32)
        box = tf.round(sides * tf.sqrt(1.0 - share))
        start = tf.floor(self._uniform((2,), 3, step) * (sides - box + 1.0))
        rows, columns = (tf.range(side, dtype=tf.float32) for side in tf.unstack(sides))
        in_rows = (rows >= start[0]) & (rows < start[0] + box[0])
        in_columns = (columns >= start[1]) & (columns < start[1] + box[1])
        is_replaced = in_rows[:, tf.newaxis, tf.newaxis] & in_columns[:, tf.newaxis]
        return tf.where(is_replaced, others, images), 1.0 - tf.reduce_prod(box) / tf.reduce_prod(sides)


def check_mixing(mixing: Any, model: Any) -> Mixing | None:
    """Return `mixing` if a `MetricModel` can train on its images.

    Args:
        mixing: `Mixing` or `None`.
        model: `MetricModel`, or another object with its attributes.

    Raises:
        TypeError: If it has another type.
        ValueError: If the model compares samples of a batch with each other or with a memory, which need one label per
            sample, has a zero-shot or cross-batch loss, or the images have the wrong rank for `CutMix`.
    """
    if mixing is None:
        return None
    if not isinstance(mixing, Mixing):
        raise TypeError(f"Unknown mixing. Received: mixing={mixing!r}. Expected: Mixup(…), CutMix(…) or None.")
    others = [layer for layer in model.references if layer is not model.proxies]
    problems = [f"in_batch_weight={model.in_batch_weight:g}"] if model.in_batch_weight else []
    problems += [f"the reference {type(layer).__name__}" for layer in others]
    remembering = [layer for layer in model.memories if all(layer is not one for one in model.references)]
    problems += [f"the memory {type(layer).__name__} of recent batches" for layer in remembering]
    problems += ["a zero-shot loss"] if model.zero_shot is not None else []
    problems += ["cross-batch prototypes"] if getattr(model, "cross_batch", None) is not None else []
    if problems:
        raise ValueError(
            "Mixed images have two labels, which only losses against class proxies accept. Received: "
            f"mixing={mixing!r} with {' and '.join(problems)}. Expected: references=ClassProxies(…), "
            "in_batch_weight=0, no zero_shot and no cross_batch, or mixing=None."
        )
    inputs = getattr(model.embedder, "inputs", None)
    shape = tuple(inputs[0].shape) if inputs else (None,) * 4
    if isinstance(mixing, CutMix) and len(shape) != 4:
        raise ValueError(
            f"CutMix replaces a part of an image. Received: an embedder with inputs of shape {shape}. Expected: images "
            "(batch, height, width, channels), or Mixup."
        )
    return mixing
