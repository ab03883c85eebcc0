import numpy as np
import pytest

from studies.plots import prototype_cover

PROTOTYPES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
FEATURES = np.array([[0.1, 0.0], [0.9, 0.1], [0.0, 0.7], [1.0, 1.0], [0.05, 0.95]])


def test_disc_of_the_covering_radius():
    figure = prototype_cover(FEATURES, PROTOTYPES, title="title")
    (axes,) = figure.axes
    (disc,) = axes.patches
    assert disc.radius == pytest.approx(0.3) and disc.center == pytest.approx((0.0, 1.0))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["local features", "prototypes", "radius δ = 0.300"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("dimension 1", "dimension 2")
    assert figure.get_suptitle() == "title"


def test_a_cell_has_one_colour():
    (axes,) = prototype_cover(FEATURES, PROTOTYPES).axes
    features = next(points for points in axes.collections if len(points.get_offsets()) == len(FEATURES))
    colors = {
        tuple(place): tuple(color) for place, color in zip(features.get_offsets().data, features.get_facecolors())
    }
    assert colors[0.0, 0.7] == colors[0.05, 0.95]
    assert len(set(colors.values())) == 4


def test_many_features_are_thinned_out():
    features = np.random.default_rng(0).uniform(size=(500, 2))
    (axes,) = prototype_cover(features, PROTOTYPES, max_points=100).axes
    assert sorted(len(points.get_offsets()) for points in axes.collections)[-2:] == [4, 100]
    # The radius covers all features, drawn or not.
    apart = np.linalg.norm(features[:, None] - PROTOTYPES, axis=-1).min(axis=1)
    assert axes.patches[0].radius == pytest.approx(apart.max())


def test_errors():
    with pytest.raises(ValueError, match=r"features of shape \(5, 3\)"):
        prototype_cover(np.zeros((5, 3)), PROTOTYPES)
    with pytest.raises(ValueError, match=r"prototypes of shape \(3, 2\). Expected: \(m, 2\) with m >= 4"):
        prototype_cover(FEATURES, PROTOTYPES[:3])
