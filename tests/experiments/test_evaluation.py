import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import data
from tfdml.experiments import InputError, RunFolder, RunFolderError, evaluate, evaluate_main
from tfdml.export import load_saved_model
from tfdml.metrics import retrieval_metrics


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _pictures(folder):
    """Two pictures of different sizes for each of three classes, PNG and JPEG."""
    generator = np.random.default_rng(0)
    for number in range(6):
        image = generator.integers(0, 256, (20 + number, 24, 1), np.uint8)
        path = folder / f"class {number % 3}" / f"{number}.{'png' if number < 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode = tf.io.encode_png if number < 3 else tf.io.encode_jpeg
        path.write_bytes(encode(image).numpy())
    return folder


def test_a_run_on_its_own_test_classes(finished_run, tmp_path):
    done = evaluate(finished_run.folder, out=tmp_path / "evaluation")
    assert done.metrics == pytest.approx(finished_run.test)
    assert (done.data, done.split, done.classes) == ("digits", "test", 3)
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["metrics"] == done.metrics and written["images"] == done.images
    names = {file.name for file in (tmp_path / "evaluation" / "pictures").iterdir()}
    assert names == {"embedding_map.png", "nearest_neighbors.png", "pooling_maps.png"}


def test_run_and_saved_model_agree(finished_run, in_tmp_path):
    saved = finished_run.folder / "saved_model"
    for options in ({"data_name": "digits"}, {"data_name": str(_pictures(in_tmp_path / "pictures"))}):
        name = f"run-{options['data_name'][-4:]}"
        ours = evaluate(finished_run.folder, **options, out=in_tmp_path / name, pictures=False)
        theirs = evaluate(saved, **options, pictures=False)
        assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-6)
        assert theirs.folder.parent.resolve() == (in_tmp_path / "evaluations").resolve()
        assert ours.split == "all"


def test_a_split_of_other_data(finished_run, in_tmp_path):
    done = evaluate(
        finished_run.folder / "saved_model", "digits", split="test",
        splitting={"validation_classes": 0.1, "test_classes": 0.5}, pictures=False,
    )  # fmt: skip
    test = data.split_classes(data.load("digits"), validation=0.1, test=0.5).test
    assert done.classes == 5 and done.images == len(test)
    embedder = keras.models.load_model(finished_run.folder / "embedder.keras", compile=False)
    images = np.stack([data.Preprocessing((12, 12), 1)(image) for image in test.images])
    # The network rounds batches of another size otherwise, and one query has two neighbours at one distance: embeddings
    # are compared nearly, and metrics with those of the same embeddings.
    saved = load_saved_model(finished_run.folder / "saved_model").embed(np.stack(test.images))
    np.testing.assert_allclose(saved, embedder.predict(images, verbose=0), rtol=0, atol=1e-6)
    assert done.metrics == pytest.approx(retrieval_metrics(saved, test.labels), abs=1e-6)
    assert not (done.folder / "pictures").exists()


def test_the_command_prints_and_stores(finished_run, in_tmp_path, capsys):
    assert (
        evaluate_main([str(finished_run.folder), "--split", "validation", "--no-pictures", "--out", "mine"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "digits, validation classes: " in shown and "Files: mine" in shown
    metrics = json.loads((in_tmp_path / "mine" / "metrics.json").read_text())["metrics"]
    assert metrics["map_at_r"] == pytest.approx(finished_run.validation["map_at_r"])
    assert f"{metrics['map_at_r']:.4f}" in shown


def test_the_command_passes_options_of_the_data(finished_run, in_tmp_path, capsys):
    folder = _pictures(in_tmp_path / "pictures")
    arguments = [str(finished_run.folder), "--data", "folder", "--options.path", str(folder), "--no-pictures"]
    assert evaluate_main([*arguments, "--out", "mine"]) == 0
    assert "all classes: 6 pictures of 3 classes" in capsys.readouterr().out


def test_the_command_searches_by_faiss_and_tells_its_recall(finished_run, in_tmp_path, capsys):
    pytest.importorskip("faiss")
    arguments = [str(finished_run.folder), "--split", "validation", "--no-pictures", "--out", "mine"]
    assert evaluate_main([*arguments, "--search", "faiss"]) == 0
    metrics = json.loads((in_tmp_path / "mine" / "metrics.json").read_text())["metrics"]
    assert 0.0 < metrics["neighbor_recall"] <= 1.0
    assert f"{metrics['neighbor_recall']:.4f}" in capsys.readouterr().out


def test_the_command_without_faiss(finished_run, in_tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit) as refused:
        evaluate_main([str(finished_run.folder), "--search", "faiss"])
    assert refused.value.code == 2
    assert "pip install 'tfdml[faiss]'" in capsys.readouterr().err


def test_nothing_is_written_over(finished_run, in_tmp_path):
    first = evaluate(finished_run.folder / "saved_model", "digits", pictures=False)
    second = evaluate(finished_run.folder / "saved_model", "digits", pictures=False)
    assert first.folder != second.folder
    with pytest.raises(RunFolderError, match="nothing is written over"):
        evaluate(finished_run.folder, out=first.folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_name": "digitz"}, "Did you mean 'digits'?"),
        ({"data_name": "no/such/folder"}, "no such folder"),
        ({"data_name": "digits", "data_options": {"sise": 3}}, "Unknown option of the data set 'digits'"),
        ({"data_name": "digits", "split": "test", "splitting": {"test_classes": 2.0}}, "test_classes=2.0"),
        ({"split": "tests"}, "Unknown split. Received: split='tests'"),
    ],
)
def test_bad_input(finished_run, in_tmp_path, options, message):
    with pytest.raises(ValueError, match="Received") as error:
        evaluate(finished_run.folder, **options)
    assert message in str(error.value)
    assert not list(in_tmp_path.iterdir())


def test_a_saved_model_needs_data(finished_run, in_tmp_path):
    with pytest.raises(InputError, match="A SavedModel does not know its data.*digits, .*glyphs"):
        evaluate(finished_run.folder / "saved_model")


def test_a_run_without_weights(finished_run, tmp_path):
    folder = RunFolder.create(RunFolder.open(finished_run.folder).load_recipe(), tmp_path / "begun")
    with pytest.raises(InputError, match="has no weights yet"):
        evaluate(folder.path)
    folder.best_weights.write_bytes((finished_run.folder / "best.weights.h5").read_bytes())
    done = evaluate(folder.path, pictures=False)
    assert done.metrics == pytest.approx(finished_run.test)
    assert done.folder.parent == folder.evaluations
