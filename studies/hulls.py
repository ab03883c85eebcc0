"""Convex hulls of classes in the plane, and how much of them is shared."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

# As a share of the points' extent: hulls that are nearer than twice that touch.
RESOLUTION = 1e-5
_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


class Overlap(NamedTuple):
    """How much the hulls of classes overlap.

    Attributes:
        pairs: Share of the pairs of classes whose hulls intersect.
        area: The area that the hulls of two classes have in common, as a share of the smaller hull's, mean over
            all pairs.
    """

    pairs: float
    area: float


def class_hulls(points, labels):
    """The convex hull of each class' points.

    Args:
        points: `(n, 2)` finite numbers.
        labels: Their classes, `(n,)`.

    Returns:
        From the label, sorted, to the hull, a `scipy.spatial.ConvexHull`. Each point counts as a square of
        `RESOLUTION` times the extent of all points, so a class that lies on a line or at one place has a hull, too.

    Raises:
        ValueError: If the shapes do not fit or all points are the same.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(
            f"Points do not fit. Received: points of shape {points.shape} and labels of shape {labels.shape}; "
            "expected (n, 2) and (n,)."
        )
    extent = np.ptp(points, axis=0).max()
    if not 0.0 < extent < np.inf:
        raise ValueError(f"Hulls need points apart from each other. Received: points of extent {extent}.")
    squares = (points[:, None] + RESOLUTION * extent * _CORNERS).reshape(-1, 2)
    owners = np.repeat(labels, len(_CORNERS))
    return {label: ConvexHull(squares[owners == label]) for label in np.unique(labels)}


def outline(hull):
    """The corners of a hull, `(corners, 2)`, in order around it."""
    return hull.points[hull.vertices]


def common_area(first, second):
    """The area that two hulls have in common: 0.0 if they do not intersect."""
    corners = np.concatenate([outline(first), outline(second)])
    centre, extent = corners.mean(axis=0), np.ptp(corners, axis=0).max()
    sides = np.concatenate([first.equations, second.equations])
    # To about unit size: the linear program's tolerances are absolute.
    sides[:, 2] = (sides[:, 2] + sides[:, :2] @ centre) / extent
    # The largest disc inside all sides; its radius is negative where the hulls lie apart.
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
    """How much hulls overlap.

    Args:
        hulls: Two or more of them, such as the values of `class_hulls`.

    Returns:
        An `Overlap`.

    Example:
        >>> squares = class_hulls([[0, 0], [0, 2], [2, 0], [2, 2], [1, 0], [1, 2], [5, 0], [5, 2]], [0] * 4 + [1] * 4)
        >>> [round(share, 3) for share in hull_overlap(squares.values())]
        [1.0, 0.5]
    """
    pairs = list(itertools.combinations(hulls, 2))
    if not pairs:
        raise ValueError("Overlap is of two hulls or more. Received: fewer.")
    # In the plane a ConvexHull's volume is its area.
    shares = np.array([common_area(a, b) / min(a.volume, b.volume) for a, b in pairs])
    return Overlap(float(np.mean(shares > 0.0)), float(np.mean(shares)))
