import io
import json
import shutil
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from tfdml import data
from tfdml._utils.foreign_graphs import check_saved_model
from tfdml.experiments import InputError, RunFolder, RunFolderError, evaluate, evaluate_main, load_recipe, train
from tfdml.experiments.extraction import extract_features
from tfdml.export import load_saved_model
from tfdml.metrics import retrieval_metrics


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_images(folder, classes=3):
    """Two images of different sizes per class: PNG, JPEG, and WebP, which a SavedModel cannot decode."""
    generator = np.random.default_rng(0)
    for number in range(2 * classes):
        image = generator.integers(0, 256, (20 + number, 24, 1), np.uint8)
        path = folder / f"class {number % classes}" / f"{number}.{'png' if number < 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode = tf.io.encode_png if number < 3 else tf.io.encode_jpeg
        path.write_bytes(encode(image).numpy())
    with Image.open(path) as image:
        image.save(path.with_suffix(".webp"))
    path.unlink()
    return folder


def _metrics(image_run, dataset):
    """Metrics computed from the embeddings of the network."""
    batches = data.evaluation_batches(dataset, 256, image_run.images.preprocessing)
    embeddings = np.concatenate([image_run.embedder(images) for images, _ in batches])
    return retrieval_metrics(embeddings, dataset.labels)


def test_a_run_on_its_own_test_classes(image_run, tmp_path):
    done = evaluate(image_run.folder, out=tmp_path / "evaluation", figures=False)
    assert done.metrics == pytest.approx(_metrics(image_run, image_run.images.test), abs=1e-6)
    assert (done.data, done.split, done.classes) == ("digits", "test", 3)
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["metrics"] == done.metrics and written["images"] == done.images


@pytest.mark.integration
def test_the_figures_of_a_trained_run(finished_run, tmp_path):
    done = evaluate(finished_run.folder, out=tmp_path / "evaluation")
    assert done.metrics == pytest.approx(finished_run.test)
    names = {file.name for file in (tmp_path / "evaluation" / "figures").iterdir()}
    assert names == {"embedding_map.png", "nearest_neighbors.png", "pooling_maps.png"}


@pytest.mark.integration
def test_run_and_saved_model_agree(image_run, in_tmp_path):
    folder = str(_write_images(in_tmp_path / "images"))
    ours = evaluate(image_run.folder, folder, out=in_tmp_path / "run", figures=False)
    theirs = evaluate(image_run.folder / "saved_model", folder, figures=False)
    # Rounding differs, and so does the order of neighbors at nearly the same distance.
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-4)
    assert theirs.folder.parent.resolve() == (in_tmp_path / "evaluations").resolve()
    assert ours.split == "all"


@pytest.mark.integration
def test_the_limit_of_pixels_reaches_every_network(image_run, in_tmp_path, capsys):
    folder = str(_write_images(in_tmp_path / "images"))
    options = ["--options.verify", "false", "--options.max_pixels", "550", "--no-figures"]
    for network in (image_run.folder, image_run.folder / "saved_model"):
        with pytest.raises(SystemExit):
            evaluate_main([str(network), "--data", folder, *options])
        assert "3.jpg (an image of 23 x 24 pixels. Expected: at most 550" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"Not every image goes .*3.jpg \(an image of 23 x 24 pixels"):
        limited = {"verify": False, "max_pixels": 550}
        extract_features(image_run.folder, folder, in_tmp_path / "x", data_options=limited, verbose=False)


@pytest.mark.integration
def test_the_limit_of_the_data_is_that_of_the_saved_model(tiny_changes, tmp_path):
    options = {"path": str(_write_images(tmp_path / "images", classes=4)), "max_pixels": 650}
    shares = {"validation_classes": 0.25, "test_classes": 0.25}
    data_changes = {"name": "folder", "options": options, "channels": 1, **shares}
    changes = {**tiny_changes, **{f"data.{key}": value for key, value in data_changes.items()}}
    changes.update({"batches.classes": 2, "batches.samples_per_class": 2, "training.max_validations": 1})
    changes.update({"model.pooling": "gap", "references.name": "batch", "ccp.enabled": False})
    run = train(load_recipe("digits-quick", changes), tmp_path / "run", verbose=0)
    saved = load_saved_model(run.folder / "saved_model")
    assert saved.metadata["max_pixels"] == 650
    images = [tf.io.encode_png(np.zeros((26, width, 1), np.uint8)) for width in (25, 26)]
    assert saved(images[:1]).shape[0] == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"at most\] \[650 pixels"):
        saved(images)


@pytest.mark.integration
def test_a_split_of_other_data(image_run, in_tmp_path):
    done = evaluate(
        image_run.folder / "saved_model", "digits", split="test",
        splitting={"validation_classes": 0.1, "test_classes": 0.5}, figures=False,
    )  # fmt: skip
    test = data.split_classes(data.load("digits"), validation=0.1, test=0.5).test
    assert done.classes == 5 and done.images == len(test)
    batches = data.evaluation_batches(test, 256, data.Preprocessing((12, 12), 1))
    expected = np.concatenate([image_run.embedder(images) for images, _ in batches])
    # Rounding depends on the batch size, and one query has two neighbors at the same distance: embeddings are compared
    # approximately, and metrics with those of the same embeddings.
    saved = load_saved_model(image_run.folder / "saved_model").embed(np.stack(test.images))
    np.testing.assert_allclose(saved, expected, rtol=0, atol=1e-6)
    assert done.metrics == pytest.approx(retrieval_metrics(saved, test.labels), abs=1e-6)
    assert not (done.folder / "figures").exists()


def test_the_command_prints_and_stores(image_run, in_tmp_path, capsys):
    assert (
        evaluate_main([str(image_run.folder), "--split", "validation", "--no-figures", "--out", "mine"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "digits, validation classes: " in shown and "Files: mine" in shown
    metrics = json.loads((in_tmp_path / "mine" / "metrics.json").read_text())["metrics"]
    expected = _metrics(image_run, image_run.images.validation)
    assert metrics["map_at_r"] == pytest.approx(expected["map_at_r"], abs=1e-6)
    assert f"{metrics['map_at_r']:.4f}" in shown


def test_the_command_passes_options_of_the_data(image_run, in_tmp_path, capsys):
    folder = _write_images(in_tmp_path / "images")
    arguments = [str(image_run.folder), "--data", "folder", "--options.path", str(folder), "--no-figures"]
    assert evaluate_main([*arguments, "--out", "mine"]) == 0
    assert "all classes: 6 images of 3 classes" in capsys.readouterr().out


def test_the_command_searches_by_faiss_and_tells_its_recall(image_run, in_tmp_path, capsys):
    pytest.importorskip("faiss")
    arguments = [str(image_run.folder), "--split", "validation", "--no-figures", "--out", "mine"]
    assert evaluate_main([*arguments, "--search", "faiss"]) == 0
    metrics = json.loads((in_tmp_path / "mine" / "metrics.json").read_text())["metrics"]
    assert 0.0 < metrics["neighbor_recall"] <= 1.0
    assert f"{metrics['neighbor_recall']:.4f}" in capsys.readouterr().out


def test_the_command_without_faiss(image_run, in_tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit) as refused:
        evaluate_main([str(image_run.folder), "--search", "faiss"])
    assert refused.value.code == 2
    assert "pip install 'tfdml[faiss]'" in capsys.readouterr().err


def test_nothing_is_written_over(image_run, in_tmp_path):
    folder = str(_write_images(in_tmp_path / "images"))
    first = evaluate(image_run.folder / "saved_model", folder, figures=False)
    second = evaluate(image_run.folder / "saved_model", folder, figures=False)
    assert first.folder != second.folder
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        evaluate(image_run.folder, out=first.folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_name": "digitz"}, "Did you mean 'digits'?"),
        ({"data_name": "no/such/folder"}, "folder does not exist"),
        ({"data_name": "digits", "data_options": {"sise": 3}}, "Dataset 'digits' does not take these options"),
        ({"data_name": "digits", "split": "test", "splitting": {"test_classes": 2.0}}, "Received: test=2.0"),
        ({"split": "tests"}, "Unknown split. Received: split='tests'"),
    ],
)
def test_bad_input(image_run, in_tmp_path, options, message):
    with pytest.raises(ValueError, match="Received") as error:
        evaluate(image_run.folder, **options)
    assert message in str(error.value)
    assert not list(in_tmp_path.iterdir())


def test_a_saved_model_needs_data(image_run, in_tmp_path):
    with pytest.raises(InputError, match="A SavedModel has no data of its own.*digits, .*glyphs"):
        evaluate(image_run.folder / "saved_model")


def test_a_run_without_weights(image_run, tmp_path):
    folder = RunFolder.create(RunFolder.open(image_run.folder).load_recipe(), tmp_path / "begun")
    with pytest.raises(InputError, match="has no weights yet"):
        evaluate(folder.path)
    folder.history.write_text("epoch\n")
    folder.best_weights.write_bytes((image_run.folder / "best.weights.h5").read_bytes())
    done = evaluate(folder.path, figures=False)
    assert done.metrics == pytest.approx(_metrics(image_run, image_run.images.test), abs=1e-6)
    assert done.folder.parent == folder.evaluations


@pytest.fixture
def copied_run(image_run, tmp_path):
    shutil.copytree(image_run.folder, tmp_path / "copied")
    return RunFolder(tmp_path / "copied")


def test_nothing_in_the_folder_of_a_run_is_executed(image_run, copied_run):
    """The recipe recreates the network, also under the other version of Keras, which cannot read embedder.keras."""
    for content in (b"garbage", _hdf5()):
        copied_run.embedder.write_bytes(content)
        done = evaluate(copied_run.path, figures=False)
        assert done.metrics == pytest.approx(_metrics(image_run, image_run.images.test), abs=1e-6)
    copied_run.best_weights.unlink()
    # Keras 2.15 would load the code of a Lambda layer from it.
    with pytest.raises(InputError, match="not a Keras archive. Received: .*embedder.keras"):
        evaluate(copied_run.path)
    shutil.copy(image_run.folder / "embedder.keras", copied_run.embedder)
    done = evaluate(copied_run.path, figures=False)
    assert done.metrics == pytest.approx(_metrics(image_run, image_run.images.test), abs=1e-6)


def _hdf5():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = "{}"
    return buffer.getvalue()


def test_damaged_weights_are_named(copied_run, caplog):
    copied_run.best_weights.write_bytes(b"garbage")
    evaluate(copied_run.path, figures=False)
    copied_run.embedder.write_bytes(copied_run.embedder.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a Keras archive. Received: .*embedder.keras"):
        evaluate(copied_run.path)
    copied_run.embedder.unlink()
    copied_run.history.write_text("epoch\n")
    with pytest.raises(RunFolderError, match="weights of the run cannot be read: .*best.weights.h5"):
        evaluate(copied_run.path)


class _Hostile(tf.Module):
    def __init__(self, act):
        super().__init__()
        self.weight = tf.Variable(2.0)
        self.act = act

    @tf.function(input_signature=[tf.TensorSpec((None, 12, 12, 1), tf.float32, name="images")])
    def serve(self, images):
        act = tf.function(self.act)
        # Inside a branch of a function, where a graph could hide it.
        with tf.control_dependencies([tf.cond(tf.size(images) >= 0, lambda: act(), lambda: tf.constant(0.0))]):
            return {"embedding": tf.reshape(images, (-1, 144)) * self.weight}


def test_saved_models_that_reach_files_or_python_are_refused(in_tmp_path, image_run):
    victim = in_tmp_path / "victim"

    def write():
        tf.io.write_file(str(victim), "hostile")
        return tf.constant(0.0)

    def save():
        tf.raw_ops.SaveV2(prefix=str(victim), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
        return tf.constant(0.0)

    def read():
        return tf.cast(tf.strings.length(tf.io.read_file(str(victim))), tf.float32)

    def call():
        return tf.numpy_function(lambda: np.float32(0), [], tf.float32)

    def report():
        tf.print("hostile", output_stream=f"file://{victim}")
        return tf.constant(0.0)

    for act, operation in (
        (write, "WriteFile"), (save, "SaveV2"), (read, "ReadFile"), (call, "PyFunc"), (report, "PrintV2"),
    ):  # fmt: skip
        module = _Hostile(act)
        path = in_tmp_path / operation
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
        with pytest.raises(InputError, match=f"reach files, processes or Python. Received: {path} with .*{operation}"):
            extract_features(path, image_run.images.test, in_tmp_path / "out")
        if operation == "WriteFile":
            extra = path / "assets.extra"
            extra.mkdir()
            shutil.copy(image_run.folder / "saved_model" / "assets.extra" / "tfdml.json", extra)
            with pytest.raises(SystemExit):
                evaluate_main([str(path), "--data", "digits", "--no-figures"])
            assert not victim.exists()
            # With trust the operation is executed.
            shutil.rmtree(extra)
            extract_features(path, image_run.images.test, in_tmp_path / "out", trust=True, verbose=False)
            shutil.rmtree(in_tmp_path / "out")
            assert victim.read_text() == "hostile"


def test_what_tensorflow_does_not_know_is_refused(image_run, tmp_path):
    shutil.copytree(image_run.folder / "saved_model", tmp_path / "model")
    check_saved_model(tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    content.meta_graphs[0].graph_def.node.add(name="mine", op="OpOfSomebody")
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ValueError, match="with OpOfSomebody"):
        check_saved_model(tmp_path / "model")
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="SavedModel is damaged. Received: .*saved_model.pb"):
        evaluate(tmp_path / "model", "digits")
    (tmp_path / "model" / "saved_model.cpb").write_bytes(b"")
    with pytest.raises(ValueError, match="consists of chunks"):
        check_saved_model(tmp_path / "model")
