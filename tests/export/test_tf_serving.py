"""Requests to TensorFlow Serving and its responses: names, types and shapes of both interfaces, without the server."""

import base64
import json
import pathlib
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from served_models import ServedModel

from tfdml.data import Preprocessing
from tfdml.export import export_saved_model

pytestmark = pytest.mark.integration
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An embedder, its preprocessing, and the model as the server has it."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(images))
    embedder = keras.Model(images, keras.layers.Dense(4)(features))
    preprocessing = Preprocessing((8, 8), 3)
    folder = export_saved_model(embedder, tmp_path_factory.mktemp("embedder") / "1", preprocessing)
    return embedder, preprocessing, ServedModel(folder)


@pytest.fixture(scope="module")
def photos():
    """Two images of one size, and their PNG files."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 11, 9, 3)).astype(np.uint8)
    return pixels, [tf.io.encode_png(image).numpy() for image in pixels]


def expected(model, pixels):
    embedder, preprocessing, _ = model
    return np.asarray(embedder(preprocessing(pixels), training=False))


def inputs_of(signature, model, photos):
    pixels, files = photos
    return {
        "serving_default": {"images": (pixels / 255).astype(np.float32)},
        "serving_uint8": {"images": pixels},
        "serving_encoded": {"encoded": np.array(files, object)},
        "serving_preprocessed": {"images": np.asarray(model[1](pixels))},
    }[signature]


SIGNATURES = {
    "serving_default": ("images", "float32", [None, None, None, None]),
    "serving_uint8": ("images", "uint8", [None, None, None, None]),
    "serving_encoded": ("encoded", "string", [None]),
    "serving_preprocessed": ("images", "float32", [None, 8, 8, 3]),
}


def test_signatures_are_those_of_the_page(model):
    signatures = {name: value for name, value in model[2].signatures.items() if not name.startswith("__")}
    assert set(signatures) == set(SIGNATURES)
    for name, (argument, dtype, shape) in SIGNATURES.items():
        ((key, information),) = signatures[name].inputs.items()
        assert (key, tf.as_dtype(information.dtype).name) == (argument, dtype)
        assert tf.TensorShape(information.tensor_shape).as_list() == shape
        ((key, information),) = signatures[name].outputs.items()
        assert (key, tf.as_dtype(information.dtype).name) == ("embedding", "float32")
        assert tf.TensorShape(information.tensor_shape).as_list() == [None, 4]
        assert signatures[name].method_name == "tensorflow/serving/predict"
        assert f"| `{name}` | `{argument}` |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("signature", SIGNATURES)
def test_predict_requests_of_the_client(model, photos, signature):
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="needs tensorflow-serving-api")
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "embedder", signature
    for name, value in inputs_of(signature, model, photos).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    response = model[2].predict(request)
    assert response.model_spec.name == "embedder" and set(response.outputs) == {"embedding"}
    output = response.outputs["embedding"]
    assert output.dtype == tf.float32.as_datatype_enum
    assert [dim.size for dim in output.tensor_shape.dim] == [2, 4]
    np.testing.assert_allclose(tf.make_ndarray(output), expected(model, photos[0]), atol=1e-5)
    # The service of the stubs has the method that is called.
    grpc = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    assert hasattr(grpc.PredictionServiceServicer, "Predict")


def test_the_client_of_the_page(model, photos, monkeypatch):
    grpc = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc", reason="needs its API")

    class Stub:
        def __init__(self, channel):
            pass

        def Predict(self, request, timeout):  # noqa: N802
            return model[2].predict(request)

    monkeypatch.setattr(grpc, "PredictionServiceStub", Stub)
    (block,) = re.findall(r"``` { .python }\n(import grpc\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {"tf": tf, "images": tf.constant(photos[0])}
    exec(compile(block, PAGE.name, "exec"), names)
    np.testing.assert_allclose(names["vectors"], expected(model, photos[0]), atol=1e-5)


def json_of(value):
    if value.dtype == object:
        return [{"b64": base64.b64encode(one).decode()} for one in value]
    return value.tolist()


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("named", [True, False])
def test_rows_and_columns_of_json(model, photos, signature, named):
    ((name, value),) = inputs_of(signature, model, photos).items()
    content = json_of(value)
    columns = {"signature_name": signature, "inputs": {name: content} if named else content}
    rows = {"signature_name": signature, "instances": [{name: one} for one in content] if named else content}
    for request, key in ((columns, "outputs"), (rows, "predictions")):
        response = json.loads(model[2].rest(json.dumps(request)))
        assert set(response) == {key} and np.shape(response[key]) == (2, 4)
        np.testing.assert_allclose(response[key], expected(model, photos[0]), atol=1e-5)


def test_files_of_several_sizes_in_one_request(model, photos):
    pixels = photos[0]
    files = [tf.io.encode_png(pixels[0]).numpy(), tf.io.encode_png(pixels[1][:5]).numpy()]
    request = {"signature_name": "serving_encoded", "inputs": {"encoded": json_of(np.array(files, object))}}
    received = json.loads(model[2].rest(json.dumps(request)))["outputs"]
    wanted = [expected(model, image[None])[0] for image in (pixels[0], pixels[1][:5])]
    np.testing.assert_allclose(received, wanted, atol=1e-5)


def test_requests_that_do_not_fit(model, photos):
    served, (pixels, files) = model[2], photos
    for signature, inputs, message in (
        ("serving_uint8", {"image": pixels}, "differ from those of the signature"),
        ("serving_uint8", {"images": pixels.astype(np.float32)}, "has the type float32"),
        ("serving_preprocessed", {"images": np.zeros((1, 9, 8, 3), np.float32)}, "incompatible"),
    ):
        with pytest.raises(ValueError, match=message):
            served.run(signature, inputs)
    for signature, inputs, message in (
        ("serving_uint8", {"images": np.zeros((1, 0, 8, 3), np.uint8)}, "not images"),
        ("serving_encoded", {"encoded": np.array([files[0], b"no image"], object)}, "1"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served.run(signature, inputs)
    with pytest.raises(ValueError, match="either instances"):
        served.rest('{"signature_name": "serving_encoded"}')


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("base64")), reason="needs bash and base64")
def test_the_commands_of_the_page(model, photos, tmp_path):
    bodies = re.findall(r':predict -d ("\{.*?\n\}")', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(bodies) == 2
    (tmp_path / "photo.jpg").write_bytes(photos[1][0])
    (tmp_path / "other.jpg").write_bytes(photos[1][1])
    for body in bodies:
        done = subprocess.run(["bash", "-c", f"printf %s {body}"], capture_output=True, text=True, cwd=tmp_path)
        response = json.loads(model[2].rest(done.stdout))
        (received,) = response.values()
        np.testing.assert_allclose(received, expected(model, photos[0])[: len(received)], atol=1e-5)
