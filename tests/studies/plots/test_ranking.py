import numpy as np
import pytest

from studies.plots import ranking

NAMES = ["third", "first", "second"]
RANKS = np.array([[3.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.0, 3.0, 2.0]])


def test_draws_means_and_deviations_in_order():
    (axes,) = ranking(NAMES, RANKS).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second", "third"]
    means, _, (bars,) = axes.containers[0]
    np.testing.assert_allclose(means.get_xdata(), [1.0, 7 / 3, 8 / 3])
    widths = [segment[1, 0] - segment[0, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(widths, 2 * RANKS.std(axis=1)[[1, 2, 0]])
    low, high = axes.get_ylim()
    assert low > high  # the best at the top


def test_equal_ranks_lie_side_by_side():
    (axes,) = ranking(NAMES, RANKS).axes
    dots = [line for line in axes.lines if line.get_marker() == "."][0]
    np.testing.assert_array_equal(dots.get_xdata(), [1.0, 1.0, 1.0])
    assert len(set(dots.get_ydata())) == 3


@pytest.mark.parametrize("ranks", [RANKS[:2], RANKS[0], np.zeros((3, 0))])
def test_wrong_shapes(ranks):
    with pytest.raises(ValueError, match="Shapes do not match. Received: 3 names"):
        ranking(NAMES, ranks)
