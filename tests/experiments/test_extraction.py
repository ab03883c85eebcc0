import json
import os
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdml import backbones, models
from tfdml.backbones import registry, weights
from tfdml.data import LabeledFeatures, LabeledImages, Preprocessing, evaluation_batches, features, load
from tfdml.experiments import InputError, RunFolderError
from tfdml.experiments.extraction import FrozenNetwork, extract_features, extract_main
from tfdml.layers import pooling as poolings
from tfdml.models.feature_extractor import feature_pooling


@pytest.fixture(scope="module")
def digits():
    """Some of the digits, 8×8."""
    whole = load("digits")
    return LabeledImages(whole.images[:50], whole.labels[:50], whole.class_names, name="digits")


def as_floats(dataset):
    return (dataset.images / 255).astype("float32")


def network(channels=4, shape=(8, 8, 1), name="network"):
    """Network from images to a feature map."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Conv2D(channels, 3, activation="relu", name="map")(inputs), name=name)


def with_head(**options):
    model = network(**options)
    pooled = keras.layers.GlobalMaxPooling2D(name="max")(model.output)
    return keras.Model(model.input, keras.layers.Dense(3, name="scores")(pooled), name="classifier")


def extract(model, dataset, out, **options):
    """Extract features and check that the files on disk contain them."""
    got = extract_features(model, dataset, out, verbose=False, **options)
    stored = features(out)
    assert isinstance(got, LabeledFeatures) and not list(out.glob("*.partial"))
    values = got.read(slice(None))
    np.testing.assert_array_equal(stored.read(slice(None)), values)
    np.testing.assert_array_equal(stored.labels, got.labels)
    assert stored.class_names == got.class_names
    return values


def test_a_smaller_last_batch_traces_nothing_again(digits):
    frozen = FrozenNetwork(with_head(), digits)
    assert [len(batch) for batch in frozen.features(digits, 20)] == [20, 20, 10]
    assert frozen._forward.experimental_get_tracing_count() == 1


def test_features_are_those_of_predict(digits, tmp_path):
    model = with_head()
    values = extract(model, digits, tmp_path / "out", batch_size=16)
    np.testing.assert_allclose(values, model.predict(as_floats(digits), verbose=0), atol=1e-5)
    stored = features(tmp_path / "out")
    assert stored.labels.tolist() == digits.labels.tolist() and stored.class_names == digits.class_names
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert source["model"] == "classifier" and source["data"] == "digits"
    assert (source["images"], source["features"], source["scale"], source["dtype"]) == (50, 3, "0-1", "float32")
    expected = {"size": [8, 8], "channels": 1, "short_side": None, "input_range": [0.0, 1.0]}
    assert source["preprocessing"] == expected


def test_a_backbone_on_glyphs(tmp_path):
    dataset = load("glyphs", characters="abc", size=32, cache_dir=tmp_path)
    backbone = backbones.get("tiny", (32, 32, 1))
    values = extract(backbone, dataset, tmp_path / "out")
    expected = np.asarray(backbone(as_floats(dataset))).mean(axis=(1, 2))
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_images_in_files_and_another_size(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            image = generator.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "pets" / name / f"{number}.png")
    model = network(shape=(None, None, 3))
    values = extract(model, tmp_path / "pets", tmp_path / "out", size=12, channels=3, short_side=16)
    preprocessing = Preprocessing((12, 12), 3, short_side=16)
    ((images, _),) = evaluation_batches(load("folder", path=tmp_path / "pets"), 10, preprocessing)
    np.testing.assert_allclose(values, np.asarray(model(images)).mean(axis=(1, 2)), atol=1e-5)
    assert features(tmp_path / "out").class_names == ("cats", "dogs")
    with pytest.raises(InputError, match="size=None, channels=None. Expected: both"):
        extract_features(network(shape=(None, None, 3)), tmp_path / "pets", tmp_path / "other")


@pytest.mark.parametrize(
    ("scale", "factor", "shift"), [(None, 1, 0), ("0-1", 1, 0), ("0-255", 255, 0), ("-1-1", 2, -1)]
)
def test_scales(digits, tmp_path, scale, factor, shift):
    inputs = keras.Input((8, 8, 1))
    values = extract(keras.Model(inputs, keras.layers.Flatten()(inputs)), digits, tmp_path / "out", scale=scale)
    np.testing.assert_allclose(values, as_floats(digits).reshape(50, -1) * factor + shift, atol=1e-4)


def test_outputs_and_layers_by_name(digits, tmp_path):
    model, images = with_head(), as_floats(digits)
    pooled = keras.Model(model.input, model.get_layer("max").output)
    values = extract(model, digits, tmp_path / "layer", output="max")
    np.testing.assert_allclose(values, pooled.predict(images, verbose=0), atol=1e-5)
    both = keras.Model(model.input, [model.get_layer("max").output, model.output])
    with pytest.raises(InputError, match="several outputs. Received: output=None. Expected: one of"):
        extract_features(both, digits, tmp_path / "both")
    name = both.output_names[1]
    np.testing.assert_allclose(extract(both, digits, tmp_path / "two", output=name), model(images), atol=1e-5)
    with pytest.raises(InputError, match="Did you mean 'scores'?"):
        extract_features(model, digits, tmp_path / "none", output="score")


def test_a_sequence_of_layers(digits, tmp_path):
    layers = [keras.layers.Flatten(name="flat"), keras.layers.Dense(3, name="scores")]
    model, images = keras.Sequential([keras.Input((8, 8, 1)), *layers]), as_floats(digits)
    np.testing.assert_allclose(extract(model, digits, tmp_path / "out"), model(images), atol=1e-5)
    values = extract(model, digits, tmp_path / "layer", output="flat")
    np.testing.assert_allclose(values, images.reshape(50, 64), atol=1e-6)


def test_a_pooling(digits, tmp_path):
    model = network()
    values = extract(model, digits, tmp_path / "out", pooling="gmp")
    np.testing.assert_allclose(values, np.asarray(model(as_floats(digits))).max(axis=(1, 2)), atol=1e-5)
    with pytest.raises(InputError, match="trainable weights"):
        extract_features(model, digits, tmp_path / "trained", pooling="netvlad", verbose=False)
    assert not (tmp_path / "trained").exists()


def test_which_poolings_need_no_training():
    maps = tf.random.stateless_uniform((3, 4, 4, 4), seed=(0, 1))
    ready = []
    for name in poolings.names():
        pool = feature_pooling(name)
        try:
            vectors = pool(maps)
        except ValueError as error:
            assert "trainable weights" in str(error)
        else:
            ready.append(name)
            np.testing.assert_array_equal(pool(maps), vectors)
    assert ready == ["crow", "gap", "gap_gmp", "generalized_max", "generalized_mean", "gmp", "weldon"]


def test_a_model_in_a_file(digits, tmp_path):
    model = with_head()
    model.save(tmp_path / "model.keras")
    values = extract(tmp_path / "model.keras", digits, tmp_path / "out")
    np.testing.assert_allclose(values, model(as_floats(digits)), atol=1e-5)


class Foreign(tf.Module):
    """SavedModel that was not exported by this package."""

    def __init__(self, dtype=tf.float32, shape=(None, 8, 8, 1)):
        super().__init__()
        self.weight = tf.Variable(3.0)
        signature = [tf.TensorSpec(shape, dtype, name="pixels")]
        self.serve = tf.function(self._serve, input_signature=signature)

    def _serve(self, pixels):
        flat = tf.cast(tf.reshape(pixels, (tf.shape(pixels)[0], 64)), tf.float32) * self.weight
        return {"flat": flat, "sum": tf.reduce_sum(flat, axis=1, keepdims=True)}


@pytest.mark.parametrize("shape", [(None, 8, 8, 1), (None, None, None, None), None], ids=["known", "any", "no rank"])
def test_any_saved_model(digits, tmp_path, shape):
    module = Foreign(shape=shape)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.serve})
    expected = 3 * as_floats(digits).reshape(50, 64)
    values = extract(str(tmp_path / "model"), digits, tmp_path / "out", output="flat")
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"several outputs.*one of \['flat', 'sum'\]"):
        extract_features(tmp_path / "model", digits, tmp_path / "other")
    with pytest.raises(InputError, match=r"output='flatt'. Expected: one of \['flat', 'sum'\]"):
        extract_features(tmp_path / "model", digits, tmp_path / "other", output="flatt")


def test_a_saved_model_of_bytes(digits, tmp_path):
    module = Foreign(tf.uint8)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.serve})
    # TensorFlow interprets these characters as a pattern.
    shutil.copytree(tmp_path / "model", tmp_path / "model [v2]*?{a}")
    values = extract(tmp_path / "model [v2]*?{a}", digits, tmp_path / "out [v2]*", output="flat", scale="0-255")
    np.testing.assert_array_equal(values, 3.0 * digits.images.reshape(50, 64))
    with pytest.raises(InputError, match="scale='0-1' and an input of type uint8. Expected: scale='0-255'"):
        extract_features(tmp_path / "model", digits, tmp_path / "other", output="flat")


def test_a_saved_model_of_keras(digits, tmp_path):
    model = network()
    model.export(str(tmp_path / "model"))
    values = extract(tmp_path / "model", digits, tmp_path / "out")
    np.testing.assert_allclose(values, np.asarray(model(as_floats(digits))).mean(axis=(1, 2)), atol=1e-5)


def test_saved_models_that_do_not_fit(digits, tmp_path):
    two = tf.function(lambda one, other: {"sum": one + other})
    spec = [tf.TensorSpec([None, 8], tf.float32, name=name) for name in ("one", "other")]
    text = tf.function(lambda text: {"length": tf.strings.length(text)})
    for number, (signatures, message) in enumerate(
        [
            ({}, "no signature 'serving_default'"),
            ({"serving_default": two.get_concrete_function(*spec)}, r"inputs \['one', 'other'\]"),
            ({"serving_default": text.get_concrete_function(tf.TensorSpec([None], tf.string))}, r"shape \(None,\)"),
        ]
    ):
        tf.saved_model.save(tf.Module(), str(tmp_path / str(number)), signatures=signatures)
        with pytest.raises(InputError, match=message):
            extract_features(tmp_path / str(number), digits, tmp_path / "out")


def test_what_this_package_exports(digits, image_run, tmp_path):
    values = extract(image_run.folder / "saved_model", digits, tmp_path / "out")
    ((images, _),) = evaluation_batches(digits, 50, Preprocessing((12, 12), 1))
    np.testing.assert_allclose(values, image_run.embedder(images), atol=1e-5)
    with pytest.raises(InputError, match="preprocessing of its own.*Received: image options={'scale': '0-255'}"):
        extract_features(image_run.folder / "saved_model", digits, tmp_path / "other", scale="0-255")


def test_a_run_and_a_layer_of_its_network(image_run, tmp_path):
    dataset = load("digits")
    values = extract(image_run.folder, dataset, tmp_path / "out")
    images = [images for images, _ in evaluation_batches(dataset, 256, Preprocessing((12, 12), 1))]
    expected = np.concatenate([image_run.embedder(batch) for batch in images])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    layer = extract(image_run.folder, dataset, tmp_path / "layer", output="pooling")
    clipped = layer / np.maximum(1, np.linalg.norm(layer, axis=1, keepdims=True))
    np.testing.assert_allclose(clipped, expected, atol=1e-5)


def test_a_backbone_by_name(digits, tmp_path, monkeypatch):
    def build(input_shape, weights=None):
        assert weights == "imagenet" and input_shape == (12, 12, 3)
        return network(shape=input_shape)

    monkeypatch.setitem(registry._REGISTRY._factories, "weighty", build)
    options = {"backbone_options": {"weights": "imagenet"}, "size": 12, "channels": 3}
    assert extract("Weighty", digits, tmp_path / "out", **options).shape == (50, 4)
    with pytest.raises(InputError, match="initial weights of a backbone are random. Received: 'weighty'"):
        extract_features("weighty", digits, tmp_path / "other")
    with pytest.raises(InputError, match="scales images itself. Received: scale='0-255'"):
        extract_features("weighty", digits, tmp_path / "other", scale="0-255", **options)


def test_models_without_a_graph_of_layers(digits, tmp_path):
    class Code(keras.Model):
        def call(self, images, training=False):
            return keras.layers.Flatten()(images) * (2.0 if training else 1.0)

    values = extract(Code(), digits, tmp_path / "out")
    np.testing.assert_allclose(values, as_floats(digits).reshape(50, 64), atol=1e-6)
    embedder = models.build_embedder(network(), embedding_size=5)
    values = extract(models.MetricModel(embedder), digits, tmp_path / "trainer")
    np.testing.assert_allclose(values, embedder(as_floats(digits)), atol=1e-5)


def test_half_precision_on_disk(digits, tmp_path):
    model = with_head()
    values = extract(model, digits, tmp_path / "out", dtype="float16")
    assert np.load(tmp_path / "out" / "features.npy").dtype == np.float16
    np.testing.assert_allclose(values, model(as_floats(digits)), rtol=2e-3, atol=1e-3)


def test_what_the_set_tells_goes_along(digits, tmp_path):
    names = ("zero\nnought", *digits.class_names[1:])
    parity = np.array(["even", "odd"] * 5)
    dataset = LabeledImages(digits.images, digits.labels, names, "mine", 5, np.arange(50) % 2 + 1, superclasses=parity)
    extract(with_head(), dataset, tmp_path / "out")
    stored = features(tmp_path / "out")
    assert stored.num_train_classes == 5
    assert stored.is_query.tolist() == dataset.is_query.tolist()
    assert stored.class_names == ("zero nought", *names[1:])
    assert stored.superclasses.tolist() == parity.tolist()


def leaves(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else None


def test_features_that_are_not_finite_are_named(digits, tmp_path):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1e5)(keras.layers.Flatten()(inputs)))
    images = np.zeros_like(digits.images)
    images[[3, 40]] = 255
    dataset = LabeledImages(images, digits.labels, digits.class_names)
    with pytest.raises(InputError, match="too large for float16. Received: NaN or infinity for image 3 "):
        extract_features(model, dataset, tmp_path / "out", dtype="float16", batch_size=16, verbose=False)
    assert leaves(tmp_path / "out") is None
    assert extract(model, dataset, tmp_path / "out").max() == 1e5


@pytest.mark.parametrize("reserves", [True, False])
def test_a_full_disk(digits, tmp_path, monkeypatch, reserves):
    """A limit on the file size stands in for a full disk; writing fails in the same way."""
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate")
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(20000)(keras.layers.Flatten()(inputs)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(InputError, match=f"cannot be written: File too large. Received: out={tmp_path}/out"):
            extract_features(model, digits, tmp_path / "out", batch_size=16, verbose=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert leaves(tmp_path / "out") is None


def test_interruptions_leave_nothing_that_could_be_taken_for_whole(digits, tmp_path, monkeypatch):
    model, out = with_head(), tmp_path / "out"

    def interrupt(path, content):
        assert "features.npy.partial" in leaves(out) and "features.npy" not in leaves(out)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tfdml.data.feature_files.write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_features(model, digits, out, verbose=False)
    assert leaves(out) is None
    # Files of a killed extraction are replaced, also those of another dataset.
    out.mkdir()
    for name in ("features.npy.partial", "labels.npy", "roles.npy"):
        (out / name).write_bytes(b"half")
    extract(model, digits, out)
    assert leaves(out) == ["classes.txt", "features.npy", "labels.npy", "source.json"]


def test_nothing_is_written_over(digits, tmp_path):
    extract(with_head(), digits, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "mine", "file"):
        with pytest.raises(RunFolderError, match=f"{name} exists already, and nothing is overwritten"):
            extract_features(with_head(), digits, tmp_path / name)
    assert leaves(tmp_path / "mine") == ["notes.txt"]
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        extract_features(with_head(), digits, tmp_path / "file" / "out", verbose=False)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "images" / "b" / "2.png").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="Unreadable images.*2.png"):
        extract_features(with_head(), tmp_path / "images", tmp_path / "out")
    with pytest.raises(InputError, match="Not every image.*2.png"):
        extract_features(
            with_head(), tmp_path / "images", tmp_path / "out", data_options={"verify": False}, verbose=False
        )
    assert leaves(tmp_path / "out") is None


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnt20", {}, "There is no such model. Received: 'resnt20'.*Did you mean 'resnet20'?"),
        ("nowhere.keras", {}, "There is no such model. Received: 'nowhere.keras'"),
        (None, {"size": 9}, "height=9. Expected: 8"),
        (None, {"channels": 3}, "channels=3. Expected: 1"),
        (None, {"scale": "0-2"}, "scale='0-2'"),
        (None, {"dtype": "float64"}, "dtype='float64'"),
        (None, {"batch_size": 0}, "batch_size=0"),
        (None, {"pooling": "gap"}, "a network that returns vectors. Received: pooling=gap"),
        (None, {"pooling": "gip"}, "Unknown pooling. Received: 'gip'"),
        (None, {"backbone_options": {"weights": "imagenet"}}, "does not apply to a Keras model"),
        (None, {"data_options": {"x": 1}}, "Options need the name of a dataset"),
    ],
)
def test_bad_arguments(digits, tmp_path, model, options, message):
    with pytest.raises(InputError, match=message):
        extract_features(model or with_head(), digits, tmp_path / "out", verbose=False, **options)
    assert not (tmp_path / "out").exists()


def test_models_and_data_that_do_not_fit(digits, tmp_path):
    inputs = keras.Input((8, 8, 1))
    cubes = keras.Model(inputs, keras.layers.Reshape((4, 4, 2, 2))(inputs))
    two = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    vectors = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3)])
    few = LabeledFeatures(np.zeros((2, 3), "float32"), [0, 1], ("a", "b"))
    for model, dataset, message in [
        (cubes, digits, r"Received: \(None, 4, 4, 2, 2\). Expected: vectors \(b, d\), a feature map"),
        (keras.Model(two, keras.layers.Add()(two)), digits, "with 2 inputs"),
        (vectors, digits, r"an input of shape \(None, 64\). Expected: "),
        (with_head(), few, "extracted from images. Received: LabeledFeatures"),
        (with_head(), "digitz", "Did you mean 'digits'"),
    ]:
        with pytest.raises(InputError, match=message):
            extract_features(model, dataset, tmp_path / "out", verbose=False)


def test_the_command(tmp_path, capsys):
    model = with_head()
    model.save(tmp_path / "model.keras")
    arguments = [str(tmp_path / "model.keras"), "--data", "digits", "--out", str(tmp_path / "out"), "--scale", "-1-1"]
    assert extract_main(arguments) == 0
    shown = capsys.readouterr()
    assert "1797 features of 3 numbers, 10 classes" in shown.out and "1797/1797" in shown.err
    images = load("digits").images / 255 * 2 - 1
    np.testing.assert_allclose(features(tmp_path / "out").read(slice(None)), model(images), atol=1e-4)
    shutil.rmtree(tmp_path / "out")
    options = ["--data", str(tmp_path), "--options.verify", "false", "--size", "[8,8]", "--channels", "1"]
    (tmp_path / "a").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "a" / "1.png")
    assert extract_main([arguments[0], *options, "--quiet", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    for wrong, message in (
        (arguments, "exists already"),
        (arguments[:3], "Options are missing. Expected: --out"),
        ([*arguments, "--pooling", "gip"], "exists already"),
        (["nothing", "--data", "digits", "--out", str(tmp_path / "other")], "There is no such model"),
        ([*arguments, "--scal", "0-1"], "Did you mean --scale?"),
    ):
        with pytest.raises(SystemExit) as ended:
            extract_main(wrong)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def tokens_of(model, extra):
    """The network's map as tokens, behind some that are means of it."""
    height, width, channels = model.output.shape[1:]
    mean = keras.layers.Reshape((1, channels))(keras.layers.GlobalAveragePooling2D()(model.output))
    tokens = keras.layers.Reshape((height * width, channels))(model.output)
    return keras.Model(model.input, keras.layers.Concatenate(axis=1)([mean] * extra + [tokens]))


def test_tokens(digits, tmp_path):
    maps = network()
    tokens = tokens_of(maps, 1)
    wanted = np.asarray(maps(as_floats(digits)))
    mean, largest = wanted.mean(axis=(1, 2)), wanted.max(axis=(1, 2))
    for name, pooling, options, expected in (
        ("a", None, {"skip_tokens": 1}, mean),
        ("b", "gmp", {"token_grid": (6, 6)}, largest),
        ("c", "cls", {"skip_tokens": 1}, mean),
        ("d", "cls+gmp", {"skip_tokens": 1}, np.concatenate([mean, largest], axis=1)),
    ):
        values = extract(tokens, digits, tmp_path / name, pooling=pooling, **options)
        np.testing.assert_allclose(values, expected, atol=1e-5)
    for model, options, message in (
        (tokens, {}, "37 tokens with skip_tokens=None"),
        (tokens, {"skip_tokens": 0, "pooling": "cls"}, "no class token. Received: pooling='cls' with skip_tokens=0"),
        (maps, {"pooling": "cls"}, "a network without tokens. Received: pooling='cls'|Received: pooling=cls"),
        (maps, {"skip_tokens": 1}, "a network without tokens"),
        (with_head(), {"token_grid": (2, 2)}, "a network without tokens"),
    ):
        with pytest.raises(InputError, match=message):
            extract_features(model, digits, tmp_path / "none", verbose=False, **options)


@pytest.mark.integration
def test_a_network_of_keras_applications(digits, tmp_path):
    options = {"alpha": 0.35, "weights": str(tmp_path / "weights.npz")}
    network = backbones.get("keras.applications.MobileNetV2", (32, 32, 3), alpha=0.35)
    inner = network.layers[-1]
    np.savez(options["weights"], **weights._named_arrays(inner))
    values = extract(
        "keras.applications.MobileNetV2", digits, tmp_path / "out", backbone_options=options, size=32, channels=3
    )
    batches = evaluation_batches(digits, 50, Preprocessing((32, 32), 3))
    images = next(iter(batches))[0]
    np.testing.assert_allclose(values, np.asarray(network(images)).mean(axis=(1, 2)), atol=1e-4)
    with pytest.raises(InputError, match="without backbone_options.weights"):
        extract_features("keras.applications.MobileNetV2", digits, tmp_path / "none", verbose=False)
    with pytest.raises(InputError, match="no such model.*Did you mean 'keras.applications.MobileNetV2'"):
        extract_features("keras.applications.MobilNetV2", digits, tmp_path / "none", verbose=False)
