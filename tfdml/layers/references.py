"""Class proxies as references of a batch."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_choice, check_whole_number
from tfdml._utils.types import Config, Identifier, TensorLike
from tfdml.ops import References


@keras.saving.register_keras_serializable(package="tfdml")
class ClassProxies(FormerNames, keras.layers.Layer):
    """Trainable vectors in the embedding space that represent the classes.

    Use it with a proxy loss (see `tfdml.losses.MetricLoss`) or with CCP: pass it to `MetricModel(references=…)`. Each
    sample is then compared with all classes, not only with those in its batch. Proxies usually need a larger learning
    rate than the network: pass `reference_optimizer` to `MetricModel.compile`.

    Calling the layer without arguments returns all proxies as `References`. By default they are not normalized; losses
    on cosine similarity normalize them. A label without a proxy is an error in the loss; under XLA, which drops
    assertions, the loss is NaN. `tfdml.data.encode_labels` maps labels to integers from 0.

    Args:
        num_classes: int, >= 1. Number of classes. Labels run from 0 to `num_classes - 1`.
        per_class: int, >= 1. Number of proxies per class. Default: 1.
        embedding_size: int, >= 1. Size of the embeddings.
        normalization: `None`, `"l2"` or `"clip"`. Normalize the references to unit length, or clip them to at most unit
            length, whenever the layer is called, as the embedder does with its embeddings. Default: `None`.
        initializer: Keras initializer of the proxies. Default: `None`, normal with a standard deviation of
            `embedding_size**-0.5`, that is, about unit length.
        **kwargs: `name` and other arguments of a Keras layer. Proxies are float32 under every dtype policy.

    Raises:
        ValueError: If one of the sizes is less than 1, or the normalization is unknown.

    Reference:
        Movshovitz-Attias et al., "No fuss distance metric learning using proxies", ICCV 2017.

    Example:
        >>> from tfdml import layers
        >>> proxies = layers.ClassProxies(num_classes=3, per_class=2, embedding_size=8)
        >>> references = proxies()
        >>> tuple(references.embeddings.shape), references.labels.numpy().tolist()
        ((6, 8), [0, 0, 1, 1, 2, 2])
    """

    former_names = {"dim": "embedding_size"}

    def __init__(
        self,
        num_classes: int,
        per_class: int = 1,
        *,
        embedding_size: int,
        initializer: Identifier | None = None,
        normalization: Literal["l2", "clip"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = check_whole_number("num_classes", num_classes, minimum=1)
        self.per_class = check_whole_number("per_class", per_class, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.initializer = keras.initializers.get(
            initializer or keras.initializers.RandomNormal(stddev=self.embedding_size**-0.5)
        )
        self.normalization = check_choice("normalization", normalization, (None, "l2", "clip"))
        self.proxies = self.add_weight(
            name="proxies",
            shape=(self.num_classes, self.per_class, self.embedding_size),
            initializer=self.initializer,
            dtype="float32",
            trainable=True,
        )
        self.built = True

    def __call__(self) -> References:
        """Return all proxies as `References`, sorted by class.

        Returns:
            `References` with `num_classes * per_class` embeddings.
        """
        count = self.num_classes * self.per_class
        embeddings = tf.reshape(tf.convert_to_tensor(self.proxies), (count, self.embedding_size))
        if self.normalization is not None:
            embeddings = ops.l2_normalize(embeddings) if self.normalization == "l2" else ops.l2_clip(embeddings, 1.0)
        return References(
            embeddings=embeddings,
            labels=tf.repeat(tf.range(self.num_classes), self.per_class),
            per_class=self.per_class,
            classes=self.num_classes,
        )

    def assign(self, proxies: TensorLike) -> None:
        """Set the proxies.

        Args:
            proxies: float array, `(num_classes, per_class, embedding_size)`.

        Raises:
            ValueError: If the shape is different.
        """
        expected = (self.num_classes, self.per_class, self.embedding_size)
        if tuple(proxies.shape) != expected:
            raise ValueError(
                f"The proxies have the wrong shape. Received: shape {tuple(proxies.shape)}. Expected: {expected}."
            )
        self.proxies.assign(proxies)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "per_class": self.per_class,
            "embedding_size": self.embedding_size,
            "initializer": keras.initializers.serialize(self.initializer),
            "normalization": self.normalization,
        }
