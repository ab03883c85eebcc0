"""Hulls of classes: by hand, by sampling, and degenerate cases."""

import numpy as np
import pytest
from matplotlib.path import Path

from studies.hulls import RESOLUTION, class_hulls, common_area, hull_overlap, outline


def hulls_of(*classes):
    labels = np.repeat(np.arange(len(classes)), [len(points) for points in classes])
    return list(class_hulls(np.concatenate(classes), labels).values())


def square(left, bottom, side):
    return [[left + x * side, bottom + y * side] for x in (0, 1) for y in (0, 1)]


def test_areas_by_hand():
    first, second, inside, apart = hulls_of(square(0, 0, 2), square(1, 1, 2), square(0.5, 0.5, 1), square(5, 5, 1))
    tolerance = {"abs": 20 * RESOLUTION * 6}
    assert first.volume == pytest.approx(4.0, **tolerance)
    assert common_area(first, second) == pytest.approx(1.0, **tolerance)
    assert common_area(second, first) == pytest.approx(1.0, **tolerance)
    assert common_area(first, inside) == pytest.approx(1.0, **tolerance)
    assert common_area(first, apart) == 0.0
    # Of six pairs three overlap: a quarter of the smaller hull, all of it, and a quarter.
    overlap = hull_overlap([first, second, inside, apart])
    assert overlap.pairs == 0.5
    assert overlap.area == pytest.approx((0.25 + 1.0 + 0.25) / 6, **tolerance)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_area_by_sampling(seed, scale):
    generator = np.random.default_rng(seed)
    classes = [scale * generator.normal(size=(20, 2)), scale * (0.5 * generator.normal(size=(20, 2)) + 0.8)]
    first, second = hulls_of(*classes)
    low, high = np.min(np.concatenate(classes), axis=0), np.max(np.concatenate(classes), axis=0)
    points = generator.uniform(low, high, (20000, 2))
    both = np.all([Path(outline(hull)).contains_points(points) for hull in (first, second)], axis=0)
    assert common_area(first, second) / np.prod(high - low) == pytest.approx(both.mean(), abs=0.015)


def test_outline_goes_around():
    (hull,) = hulls_of([*square(0, 0, 1), [0.5, 0.5]])
    x, y = outline(hull).T
    assert 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) == pytest.approx(hull.volume)


def test_points_and_lines_are_hulls():
    point, through, beside, end = hulls_of([[0, 0]] * 3, [[-1, -1], [1, 1]], [[-1, -0.9], [1, 1.1]], [[0, 0], [-1, 1]])
    assert common_area(point, through) > 0.0
    assert common_area(point, beside) == 0.0
    assert common_area(through, beside) == 0.0
    assert common_area(through, end) > 0.0
    assert hull_overlap([point, point, beside]).pairs == pytest.approx(1 / 3)


def test_errors():
    with pytest.raises(ValueError, match=r"points of shape \(3, 3\)"):
        class_hulls(np.ones((3, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="points of extent 0.0"):
        class_hulls(np.ones((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="at least two hulls"):
        hull_overlap(hulls_of(square(0, 0, 1)))
