"""Softmax cross-entropy of queries and candidate items."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import Labels, TensorLike
from tfdml.ops.labels import integer_labels
from tfdml.ops.masked import masked_logsumexp
from tfdml.ops.precision import at_least_float32

NO_ITEM = -1


def query_item_negatives(
    item_ids: Labels, candidate_ids: Labels, query_ids: Labels | None = None, shared_ids: bool = False
) -> tf.Tensor:
    r"""Find the candidates that are negatives of each query.

    The first `batch` candidates are the items of the batch, in its order; explicit negatives and a memory may follow. A
    candidate is a negative of query $i$ unless

    - it is the item of the query, or another candidate with its id,
    - it has the id of an item that another pair of the batch gives to the same query id,
    - its id is -1, which stands for no item, or
    - queries and items share their ids and it has the id of the query.

    Args:
        item_ids: int tensor `(batch,)`. Ids of the items of the queries.
        candidate_ids: int tensor `(candidates,)`. Ids of all candidates.
        query_ids: int tensor `(batch,)`, or `None` if all queries differ. Default: `None`.
        shared_ids: bool. Whether equal ids of a query and of an item name the same thing. Default: `False`.

    Returns:
        bool tensor `(batch, candidates)`.

    Raises:
        ValueError: If ids are not integers, or `shared_ids` is set without query ids.

    Example:
        >>> from tfdml import ops
        >>> ops.query_item_negatives([7, 8, 7], [7, 8, 7, 9, -1]).numpy().astype(int).tolist()
        [[0, 1, 0, 1, 0], [1, 0, 1, 1, 0], [0, 1, 0, 1, 0]]
    """
    item_ids, candidate_ids = integer_labels(item_ids), integer_labels(candidate_ids)
    negatives = (candidate_ids[None, :] != item_ids[:, None]) & (candidate_ids != NO_ITEM)[None, :]
    if query_ids is None:
        if shared_ids:
            raise ValueError(
                "Shared ids need ids of queries. Received: shared_ids=True without query_ids. Expected: both."
            )
        return negatives
    query_ids = integer_labels(query_ids)
    negatives &= ~_items_of_queries(query_ids, item_ids, candidate_ids)
    return negatives & (candidate_ids[None, :] != query_ids[:, None]) if shared_ids else negatives


def _items_of_queries(query_ids, item_ids, candidate_ids):
    """Find the candidates that are items of each query in any pair of the batch, bool `(batch, candidates)`."""
    size = tf.shape(item_ids)[0]
    # Each id is represented by the first pair of the batch that has it.
    queries, items = _first(query_ids, query_ids), _first(item_ids, item_ids)
    candidates = _first(candidate_ids, item_ids)
    pairs = tf.stack([queries, items], axis=1)
    belongs = tf.scatter_nd(pairs, tf.ones_like(queries), tf.stack([size, size])) > 0
    found = tf.gather(tf.gather(belongs, queries), tf.minimum(candidates, size - 1), axis=1)
    return found & (candidates < size)[None, :]


def _first(ids, known):
    """Index of the first known id that equals each id, their number if none does."""
    size = tf.shape(known)[0]
    return tf.reduce_min(tf.where(ids[:, None] == known[None, :], tf.range(size)[None, :], size), axis=1)


def query_item_losses(
    similarities: TensorLike, negatives: TensorLike, temperature: TensorLike = 1.0, log_q: TensorLike | None = None
) -> tf.Tensor:
    r"""Compute the cross-entropy of each query's item in a softmax over it and the query's negatives.

    With similarities $s_{ij}$, the temperature $\tau$ and the probability $q_j$ that candidate $j$ is drawn into a
    batch,

    $$z_{ij} = \frac{s_{ij}}{\tau} - \log q_j, \qquad
      \ell_i = -\log \frac{e^{z_{ii}}}{e^{z_{ii}} + \sum_{n \in N_i} e^{z_{in}}}.$$

    Items that are drawn often would otherwise be pushed away more often than rare ones. Multiplying all $q_j$ by a
    constant does not change the loss.

    Args:
        similarities: float tensor `(batch, candidates)`. The first `batch` candidates are the items of the queries, in
            their order. Half precision is computed in float32.
        negatives: bool tensor `(batch, candidates)`, as from `query_item_negatives`.
        temperature: float or scalar tensor, > 0. Default: 1.
        log_q: float tensor `(candidates,)`, or `None` for candidates that are equally probable. Default: `None`.

    Returns:
        Tensor `(batch,)`, 0 with a zero gradient for a query without a negative.

    Reference:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019.

    Example:
        >>> from tfdml import ops
        >>> negatives = ops.query_item_negatives([0, 1], [0, 1])
        >>> losses = ops.query_item_losses([[1.0, 0.0], [0.5, 0.5]], negatives)
        >>> [round(float(loss), 4) for loss in losses]  # log(1 + 1/e), log 2
        [0.3133, 0.6931]
    """
    logits = at_least_float32(similarities)
    logits /= tf.cast(temperature, logits.dtype)
    if log_q is not None:
        logits -= tf.cast(log_q, logits.dtype)[None, :]
    own = tf.linalg.diag_part(logits)
    return tf.nn.softplus(masked_logsumexp(logits, tf.convert_to_tensor(negatives)) - own)
