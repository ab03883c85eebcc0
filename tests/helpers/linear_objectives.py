"""Objectives of linear metrics as loops or plain matrices, written from the formulas, and finite differences."""

import numpy as np
import scipy.spatial
import scipy.special


def finite_differences(function, matrix, step=1e-6):
    """The gradient of a function of a float64 matrix by central differences."""
    gradient = np.zeros_like(matrix)
    for place in np.ndindex(matrix.shape):
        moved = np.zeros_like(matrix)
        moved[place] = step
        gradient[place] = (function(matrix + moved) - function(matrix - moved)) / (2 * step)
    return gradient


def squared(M, x, y):
    return float((x - y) @ M @ (x - y))


def class_pairs(labels):
    """All unordered pairs `(m, 2)` and whether they have the same label."""
    pairs = np.stack(np.triu_indices(len(labels), 1), axis=1)
    labels = np.asarray(labels)
    return pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]]


def targets_of(X, labels, k):
    """Lists of the k nearest samples of the same class."""
    lists = []
    for i, x in enumerate(X):
        members = [j for j in range(len(X)) if j != i and labels[j] == labels[i]]
        lists.append(sorted(members, key=lambda j: np.sum((x - X[j]) ** 2))[:k])
    return lists


def lmnn_loop(M, X, labels, k, mu):
    pull = push = 0.0
    for i, targets in enumerate(targets_of(X, labels, k)):
        for j in targets:
            pull += squared(M, X[i], X[j])
            for other in range(len(X)):
                if labels[other] != labels[i]:
                    push += max(0.0, 1.0 + squared(M, X[i], X[j]) - squared(M, X[i], X[other]))
    return mu * pull + (1 - mu) * push


def lmnn(M, X, labels, k, mu):
    """As the loop, but with one matrix of all distances."""
    raw = np.sum((X[:, None] - X) ** 2, axis=2)
    same = labels[:, None] == labels
    ranks = np.argsort(np.where(same & ~np.eye(len(X), dtype=bool), raw, np.inf), axis=1)[:, :k]
    # M = W'W: distances of the transformed samples.
    values, vectors = np.linalg.eigh(M)
    Z = X @ vectors * np.sqrt(np.maximum(values, 0.0))
    distances = np.sum((Z[:, None] - Z) ** 2, axis=2)
    pull = push = 0.0
    for column in ranks.T:
        own = distances[np.arange(len(X)), column][:, None]
        pull += own.sum()
        push += np.sum(np.maximum(0.0, 1.0 + own - distances)[~same])
    return mu * pull + (1 - mu) * push


def nca(M, X, labels):
    expected = 0.0
    for i in range(len(X)):
        weights = np.array([np.exp(-squared(M, X[i], x)) for x in X])
        weights[i] = 0.0
        expected += weights[labels == labels[i]].sum() / weights.sum()
    return expected


def nca_of_many(M, X, labels):
    """As `nca`, but with one matrix of all distances."""
    differences = scipy.spatial.distance.cdist(X, X, "mahalanobis", VI=M) ** 2
    np.fill_diagonal(differences, np.inf)
    shares = scipy.special.softmax(-differences, axis=1)
    return float(shares[labels[:, None] == labels].sum())


def mmc(M, X, pairs, same):
    """The sum of the distances of dissimilar pairs, scaled so that squared distances of similar pairs sum to 1."""
    total = sum(squared(M, X[i], X[j]) for i, j in pairs[same])
    return sum(squared(M, X[i], X[j]) ** 0.5 for i, j in pairs[~same]) / total**0.5


def itml(M, X, pairs, same, bounds, gamma, prior):
    ratio = M @ np.linalg.inv(prior)
    value = np.trace(ratio) - np.linalg.slogdet(ratio)[1] - len(M)
    for (i, j), similar in zip(pairs, same):
        distance = squared(M, X[i], X[j])
        slack = max(distance, bounds[0]) / bounds[0] if similar else min(distance, bounds[1]) / bounds[1]
        value += gamma * (slack - np.log(slack) - 1)
    return value
