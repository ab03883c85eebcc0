"""What a batch of embeddings is compared with, apart from itself."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import FormerNames, check_whole_number
from tfdml._utils.types import Config, Identifier, TensorLike
from tfdml.ops import References


@keras.saving.register_keras_serializable(package="tfdml")
class ClassProxies(FormerNames, keras.layers.Layer):
    """Trainable points of the embedding space that stand for the classes.

    Calling the layer, without arguments, gives all proxies as `References`. They are used as they are:
    losses on cosine similarity normalise them themselves. A label without a proxy is an error: of a loss against them,
    and under XLA, which drops assertions, its value is NaN. `tfdml.data.encode_labels` numbers labels from 0.

    Args:
        num_classes: How many classes there are; labels run from 0 to `num_classes - 1`.
        per_class: How many proxies stand for each class.
        embedding_size: Size of the embedding.
        initializer: Of the proxies; the default has about unit length.

    Raises:
        ValueError: If one of the counts is below 1.

    Reference:
        Movshovitz-Attias et al., "No fuss distance metric learning using proxies", ICCV 2017.

    Example:
        >>> proxies = ClassProxies(num_classes=3, per_class=2, embedding_size=8)
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = check_whole_number("num_classes", num_classes, minimum=1)
        self.per_class = check_whole_number("per_class", per_class, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.initializer = keras.initializers.get(
            initializer or keras.initializers.RandomNormal(stddev=self.embedding_size**-0.5)
        )
        self.proxies = self.add_weight(
            name="proxies",
            shape=(self.num_classes, self.per_class, self.embedding_size),
            initializer=self.initializer,
            dtype="float32",
            trainable=True,
        )
        self.built = True

    def __call__(self) -> References:
        """All proxies, class by class, as `References`."""
        count = self.num_classes * self.per_class
        return References(
            embeddings=tf.reshape(tf.convert_to_tensor(self.proxies), (count, self.embedding_size)),
            labels=tf.repeat(tf.range(self.num_classes), self.per_class),
            per_class=self.per_class,
            classes=self.num_classes,
        )

    def assign(self, proxies: TensorLike) -> None:
        """Puts new proxies in place of the present ones.

        Args:
            proxies: `(num_classes, per_class, embedding_size)`.

        Raises:
            ValueError: If the shape is another.
        """
        expected = (self.num_classes, self.per_class, self.embedding_size)
        if tuple(proxies.shape) != expected:
            raise ValueError(f"Proxies do not fit. Received: shape {tuple(proxies.shape)}; expected {expected}.")
        self.proxies.assign(proxies)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "per_class": self.per_class,
            "embedding_size": self.embedding_size,
            "initializer": keras.initializers.serialize(self.initializer),
        }
