"""Minimization over matrices, and the matrices it starts from."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg
import scipy.optimize
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning

from tfdml._utils.arguments import check_choice


def minimize(function, start, max_iter, tol):
    """Minimize a function of a matrix with L-BFGS, which is restarted until a restart gains less than `tol`.

    A restart discards the curvature that L-BFGS has gathered. Near kinks of hinge losses it is often wrong.

    Args:
        function: callable from a matrix to (value, gradient).
        start: float64 array `(r, d)`.
        max_iter: int. Largest total number of iterations.
        tol: float. Relative decrease of the value in an iteration, and in a restart, that ends the search.

    Returns:
        The triple (matrix, value, iterations).
    """

    def flat(w):
        value, gradient = function(w.reshape(start.shape))
        return value, gradient.ravel()

    best, value, iterations = start, np.inf, 0
    while True:
        options = {"maxiter": max(1, max_iter - iterations), "ftol": tol, "gtol": 0.0, "maxcor": 20, "maxfun": 10**6}
        result = scipy.optimize.minimize(flat, best.ravel(), jac=True, method="L-BFGS-B", options=options)
        iterations += result.nit
        gain = value - result.fun
        if result.fun < value:
            best, value = result.x.reshape(start.shape), float(result.fun)
        if iterations >= max_iter or not gain > tol * max(1.0, abs(value)):
            return best, value, iterations


def warn_if_stopped(estimator, iterations):
    """Warn that the number of iterations was reached."""
    if iterations >= estimator.max_iter:
        warnings.warn(
            f"{type(estimator).__name__} did not converge. Received: max_iter={estimator.max_iter}. Increase it.",
            ConvergenceWarning,
            stacklevel=3,
        )


def start_matrix(init, X, numbers, count):
    """Return the matrix `(count, d)` that a search starts from.

    Args:
        init: `"auto"`, `"identity"`, `"pca"`, `"lda"` or an array.
        X: float64 array `(n, d)`.
        numbers: int array `(n,)`. Numbers of the classes.
        count: int. Number of rows.

    Raises:
        ValueError: If the name is unknown, or the array has another shape or is not finite.
    """
    features = X.shape[1]
    if not isinstance(init, str):
        init = np.array(init, np.float64)
        if init.shape != (count, features) or not np.isfinite(init).all():
            raise ValueError(
                f"Invalid init. Received: an array of shape {init.shape}. Expected: finite values "
                f"({count}, {features})."
            )
        return init
    check_choice("init", init, ("auto", "identity", "pca", "lda"))
    if init == "auto":
        init = "identity" if count == features else "pca"
    if init == "identity":
        return np.eye(count, features)
    if init == "pca":
        found = PCA(min(count, *X.shape), random_state=0).fit(X).components_
    else:
        found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-4).fit(X, numbers).scalings_.T[:count]
    # Directions that are missing are completed by orthogonal ones, which the search may shrink.
    missing = scipy.linalg.null_space(found).T[: count - len(found)]
    return np.concatenate([found, missing])
