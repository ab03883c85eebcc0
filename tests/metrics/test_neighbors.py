import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from tfdml.metrics import nearest_neighbors

EMBEDDINGS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def test_equals_scikit_learn():
    gallery = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    distances, indices = (
        NearestNeighbors(n_neighbors=7, algorithm="kd_tree").fit(gallery).kneighbors(EMBEDDINGS)
    )
    found, found_distances = nearest_neighbors(EMBEDDINGS, 7, gallery)
    np.testing.assert_array_equal(found, indices)
    np.testing.assert_allclose(found_distances, distances, rtol=1e-6)


def test_without_references_equals_scikit_learn_without_queries():
    _, indices = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(EMBEDDINGS).kneighbors()
    np.testing.assert_array_equal(nearest_neighbors(EMBEDDINGS, 5)[0], indices)


@pytest.mark.parametrize(
    "dtype, distance_dtype",
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float32),
        (np.int32, np.float64),
    ],
)
def test_types(dtype, distance_dtype):
    indices, distances = nearest_neighbors((10 * EMBEDDINGS).astype(dtype), 2)
    assert indices.dtype == np.int64 and indices.shape == (200, 2)
    assert distances.dtype == distance_dtype and distances.shape == (200, 2)


def test_tensors_and_lists():
    expected, _ = nearest_neighbors(EMBEDDINGS, 3)
    np.testing.assert_array_equal(nearest_neighbors(tf.constant(EMBEDDINGS), 3)[0], expected)
    np.testing.assert_array_equal(nearest_neighbors(EMBEDDINGS.tolist(), 3)[0], expected)
    half = tf.cast(EMBEDDINGS, tf.bfloat16)
    np.testing.assert_array_equal(
        nearest_neighbors(half, 3)[0], nearest_neighbors(tf.cast(half, tf.float32), 3)[0]
    )


def test_references_may_differ_in_type():
    np.testing.assert_array_equal(
        nearest_neighbors(EMBEDDINGS, 1, EMBEDDINGS.astype(np.float64))[0][:, 0], np.arange(200)
    )


def test_as_many_neighbors_as_there_are():
    indices, _ = nearest_neighbors(EMBEDDINGS[:4], 3)
    assert [sorted(row) for row in indices.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert nearest_neighbors(EMBEDDINGS[:4], 5, EMBEDDINGS[:5])[0].shape == (4, 5)


@pytest.mark.parametrize("k, references, most", [(200, None, 199), (4, EMBEDDINGS[:3], 3)])
def test_too_many_neighbors(k, references, most):
    with pytest.raises(ValueError, match=f"Received: k={k}. Expected: at most {most}"):
        nearest_neighbors(EMBEDDINGS, k, references)


def test_one_embedding_has_no_neighbor():
    with pytest.raises(ValueError, match="Received: k=1. Expected: at most 0"):
        nearest_neighbors(EMBEDDINGS[:1], 1)


@pytest.mark.parametrize("name", ["k", "block_bytes"])
def test_numbers_must_be_positive_integers(name):
    options = {"k": 1, "block_bytes": 1000}
    for value in (0, -1, 1.5, True, "1", None):
        with pytest.raises(ValueError, match=f"Received: {name}={value!r}. Expected: an integer >= 1"):
            nearest_neighbors(EMBEDDINGS, **{**options, name: value})


def test_dimensions_must_agree():
    with pytest.raises(
        ValueError, match=r"Received: embeddings of shape \(200, 6\) and reference_embeddings of shape"
    ):
        nearest_neighbors(EMBEDDINGS, 1, EMBEDDINGS[:, :5])
