"""Convex hulls of classes in the plane, and their overlap."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

# Relative to the extent of the points. Hulls closer than twice that touch.
RESOLUTION = 1e-5
_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


class Overlap(NamedTuple):
    """Overlap of the hulls of classes.

    Attributes:
        pairs: float. Share of the pairs of classes whose hulls intersect.
        area: float. Common area of two hulls relative to the smaller one, averaged over all pairs.
    """

    pairs: float
    area: float


def class_hulls(points, labels):
    """Compute the convex hull of the points of each class.

    Args:
        points: float array `(n, 2)`, finite.
        labels: array `(n,)`. Classes of the points.

    Returns:
        dict from the label, sorted, to the hull, a `scipy.spatial.ConvexHull`. Each point counts as a square with
        `RESOLUTION` times the extent of all points, so that a class on a line or in one place has a hull, too.

    Raises:
        ValueError: If the shapes do not match or all points are equal.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(
            f"Shapes do not match. Received: points of shape {points.shape} and labels of shape {labels.shape}. "
            "Expected: (n, 2) and (n,)."
        )
    extent = np.ptp(points, axis=0).max()
    if not 0.0 < extent < np.inf:
        raise ValueError(f"Hulls need distinct, finite points. Received: points of extent {extent}. Expected: > 0.")
    squares = (points[:, None] + RESOLUTION * extent * _CORNERS).reshape(-1, 2)
    owners = np.repeat(labels, len(_CORNERS))
    return {label: ConvexHull(squares[owners == label]) for label in np.unique(labels)}


def outline(hull):
    """Corners of a hull, `(corners, 2)`, in order around it."""
    return hull.points[hull.vertices]


def common_area(first, second):
    """Common area of two hulls; 0.0 if they do not intersect."""
    corners = np.concatenate([outline(first), outline(second)])
    center, extent = corners.mean(axis=0), np.ptp(corners, axis=0).max()
    sides = np.concatenate([first.equations, second.equations])
    # Scaled to about unit size, because the tolerances of the linear program are absolute.
    sides[:, 2] = (sides[:, 2] + sides[:, :2] @ center) / extent
    # The largest disc inside all sides. Its radius is negative if the hulls are disjoint.
    disc = linprog(
        [0.0, 0.0, -1.0],
        A_ub=np.column_stack([sides[:, :2], np.ones(len(sides))]),
        b_ub=-sides[:, 2],
        bounds=[(None, None)] * 3,
    )
    *inside, radius = disc.x
    if radius < 0.1 * RESOLUTION:
        return 0.0
    return ConvexHull(HalfspaceIntersection(sides, np.array(inside)).intersections).volume * extent**2


def hull_overlap(hulls):
    """Compute the overlap of hulls.

    Args:
        hulls: iterable of two or more hulls, such as the values of `class_hulls`.

    Returns:
        An `Overlap`.

    Example:
        >>> squares = class_hulls([[0, 0], [0, 2], [2, 0], [2, 2], [1, 0], [1, 2], [5, 0], [5, 2]], [0] * 4 + [1] * 4)
        >>> [round(share, 3) for share in hull_overlap(squares.values())]
        [1.0, 0.5]
    """
    pairs = list(itertools.combinations(hulls, 2))
    if not pairs:
        raise ValueError("Overlap needs at least two hulls. Received: fewer.")
    # In the plane a ConvexHull's volume is its area.
    shares = np.array([common_area(a, b) / min(a.volume, b.volume) for a, b in pairs])
    return Overlap(float(np.mean(shares > 0.0)), float(np.mean(shares)))
