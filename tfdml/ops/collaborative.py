"""Terms of collaborative metric learning: losses on squared distances, and a covariance penalty."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.arguments import check_choice, check_positive, check_whole_number
from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32

IMPOSTORS = ("closest", "all")


def warp_hinge(
    positive: TensorLike, negatives: TensorLike, margin: float, item_count: int, impostors: str = "closest"
) -> tf.Tensor:
    r"""Weight the hinge of each positive item by the logarithm of its estimated rank (WARP).

    With the squared distances $d_p$ of a user to a positive item and $d_k$ to $K$ sampled negative items, item $k$ is
    an impostor if $m + d_p - d_k > 0$. If $M$ of the samples are impostors, about $r = M n / K$ of all $n$ items are,
    and

    $$L = \log(r + 1)\, \max(0,\; m + d_p - \min_k d_k).$$

    with `impostors="closest"`, as in the code of the paper's authors, or, with `impostors="all"`, as in the paper's
    formula up to the factor $K$,

    $$L = \log(r + 1)\, \frac{1}{K} \sum_k \max(0,\; m + d_p - d_k).$$

    No gradient flows through the rank.

    Args:
        positive: float tensor `(batch,)`. Squared distances to positive items.
        negatives: float tensor `(batch, K)`. Squared distances to sampled negative items.
        margin: float, > 0. $m$.
        item_count: int. Number $n$ of items from which the negative ones are drawn.
        impostors: `"closest"` or `"all"`. Impostors that are pushed. Default `"closest"`.

    Returns:
        Tensor `(batch,)`.

    Raises:
        ValueError: If an argument is out of range, or the shapes do not match.

    Example:
        >>> from tfdml import ops
        >>> print(ops.warp_hinge([1.0, 0.0], [[0.5, 3.0], [2.0, 2.0]], margin=1.0, item_count=2).numpy().round(2))
        [1.04 0.  ]

    Reference:
        Hsieh et al., "Collaborative metric learning", WWW 2017, section 3.3; Weston et al., "WSABIE", IJCAI 2011.
    """
    check_positive("margin", margin)
    check_whole_number("item_count", item_count, 1)
    check_choice("impostors", impostors, IMPOSTORS)
    positive, negatives = _distances(positive, negatives)
    excess = margin + positive[:, None] - negatives
    if impostors == "closest":
        hinge = tf.maximum(margin + positive - tf.reduce_min(negatives, axis=1), 0.0)
    else:
        hinge = tf.reduce_mean(tf.maximum(excess, 0.0), axis=1)
    rank = tf.reduce_mean(tf.cast(excess > 0.0, hinge.dtype), axis=1) * item_count
    return tf.stop_gradient(tf.math.log1p(rank)) * hinge


def pairwise_logistic(positive: TensorLike, negatives: TensorLike, scale: float = 1.0) -> tf.Tensor:
    r"""Compare each positive item with each negative one by the logistic loss of Bayesian personalized ranking (BPR).

    With the squared distances $d_p$ of a user to a positive item and $d_k$ to $K$ sampled negative items, it is

    $$L = \frac{1}{K} \sum_k \log\bigl(1 + e^{s (d_p - d_k)}\bigr),$$

    the mean negative logarithm of the probability $\sigma(s (d_k - d_p))$ that the user prefers the positive item. BPR
    has inner products in place of the negative distances; with distances, it is the criterion of personalized ranking
    metric embedding (PRME). Unlike the WARP hinge, it has no margin and pushes every negative item, the closer the
    harder.

    Args:
        positive: float tensor `(batch,)`. Squared distances to positive items.
        negatives: float tensor `(batch, K)`. Squared distances to sampled negative items.
        scale: float, > 0. $s$, the inverse of a temperature. Default 1.0.

    Returns:
        Tensor `(batch,)`.

    Raises:
        ValueError: If the scale is out of range, or the shapes do not match.

    Example:
        >>> from tfdml import ops
        >>> print(ops.pairwise_logistic([1.0, 0.0], [[1.0, 1.0], [2.0, 2.0]]).numpy().round(3))
        [0.693 0.127]

    Reference:
        Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009, section 4.1; Feng et al.,
        "Personalized ranking metric embedding for next new POI recommendation", IJCAI 2015.
    """
    check_positive("scale", scale)
    positive, negatives = _distances(positive, negatives)
    return tf.reduce_mean(tf.nn.softplus(scale * (positive[:, None] - negatives)), axis=1)


def _distances(positive, negatives):
    positive, negatives = at_least_float32(positive), at_least_float32(negatives)
    shapes = positive.shape, negatives.shape
    if shapes[0].rank != 1 or shapes[1].rank != 2 or not shapes[1][:1].is_compatible_with(shapes[0]):
        raise ValueError(
            f"Distances do not match. Received: shapes {shapes[0]} and {shapes[1]}. Expected: (batch,) and (batch, K)."
        )
    return positive, negatives


def covariance_penalty(embeddings: TensorLike) -> tf.Tensor:
    r"""Penalize correlations between the dimensions of embeddings.

    $$\frac{1}{n} \Bigl( \lVert C \rVert_F^2 - \lVert \operatorname{diag} C \rVert_2^2 \Bigr), \qquad
      C = \frac{1}{n} \sum_i (e_i - \mu)(e_i - \mu)^\top.$$

    The paper writes the Frobenius norm without a square, which would not vanish for uncorrelated dimensions.

    Args:
        embeddings: float tensor `(n, dim)`.

    Returns:
        Scalar, >= 0; 0 if the dimensions are uncorrelated.

    Raises:
        ValueError: If the embeddings are not a matrix.

    Example:
        >>> from tfdml import ops
        >>> float(ops.covariance_penalty([[1.0, 1.0], [-1.0, -1.0]]))
        1.0

    Reference:
        Hsieh et al., "Collaborative metric learning", WWW 2017, section 3.5.
    """
    embeddings = at_least_float32(embeddings)
    if embeddings.shape.rank != 2:
        raise ValueError(f"Embeddings must be vectors. Received: shape {embeddings.shape}. Expected: (n, dim).")
    count = tf.cast(tf.shape(embeddings)[0], embeddings.dtype)
    centered = embeddings - tf.reduce_mean(embeddings, axis=0)
    covariance = tf.matmul(centered, centered, transpose_a=True) / count
    off_diagonal = tf.linalg.set_diag(covariance, tf.zeros_like(embeddings[0]))
    return tf.reduce_sum(tf.square(off_diagonal)) / count
