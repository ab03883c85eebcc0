"""Ridge regression."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.arguments import check_positive
from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32


def ridge_regression(
    inputs: TensorLike, targets: TensorLike, penalty: float, weights: TensorLike | None = None
) -> tf.Tensor:
    r"""Solve a linear regression with an L2 penalty on the coefficients.

    $$A = \arg\min_A \sum_j w_j \lVert A z_j - y_j \rVert_2^2 + \lambda \lVert A \rVert_F^2
        = Y^\top W Z \, (Z^\top W Z + \lambda I)^{-1}$$

    with the inputs $z_j$ and the targets $y_j$ as rows of $Z$ and $Y$, and $W = \mathrm{diag}(w)$. There is no
    intercept, and the penalty does not scale with the number of samples. The system is solved by Cholesky
    decomposition; gradients flow through the solution.

    Args:
        inputs: float tensor, `(..., n, m)`. $Z$; leading axes are independent problems. Half precision is computed, and
            returned, in float32.
        targets: float tensor, `(..., n, d)`. $Y$.
        penalty: float, > 0. $\lambda$. In float32 it should exceed about 1e-6 of the largest eigenvalue of
            $Z^\top W Z$.
        weights: Tensor `(..., n)`, numbers >= 0 or booleans, or `None`. $w$; 0 excludes a sample without changing
            shapes. Leading axes of the three tensors are broadcast: weights `(2, n)` with inputs `(n, m)` are two
            regressions on different samples. Default: `None`, 1 for all samples.

    Returns:
        Tensor `(..., d, m)`. $A$; 0 if all weights are 0. Predictions are `tf.matmul(inputs, A, transpose_b=True)`.

    Raises:
        ValueError: If the penalty is not positive or shapes do not match.

    Reference:
        Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 1970; Gürbüz,
        "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, (P3).

    Example:
        >>> from tfdml import ops
        >>> A = ops.ridge_regression([[1.0, 0.0], [0.0, 1.0]], [[4.0], [2.0]], penalty=1.0)
        >>> A.numpy().round(5).tolist()
        [[2.0, 1.0]]
    """
    inputs = at_least_float32(inputs)
    targets = tf.cast(targets, inputs.dtype)
    penalty = check_positive("penalty", penalty)
    _check_shapes(inputs, targets)
    weighted = inputs
    if weights is not None:
        weights = tf.cast(weights, inputs.dtype)
        if not weights.shape[-1:].is_compatible_with(inputs.shape[-2:-1]):
            raise ValueError(
                f"Weights and inputs do not match. Received: weights of shape {tuple(weights.shape)} and inputs of "
                f"shape {tuple(inputs.shape)}. Expected: one weight per sample."
            )
        weighted = inputs * weights[..., None]
    gram = tf.matmul(weighted, inputs, transpose_a=True)
    identity = tf.eye(tf.shape(inputs)[-1], dtype=inputs.dtype)
    factor = tf.linalg.cholesky(gram + float(penalty) * identity)
    moments = tf.matmul(weighted, targets, transpose_a=True)
    return tf.linalg.matrix_transpose(_solve(factor, moments))


def _solve(factor, right):
    r"""Solve $L L^\top X = R$, where one side may have fewer leading axes than the other."""
    halfway = tf.linalg.triangular_solve(factor, right, lower=True)
    return tf.linalg.triangular_solve(factor, halfway, lower=True, adjoint=True)


def _check_shapes(inputs, targets):
    if any(tensor.shape.rank is not None and tensor.shape.rank < 2 for tensor in (inputs, targets)):
        raise ValueError(
            f"Inputs or targets have the wrong rank. Received: inputs of shape {tuple(inputs.shape)}, targets of shape "
            f"{tuple(targets.shape)}. Expected: inputs (..., n, m) and targets (..., n, d)."
        )
    if not inputs.shape[-2:-1].is_compatible_with(targets.shape[-2:-1]):
        raise ValueError(
            f"Inputs and targets do not match. Received: inputs of shape {tuple(inputs.shape)}, targets of shape "
            f"{tuple(targets.shape)}. Expected: one target per input."
        )
