"""The localization study: the rendered shop, and the errors of a run."""

import numpy as np
import pytest

from studies import shop
from studies.localization import COLUMNS, _Results, localization, localize
from tfdml import data, relations
from tfdml.experiments import InputError


def test_rays_end_where_small_steps_end():
    poses = shop.random_poses(0, 0, 6)
    angles = np.linspace(-0.6, 0.6, 7)
    distances, places, rows, columns, sides = shop.cast(poses, angles)
    walls = shop.solid()
    for i, (x, y, direction) in enumerate(poses):
        for j, angle in enumerate(angles):
            dx, dy = np.cos(direction + angle), np.sin(direction + angle)
            steps = np.arange(0, 15, 0.002)
            hits = walls[np.floor(y + dy * steps).astype(int) % 8, np.floor(x + dx * steps).astype(int) % 10]
            assert distances[i, j] == pytest.approx(steps[np.argmax(hits)], abs=0.01)
            assert walls[rows[i, j], columns[i, j]] and 0 <= places[i, j] < 1 and 0 <= sides[i, j] < 4


def test_a_corridor():
    distances, places, rows, columns, sides = shop.cast(np.array([[1.5, 1.25, 0.0]]), np.array([0.0, -np.pi / 2]))
    np.testing.assert_allclose(distances, [[7.5, 0.25]])
    np.testing.assert_allclose(places, [[0.25, 0.5]])
    assert (rows.tolist(), columns.tolist(), sides.tolist()) == ([[1, 0]], [[9, 1]], [[0, 3]])


def test_poses_keep_away_from_walls():
    poses = shop.random_poses(3, 1, 50)
    assert len(poses) == 50
    for dx in (-0.3, 0.3):
        for dy in (-0.3, 0.3):
            assert not shop.solid()[
                np.floor(poses[:, 1] + dy).astype(int), np.floor(poses[:, 0] + dx).astype(int)
            ].any()
    assert not np.array_equal(poses, shop.random_poses(3, 2, 50))


def test_a_shop_in_files(tmp_path):
    folder = shop.write_shop(tmp_path, 0, 6)
    train = data.LabeledImages.from_csv(
        folder / "train.csv", label_column=None, annotation_columns=("x", "y", "u", "v")
    )
    poses = shop.random_poses(0, 0, 6)
    np.testing.assert_allclose(train.annotations[:, :2], poses[:, :2], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(train.annotations[:, 2:], axis=1), shop.DIRECTION_WEIGHT, atol=1e-4)
    ((images, _),) = data.evaluation_batches(train, 6, data.Preprocessing((shop.SIDE, shop.SIDE), 3))
    np.testing.assert_array_equal(np.rint(images * 255), shop.render(poses, 0, 0))
    # A second call keeps the files.
    before = (folder / "train" / "0000.png").stat().st_mtime_ns
    shop.write_shop(tmp_path, 0, 6)
    assert (folder / "train" / "0000.png").stat().st_mtime_ns == before
    assert shop.draw_shop(np.rint(images.numpy() * 255).astype(np.uint8), train.annotations).axes


def test_methods_without_training():
    """The nearest position is a bound; with the images of the gallery as queries, pixels find them."""
    poses = shop.random_poses(0, 0, 12)
    annotations = np.array([shop.pose_vector(pose) for pose in poses])
    part = data.LabeledImages.from_arrays(shop.render(poses, 0, 0), annotations=annotations)
    other = data.LabeledImages.from_arrays(shop.render(poses, 0, 1), annotations=annotations)
    near = relations.Within(0.8, 2.0)
    for method in ("nearest", "pixels", "normalized_pixels"):
        of_validation, of_test = localize(method, part, part, other, 0, 0, near, 1e-3)
        assert of_validation["mean_error"] == 0.0 and of_validation["within_0.5"] == 1.0
        assert of_test["mean_error"] >= 0.0 if method != "nearest" else of_test["mean_error"] == 0.0


def test_unknown_methods():
    with pytest.raises(InputError, match="Did you mean 'triplet'"):
        localization("unused", methods=["tripled"])


def test_runs_with_another_learning_rate_are_others(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("method,seed\ntriplet,0\n")  # As of earlier versions.
    assert _Results(path).has({"method": "triplet", "learning_rate": 1e-3})
    _Results(path).add({**dict.fromkeys(COLUMNS, 0.5), "method": "pixels", "learning_rate": 1e-2})
    assert not _Results(path).has({"method": "pixels", "learning_rate": 1e-3})


@pytest.mark.integration
def test_a_quick_run_resumes(tmp_path, capsys):
    methods = ["pixels", "regression", "triplet"]
    found = localization(str(tmp_path), methods=methods, quick=True)
    assert list(found) == ["nearest", *methods] and all(np.isfinite(errors).all() for errors in found.values())
    assert all(errors >= found["nearest"] - 1e-9 for method, errors in found.items() if method != "regression")
    for name in ("localization.md", "localization.csv", "errors.png", "shop.png"):
        assert (tmp_path / name).exists()
    capsys.readouterr()
    again = localization(str(tmp_path), methods=methods, quick=True)
    assert "seed 0: mean error" not in capsys.readouterr().out
    np.testing.assert_array_equal(again["triplet"], found["triplet"])
