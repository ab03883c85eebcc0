"""Exports to TFLite and ONNX; those that convert a model are integration tests."""

import builtins
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.export import export_onnx, export_tflite
from tfdml.export.portable import _neighbor_recall
from tfdml.models import build_embedder


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(images))
    return keras.Model(images, keras.layers.Dense(4)(features))


def make_images(count, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantization": "int4"}, "Unknown quantization"),
        ({"quantization": "int8"}, "representative_images=None"),
        ({"representative_images": make_images(2)}, "Only int8 needs"),
        ({"quantization": "int8-weights", "representative_images": make_images(2)}, "Only int8 needs"),
        ({"images": make_images(20, size=9)}, "do not fit the embedder"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "do not fit the embedder"),
        ({"images": make_images(20).astype(np.float32)}, "wrong values"),
        ({"images": np.full((20, 8, 8, 3), np.nan)}, "wrong values"),
        ({"images": make_images(20).astype(np.int64)}, "wrong values"),
        ({"images": make_images(10)}, "too few images"),
        ({"images": make_images(10), "neighbors": 0}, "neighbors"),
    ],
)
def test_bad_arguments_are_refused(embedder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(embedder, tmp_path / "model.tflite", **options)
    assert not any(tmp_path.iterdir())


def test_embedders_without_images_of_a_fixed_size_are_refused(tmp_path):
    head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    images = keras.Input((None, None, 3))
    any_size = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    for export in (export_tflite, export_onnx):
        with pytest.raises(ValueError, match="Only embedders of images"):
            export(head, tmp_path / "model")
        with pytest.raises(ValueError, match="no fixed size"):
            export(any_size, tmp_path / "model")
        with pytest.raises(TypeError, match="not a model"):
            export("embedder", tmp_path / "model")


@pytest.mark.parametrize("export", [export_tflite, export_onnx])
def test_existing_files_are_kept(embedder, tmp_path, export):
    path = tmp_path / "model"
    path.write_text("kept")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export(embedder, path)
    assert path.read_text() == "kept"
    with pytest.raises(FileExistsError):
        export(embedder, tmp_path, overwrite=True)


def test_a_missing_package_names_the_extra(embedder, tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **options):
        if name.partition(".")[0] in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(tf.lite, "Interpreter", None)
    with pytest.raises(ImportError, match=r"tfdml\[onnx\]"):
        export_onnx(embedder, tmp_path / "model.onnx")
    with pytest.raises(ImportError, match=r"tfdml\[tflite\]"):
        export_tflite(embedder, tmp_path / "model.tflite")
    assert not any(tmp_path.iterdir())


def test_neighbor_recall_is_the_share_of_common_neighbors():
    rng = np.random.default_rng(0)
    one, other, k = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), 4
    shares = []
    for query in range(12):
        nearest = []
        for vectors in (one, other):
            distances = ((vectors - vectors[query]) ** 2).sum(axis=1)
            distances[query] = np.inf
            nearest.append(set(np.argsort(distances)[:k].tolist()))
        shares.append(len(nearest[0] & nearest[1]) / k)
    assert _neighbor_recall(one, other, k) == pytest.approx(np.mean(shares))
    assert _neighbor_recall(one, one, k) == 1.0


@pytest.fixture(scope="module")
def gsp_embedder():
    keras.utils.set_random_seed(2)
    images = keras.Input((8, 8, 3))
    backbone = keras.Model(images, keras.layers.Conv2D(6, 3, activation="relu")(images))
    return build_embedder(backbone, "gsp", 4, pooling_options={"prototypes": 5, "ratio": 0.4})


@pytest.mark.integration
@pytest.mark.parametrize("quantization, tolerance", [(None, 1e-5), ("float16", 1e-2), ("int8-weights", 0.05)])
def test_tflite_files_embed_like_the_embedder(embedder, gsp_embedder, tmp_path, quantization, tolerance):
    images = make_images(20)
    for model in (embedder, gsp_embedder):
        path = tmp_path / "sub" / "model.tflite"
        report = export_tflite(model, path, quantization, images=images, neighbors=3, overwrite=True)
        assert report.path == path and report.file_bytes == path.stat().st_size
        assert report.largest_difference < tolerance and report.neighbor_recall > 0.8
        interpreter = tf.lite.Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(source["index"], images[:1].astype(np.float32) / 255)
        interpreter.invoke()
        expected = np.asarray(model(images[:1].astype(np.float32) / 255, training=False))
        np.testing.assert_allclose(interpreter.get_tensor(target["index"]), expected, atol=tolerance)
        assert [file.name for file in path.parent.iterdir()] == ["model.tflite"]


@pytest.mark.integration
def test_int8_is_measured_on_representative_images(embedder, gsp_embedder, tmp_path):
    images = make_images(40)
    with pytest.raises(ValueError, match="quantizes a loop to int8"):
        export_tflite(gsp_embedder, tmp_path / "gsp", "int8", representative_images=images)
    report = export_tflite(embedder, tmp_path / "int8", "int8", representative_images=images[:20], images=images[20:])
    assert 0 < report.largest_difference < 0.1 and report.neighbor_recall > 0.5


@pytest.mark.integration
def test_onnx_files_embed_like_the_embedder(embedder, gsp_embedder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    images = make_images(20)
    for model in (embedder, gsp_embedder):
        report = export_onnx(model, pathlib.Path(tmp_path, "model.onnx"), images=images, neighbors=3, overwrite=True)
        assert report.largest_difference < 1e-5 and report.neighbor_recall == 1.0
        session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
        for count in (1, 5):
            batch = images[:count].astype(np.float32) / 255
            (received,) = session.run(["embedding"], {session.get_inputs()[0].name: batch})
            np.testing.assert_allclose(received, np.asarray(model(batch, training=False)), atol=1e-5)
