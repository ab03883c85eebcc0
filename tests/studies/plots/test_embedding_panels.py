import numpy as np
import pytest

from studies.plots import embedding_panels
from tfdml.plots import plane


def blobs(classes=6, each=10, dimensions=8, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return 5.0 * generator.normal(size=(classes, dimensions))[labels] + generator.normal(
        size=(len(labels), dimensions)
    ), labels


def places(axes, labels):
    """Mean place of each class, in the order of their names."""
    return np.array(
        [
            np.mean([drawn.get_offsets() for drawn in axes.collections if drawn.get_label() == str(label)][0], axis=0)
            for label in np.unique(labels)
        ]
    )


def test_two_dimensions_are_drawn_as_they_are():
    first, labels = blobs(dimensions=2)
    figure = embedding_panels({"before": first, "after": 2.0 * first}, labels, class_names=list("abcdef"))
    before, after = figure.axes
    assert (before.get_title(), after.get_title()) == ("before", "after")
    assert before.get_xlabel() == "dimension 1"
    for index, drawn in enumerate(before.collections):
        np.testing.assert_allclose(drawn.get_offsets(), first[labels == index])
    for index, drawn in enumerate(after.collections):
        np.testing.assert_allclose(drawn.get_offsets(), 2.0 * first[labels == index])
    for axes in (before, after):
        assert [text.get_text() for text in axes.texts] == list("abcdef")


def test_a_panel_keeps_the_places_of_the_panel_before():
    """The same blobs, rotated and with less noise, keep their places; t-SNE alone would arrange them differently."""
    generator = np.random.default_rng(0)
    centres, labels = blobs(classes=10, each=12)
    first = centres + 2.0 * generator.normal(size=centres.shape)
    turned = centres @ np.linalg.qr(generator.normal(size=(8, 8)))[0]
    before, after = (places(axes, labels) for axes in embedding_panels({"a": first, "b": turned}, labels).axes)
    alone = places(embedding_panels({"b": turned}, labels).axes[0], labels)

    def similarity(one, other):
        one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        return (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)

    assert similarity(before, after) > 0.8 > similarity(before, alone) + 0.1


def test_t_sne_starts_from_the_given_points(monkeypatch):
    starts = []

    class Projection:
        def __init__(self, init, **options):
            starts.append(init)

        def fit_transform(self, embeddings):
            return embeddings[:, :2]

    monkeypatch.setattr(plane, "TSNE", Projection)
    embeddings, labels = blobs()
    embedding_panels({"a": embeddings, "b": 2.0 * embeddings, "c": embeddings}, labels)
    assert starts[0] == "pca" and starts[1].dtype == np.float32
    np.testing.assert_allclose(starts[1], embeddings[:, :2], rtol=1e-6)
    np.testing.assert_allclose(starts[2], 2.0 * embeddings[:, :2], rtol=1e-6)
    # Coincident points have no arrangement.
    assert plane.to_plane(embeddings, 30.0, 0, start=np.zeros((60, 2)))[1] == "t-SNE"
    assert starts[3] == "pca"


def test_names_stand_above_their_points():
    embeddings, labels = blobs(classes=3, dimensions=2)
    for axes in embedding_panels({"a": embeddings}, labels).axes:
        for text, label in zip(axes.texts, range(3)):
            members = embeddings[labels == label]
            assert text.get_position()[1] > np.median(members[:, 1])
            assert not (np.linalg.norm(members - text.get_position(), axis=1) < 1e-6).any()


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 3))])
def test_everything_lies_in_the_figure(count, grid):
    embeddings, labels = blobs(dimensions=2)
    figure = embedding_panels(
        {f"problem {number}\nMAP@R 0.5": embeddings for number in range(count)}, labels, title="title"
    )
    assert len([axes for axes in figure.axes if axes.get_visible()]) == count
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    embeddings, labels = blobs()
    with pytest.raises(ValueError, match="Received: no panels"):
        embedding_panels({}, labels)
    with pytest.raises(ValueError, match=r"labels of shape \(60,\). Expected: \(59,\)"):
        embedding_panels({"a": embeddings, "b": embeddings[:59]}, labels)
    with pytest.raises(ValueError, match="1 embeddings with NaN"):
        embedding_panels({"a": np.where(np.arange(60)[:, None] == 7, np.nan, embeddings)}, labels)
    with pytest.raises(ValueError, match="labels in 0..5 and 2 class_names"):
        embedding_panels({"a": embeddings}, labels, ["a", "b"])
    with pytest.raises(ValueError, match="columns=0. Expected: columns >= 1"):
        embedding_panels({"a": embeddings}, labels, columns=0)
