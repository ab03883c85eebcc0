"""Base class of the miners."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfdml import ops, relations
from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Identifier, Labels, TensorLike
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs, References


class Miner(abc.ABC):
    """Base class of objects that select the pairs that count.

    Most pairs of a batch are easy and contribute little; a miner restricts a loss to the informative ones. Pass it to
    any loss, `losses.MarginLoss(miner="distance_weighted")`, or call it, `miner(labels, embeddings)`, for the masks of
    the selected pairs. No gradient flows through the selection, and no array exceeds `(batch, references)`.

    To write a miner, implement `choose` and store every argument as an attribute of the same name.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import miners, ops
        >>> class NoNegatives(miners.Miner):
        ...     def choose(self, pairs):
        ...         return ops.PairMasks(pairs.positives, tf.zeros_like(pairs.negatives))
        >>> NoNegatives()([0, 0, 1], [[0.0], [1.0], [2.0]]).positives.numpy().sum(axis=1).tolist()
        [1, 1, 0]
    """

    @abc.abstractmethod
    def choose(self, pairs: Pairs) -> PairMasks:
        """Select the pairs that count. Subclasses implement this.

        Args:
            pairs: `tfdml.ops.Pairs`. Select only among pairs whose masks are set.

        Returns:
            `tfdml.ops.PairMasks`, each `(batch, references)`.
        """

    def mine(self, pairs: Pairs) -> Pairs:
        """Restrict pairs to the selected ones."""
        return pairs.narrowed(self.choose(pairs.with_embeddings(tf.stop_gradient)))

    def __call__(
        self,
        labels: Labels,
        embeddings: TensorLike,
        references: References | None = None,
        relation: Identifier | None = None,
    ) -> PairMasks:
        """Compute the masks of the selected pairs.

        Args:
            labels: int tensor, `(batch,)`. Class labels.
            embeddings: float tensor, `(batch, dim)`.
            references: `tfdml.layers.References` or `None`. `None` compares the batch with itself. Default: `None`.
            relation: `tfdml.relations.Relation`, or `None` for pairs of the same class. Labels are what it compares.
                Default: `None`.

        Returns:
            `tfdml.ops.PairMasks(positives, negatives)`, each `(batch, references)`.

        Raises:
            ValueError: If the shapes do not match.
        """
        relation = None if relation is None else relations.get(relation)
        return self.choose(ops.compare(labels, embeddings, references, relation))

    def get_config(self) -> Config:
        return configuration(self)

    @classmethod
    def from_config(cls, config: Config) -> Miner:
        return cls(**config)
