"""The collage study: its setup, and the weight on targets."""

import cifar_files
import numpy as np
import pytest
import tiny_backbone

from studies.collage import collage, weight_on_targets
from tfdml import data, models
from tfdml.experiments import InputError, load_recipe


def test_weight_on_targets():
    rng = np.random.default_rng(0)
    maps, places = rng.random((9, 4, 6)), rng.integers(0, 4, 9)
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    expected = []
    for one, place in zip(maps, places):
        rows, columns = divmod(int(place), 2)
        expected.append(sum(one[i, j] for i in range(4) for j in range(6) if (i // 2, j // 3) == (rows, columns)))
    np.testing.assert_allclose(weight_on_targets(maps, places), expected)
    with pytest.raises(ValueError, match="into four tiles. Received: 3×4"):
        weight_on_targets(np.ones((1, 3, 4)) / 12, np.array([0]))


def test_a_weight_on_the_target_finds_it():
    """Places have the convention of the images: here targets are white and backgrounds black."""
    white = data.LabeledImages(np.full((8, 4, 4, 1), 255, np.uint8), np.repeat([0, 1], 4), ["a", "b"])
    black = data.LabeledImages(np.zeros((4, 4, 4, 1), np.uint8), np.zeros(4, int), ["z"])
    images = data.Collages(white, black, tile=4)
    brightness = images.images[..., 0] / images.images[..., 0].sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(weight_on_targets(brightness, images.places), 1.0)


@pytest.fixture
def small():
    with tiny_backbone.registered():
        yield {
            "model.backbone": "tiny", "model.embedding_size": 4, "model.gsp.prototypes": 4, "batches.classes": 3,
            "data.options.target_options": {"characters": "ABCDEFGHKLMN"}, "data.options.backgrounds": "digits",
            "data.options.tile": 9, "training.steps_per_validation": 2, "training.max_validations": 2,
            "evaluation.figures": False,
        }  # fmt: skip


@pytest.mark.slow
def test_runs_of_all_kinds_and_goes_on(tmp_path, small, capsys):
    scores = collage(tmp_path, methods=["distilled", "gap", "gsp_zero_shot"], seeds=[0], overrides=small)
    assert scores.shape == (3, 1) and (scores > 0).all()
    for name in ("collage.md", "collage.csv", "curves.png", "pooling_maps.png"):
        assert (tmp_path / name).stat().st_size > 0
    rows = {line.split(",")[0]: line.split(",") for line in (tmp_path / "collage.csv").read_text().splitlines()}
    assert rows["GAP"][3] == "0.250" and rows["targets alone"][3] == "–"
    assert 0.0 < float(rows["GSP + zero-shot"][3]) < 1.0
    # Finished runs are not trained again: a second call returns the same without training.
    def fail(*arguments, **options):
        raise AssertionError("trained again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.MetricModel, "fit", fail)
        again = collage(tmp_path, methods=["gap", "gsp_zero_shot"], seeds=[0], overrides=small)
    np.testing.assert_array_equal(again, scores[1:3])


@pytest.mark.integration
def test_cifar_collage_where_its_files_are(tmp_path, small):
    cifar_files.write_cifar100(tmp_path / "files")
    cifar = {key: value for key, value in small.items() if not key.startswith("data.")}
    cifar |= {"data.name": "cifar_collage", "data.options.path": str(tmp_path / "files")}
    cifar |= {"batches.samples_per_class": 2}
    scores = collage(tmp_path / "out", methods=["distilled", "gap"], seeds=[0], overrides=cifar)
    assert scores.shape == (2, 1)
    runs = tmp_path / "out" / "runs"
    sizes = [load_recipe(runs / f"{name}-0" / "recipe.yaml").data.image_size for name in ("distilled", "gap")]
    assert [tuple(size) for size in sizes] == [(32, 32), (64, 64)]
    # Feature maps of 31×31 places cannot be divided into four tiles.
    assert "| GAP           " in (text := (tmp_path / "out" / "collage.md").read_text())
    assert "0.250" not in text and (tmp_path / "out" / "pooling_maps.png").exists()


def test_an_unknown_method(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'gsp_zero_shot'"):
        collage(tmp_path, methods=["gsp_zeroshot"])
    assert not list(tmp_path.iterdir())
