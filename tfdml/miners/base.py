"""The base of every miner."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Labels, TensorLike
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs, References


class Miner(abc.ABC):
    """Chooses the pairs that count.

    A loss that is given a miner (`miner=`) sees only the pairs that it chooses. Alone, `miner(labels, embeddings)`
    gives the masks of the chosen pairs. No gradient passes through the choice, and no array is larger than
    `(batch, references)`. A subclass makes its choice in `choose` and keeps every argument as an attribute of the
    same name.
    """

    @abc.abstractmethod
    def choose(self, pairs: Pairs) -> PairMasks:
        """The pairs that count, among those that counted before.

        Args:
            pairs: `tfdml.ops.Pairs`.

        Returns:
            `tfdml.ops.PairMasks`, each `(batch, references)`.
        """

    def mine(self, pairs: Pairs) -> Pairs:
        """The comparison narrowed to the chosen pairs."""
        return pairs.narrowed(self.choose(pairs.with_embeddings(tf.stop_gradient)))

    def __call__(self, labels: Labels, embeddings: TensorLike, references: References | None = None) -> PairMasks:
        """The masks of the chosen pairs.

        Args:
            labels: Integer class labels, `(batch,)`.
            embeddings: `(batch, dim)`.
            references: `tfdml.layers.References`; `None` compares the batch with itself.

        Returns:
            `tfdml.ops.PairMasks(positives, negatives)`, each `(batch, references)`.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self.choose(ops.compare(labels, embeddings, references))

    def get_config(self) -> Config:
        return configuration(self)

    @classmethod
    def from_config(cls, config: Config) -> Miner:
        return cls(**config)
