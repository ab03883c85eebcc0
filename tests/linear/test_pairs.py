import numpy as np
import pytest
from linear_objectives import class_pairs, finite_differences

from tfdml.linear.blocks import other_class_blocks
from tfdml.linear.pairs import ClassPairs, ListedPairs, draw_pairs


@pytest.fixture
def samples():
    generator = np.random.default_rng(1)
    return generator.normal(size=(15, 3)) + 5.0, np.array([0, 2, 1, 1, 2, 0, 2, 2, 1, 0, 3, 0, 2, 1, 2])


def test_scatters_and_distances_by_loops(samples):
    X, numbers = samples
    pairs, same = class_pairs(numbers)
    W = np.random.default_rng(2).normal(size=(2, 3))
    outer = [np.outer(X[i] - X[j], X[i] - X[j]) for i, j in pairs]
    total = sum(np.linalg.norm(W @ (X[i] - X[j])) for i, j in pairs[~same])
    for kind in (ClassPairs(X, numbers), ListedPairs(X, pairs, same)):
        similar, dissimilar = kind.scatters()
        np.testing.assert_allclose(similar, sum(outer[k] for k in np.flatnonzero(same)))
        np.testing.assert_allclose(dissimilar, sum(outer[k] for k in np.flatnonzero(~same)))
        assert (kind.similar_count, kind.dissimilar_count) == (same.sum(), (~same).sum())
        value, gradient = kind.sum_of_distances(W)
        assert value == pytest.approx(total)
        numeric = finite_differences(lambda moved, kind=kind: kind.sum_of_distances(moved)[0], W)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6)


def test_equal_samples_have_no_gradient():
    X, numbers = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]), np.array([0, 0, 1, 1])
    pairs = class_pairs(numbers)
    for kind in (ClassPairs(X, numbers), ListedPairs(X, *pairs)):
        value, gradient = kind.sum_of_distances(np.eye(2))
        assert value == 0 and not gradient.any()


@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
def test_blocks_cover_each_pair_of_classes_once(block_bytes):
    numbers = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    seen = np.zeros((8, 8), int)
    for rows, columns in other_class_blocks(numbers, block_bytes):
        seen[rows, columns] += 1
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert height == 1 or height * width * 8 <= block_bytes
    np.testing.assert_array_equal(seen + seen.T, numbers[:, None] != numbers)


@pytest.mark.parametrize("n_pairs", [1, 5, 14, 20])
def test_drawn_pairs(samples, n_pairs):
    _, numbers = samples
    pairs, same = draw_pairs(numbers, n_pairs, np.random.RandomState(0))
    assert same.sum() == (~same).sum() == n_pairs
    np.testing.assert_array_equal(numbers[pairs[:, 0]] == numbers[pairs[:, 1]], same)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)


def test_too_many_pairs_are_all_pairs(samples):
    _, numbers = samples
    everything, truly_same = class_pairs(numbers)
    with pytest.warns(UserWarning, match="fewer similar pairs. Received: n_pairs=50. All 27 are used"):
        pairs, same = draw_pairs(numbers, 50, np.random.RandomState(0))
    assert same.sum() == truly_same.sum() and (~same).sum() == 50
    assert {frozenset(pair) for pair in pairs[same].tolist()} == {frozenset(p) for p in everything[truly_same].tolist()}


def test_pairs_are_drawn_uniformly():
    numbers = np.array([0, 1, 1, 1, 0])
    generator = np.random.RandomState(0)
    draws = [draw_pairs(numbers, 1, generator)[0] for _ in range(2000)]
    for place, expected in ((0, 4), (1, 6)):
        _, counts = np.unique([np.sort(pairs[place]) @ [5, 1] for pairs in draws], return_counts=True)
        assert len(counts) == expected
        np.testing.assert_allclose(counts / 2000, 1 / expected, atol=0.04)
