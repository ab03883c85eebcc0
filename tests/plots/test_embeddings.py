import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfdml.plots import embedding_map, save


def points(axes, label=None):
    return np.concatenate(
        [drawn.get_offsets() for drawn in axes.collections if label is None or drawn.get_label() == label]
    )


def names(axes):
    return [text.get_text() for text in axes.texts]


def blobs(classes, each, dimensions=8, seed=0):
    generator = np.random.default_rng(seed)
    centres = 5.0 * generator.normal(size=(classes, dimensions))
    labels = np.repeat(np.arange(classes), each)
    return centres[labels] + generator.normal(size=(len(labels), dimensions)), labels


def test_two_dimensions_are_drawn_as_they_are():
    embeddings, labels = blobs(3, 7, dimensions=2)
    (axes,) = embedding_map(embeddings, labels).axes
    for label in range(3):
        np.testing.assert_allclose(points(axes, str(label)), embeddings[labels == label])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("dimension 1", "dimension 2")
    assert names(axes) == ["0", "1", "2"]


def test_one_dimension_becomes_a_line():
    (axes,) = embedding_map([[3.0], [1.0]], [0, 1]).axes
    np.testing.assert_array_equal(points(axes), [[3, 0], [1, 0]])


@pytest.mark.integration
def test_t_sne_keeps_the_digits_together():
    digits = load_digits()
    (axes,) = embedding_map(digits.data[:400], digits.target[:400], class_names=list("abcdefghij")).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert names(axes) == list("abcdefghij")
    everything, labels = (
        points(axes),
        np.repeat(np.arange(10), [len(points(axes, name)) for name in "abcdefghij"]),
    )
    distances = np.linalg.norm(everything[:, None] - everything[None, :], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.9


def test_the_seed_settles_everything():
    embeddings, labels = blobs(6, 8)
    first, again, other = (
        embedding_map(embeddings, labels, max_classes=3, max_points=40, seed=seed).axes[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(points(first), points(again))
    assert names(first) == names(again)
    assert points(first).shape == points(other).shape
    assert not np.array_equal(points(first), points(other))


def test_many_classes_leave_most_gray():
    embeddings, labels = blobs(30, 4, dimensions=2)
    (axes,) = embedding_map(embeddings, labels, max_classes=5).axes
    gray = [drawn for drawn in axes.collections if drawn.get_label() == "25 other classes"]
    assert len(gray) == 1 and len(gray[0].get_offsets()) == 100
    assert len(axes.collections) == 6
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(legend) == 6 and legend[-1] == "25 other classes"


def test_long_names_are_in_the_legend_alone():
    embeddings, labels = blobs(3, 7, dimensions=2)
    (axes,) = embedding_map(embeddings, labels, ["a", "b", "Black-footed Albatross of the North"]).axes
    assert names(axes) == []
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["a", "b", "Black-footed Albatross of t…"]


def test_the_legend_lies_beside_the_points():
    embeddings, labels = blobs(30, 7, dimensions=2)
    figure = embedding_map(embeddings, labels, [f"name {n}" for n in range(30)])
    figure.draw_without_rendering()
    axes, legend = figure.axes[0].get_window_extent(), figure.axes[0].get_legend().get_window_extent()
    assert legend.x0 > axes.x1 and legend.x1 <= figure.bbox.x1 and legend.y0 >= 0


@pytest.mark.integration
def test_many_points_keep_those_of_the_coloured_classes():
    embeddings, labels = blobs(10, 20, dimensions=2)
    (axes,) = embedding_map(embeddings, labels, max_classes=2, max_points=60).axes
    sizes = sorted(len(drawn.get_offsets()) for drawn in axes.collections)
    assert sizes == [20, 20, 20]
    assert len(points(embedding_map(embeddings, labels, max_classes=2, max_points=15).axes[0])) == 15


def test_every_coloured_class_has_a_colour_and_shape_of_its_own():
    embeddings, labels = blobs(20, 3, dimensions=2)
    (axes,) = embedding_map(embeddings, labels, max_classes=20).axes
    looks = {(tuple(drawn.get_facecolor()[0]), drawn.get_paths()[0].vertices.tobytes()) for drawn in axes.collections}
    assert len(looks) == 20


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9])
def test_few_points(count):
    embeddings = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    (axes,) = embedding_map(embeddings, np.arange(count)).axes
    assert points(axes).shape == (count, 2)
    assert np.isfinite(points(axes)).all()


def test_a_collapsed_embedder_is_one_point():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (axes,) = embedding_map(np.ones((30, 4)), np.arange(30) % 3).axes
    assert not points(axes).any()


def test_text_labels_and_names_that_cannot_be_drawn(tmp_path):
    embeddings, _ = blobs(6, 1, dimensions=2)
    labels = ["あ", " ", "\u0301", "$a$", "_b", "Ж"]
    figure = embedding_map(embeddings, labels)
    with warnings.catch_warnings():
        # A missing glyph is a warning of matplotlib.
        warnings.simplefilter("error")
        save(figure, tmp_path / "map.png")
    assert sorted(names(figure.axes[0])) == sorted(["U+3042", "U+0020", "U+0301", "$a$", "_b", "Ж"])


def test_names_do_not_cover_each_other():
    embeddings = np.random.default_rng(0).normal(size=(12, 2)) * 1e-3
    embeddings[0] = [1.0, 1.0]
    embeddings[1] = [-1.0, -1.0]
    figure = embedding_map(embeddings, np.arange(12))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    # Ink may touch, but no name hides another one's middle.
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert not box.contains((other.x0 + other.x1) / 2, (other.y0 + other.y1) / 2)


def test_errors():
    embeddings, labels = blobs(2, 3)
    with pytest.raises(ValueError, match=r"labels of shape \(5,\). Expected: \(6,\)"):
        embedding_map(embeddings, labels[:5])
    with pytest.raises(ValueError, match=r"embeddings of shape \(6,\). Expected: \(n, d\)"):
        embedding_map(embeddings[:, 0], labels)
    with pytest.raises(ValueError, match=r"embeddings of shape \(0, 8\)"):
        embedding_map(embeddings[:0], labels[:0])
    with pytest.raises(ValueError, match=r"Received: 1 embeddings with NaN"):
        embedding_map(np.where(np.arange(6)[:, None] == 2, np.nan, embeddings), labels)
    with pytest.raises(ValueError, match=r"labels in 0..1 and 1 class_names"):
        embedding_map(embeddings, labels, ["a"])
    with pytest.raises(ValueError, match="need integer labels"):
        embedding_map(embeddings, list("aabbcc"), ["a", "b"])
    for limit in ("max_points", "max_classes", "perplexity"):
        with pytest.raises(ValueError, match=f"{limit}=0. Expected: {limit} >= 1"):
            embedding_map(embeddings, labels, **{limit: 0})
