import io
import json
import os
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from tensorflow.core.protobuf import saved_model_pb2

from tfdml.data import Preprocessing
from tfdml.export import SavedEmbedder, export_saved_model, is_own_saved_model, load_saved_model
from tfdml.layers import ClassProxies
from tfdml.models import MetricModel, build_embedder, build_head, embed

SIZE, CHANNELS, DIMENSIONS = 12, 3, 5


def small_embedder(size=SIZE, channels=CHANNELS, dtype=None):
    keras.utils.set_random_seed(0)
    images = keras.Input((size, size, channels))
    features = keras.layers.Conv2D(8, 3, strides=2, dtype=dtype)(images)
    features = keras.layers.BatchNormalization(dtype=dtype)(features)
    features = keras.layers.Dropout(0.5, dtype=dtype)(features)
    pooled = keras.layers.GlobalAveragePooling2D(dtype=dtype)(features)
    return keras.Model(images, keras.layers.Dense(DIMENSIONS, dtype=dtype)(pooled))


def make_images(count, size=SIZE, channels=CHANNELS, seed=0):
    shape = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(seed).integers(0, 256, (count, *shape, channels)).astype(np.uint8)


def png(image):
    return tf.io.encode_png(image).numpy()


def expected(embedder, images):
    return np.asarray(embedder(np.float32(images) / 255.0, training=False), np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    embedder = small_embedder()
    # Batch normalisation with statistics of its own, so that inference differs from training.
    embedder(np.float32(make_images(16)) / 255.0, training=True)
    return embedder, export_saved_model(embedder, tmp_path_factory.mktemp("export") / "runs" / "model")


@pytest.fixture(scope="module")
def saved(exported):
    return load_saved_model(exported[1])


@pytest.fixture(scope="module")
def exported_gsp(tmp_path_factory):
    """An embedder with the solver and the custom gradient of generalized sum pooling."""
    keras.utils.set_random_seed(2)
    images = keras.Input((14, 14, 1))
    features = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(images)
    backbone = keras.Model(images, keras.layers.BatchNormalization()(features))
    embedder = build_embedder(backbone, "gsp", 4, "clip", pooling_options={"prototypes": 5, "ratio": 0.4})
    return embedder, export_saved_model(embedder, tmp_path_factory.mktemp("gsp") / "model")


@pytest.fixture(scope="module")
def exported_head(tmp_path_factory):
    head = build_head(7, DIMENSIONS, hidden=(6,), dropout=0.5, batch_normalization=True)
    head(np.random.default_rng(0).normal(size=(33, 7)).astype("float32"), training=True)
    return head, export_saved_model(head, tmp_path_factory.mktemp("head") / "head")


def test_all_signatures_give_the_embedder_s_numbers(exported, exported_gsp, saved):
    of_gsp = tf.saved_model.load(str(exported_gsp[1])).signatures
    for embedder, signatures, size, channels in (
        (exported[0], saved._model.signatures, SIZE, CHANNELS), (exported_gsp[0], of_gsp, 14, 1),
    ):  # fmt: skip
        for count in (1, 33):
            images = make_images(count, size, channels)
            inputs = {
                "serving_default": {"images": tf.constant(images / np.float32(255.0))},
                "serving_uint8": {"images": tf.constant(images)},
                "serving_encoded": {"encoded": tf.constant([png(image) for image in images])},
                "serving_preprocessed": {"images": tf.constant(images / np.float32(255.0))},
            }
            assert set(signatures) == set(inputs)
            for name, arguments in inputs.items():
                outputs = signatures[name](**arguments)
                assert list(outputs) == ["embedding"]
                assert outputs["embedding"].dtype == tf.float32
                np.testing.assert_allclose(outputs["embedding"], expected(embedder, images), atol=1e-5, err_msg=name)


def test_nothing_of_python_is_in_a_saved_model(exported, exported_gsp, exported_head):
    for _, path in (exported, exported_gsp, exported_head):
        model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        (graph,) = model.meta_graphs
        operations = {node.op for function in graph.graph_def.library.function for node in function.node_def}
        assert "MatMul" in operations and not {name for name in operations if "PyFunc" in name}
        # Objects of Keras or of this package would need their code when they are loaded.
        kinds = {node.user_object.identifier for node in graph.object_graph_def.nodes if node.HasField("user_object")}
        assert kinds <= {"_generic_user_object", "signature_map", "trackable_list_wrapper"}


def run_without_tfdml(script, folder, *arguments):
    """Runs a script in a fresh process, elsewhere, where `import tfdml` fails; gives what it printed."""
    blocked = "import sys; sys.modules['tfdml'] = None\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", blocked + textwrap.dedent(script), *map(str, arguments)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).stdout


LOAD_AND_EMBED = """
    import sys
    import numpy as np
    import tensorflow as tf

    path, folder = sys.argv[1:]
    try:
        import tfdml
    except ImportError:
        pass
    else:
        raise SystemExit("tfdml is there")
    signatures = tf.saved_model.load(path).signatures
    images = np.load(folder + "/images.npy")
    files = [tf.io.encode_png(image).numpy() for image in images]
    result = {}
    for count in (1, 33):
        result[f"float{count}"] = signatures["serving_default"](images=tf.constant(images[:count] / np.float32(255)))
        result[f"uint8{count}"] = signatures["serving_uint8"](images=tf.constant(images[:count]))
        result[f"encoded{count}"] = signatures["serving_encoded"](encoded=tf.constant(files[:count]))
    np.savez(folder + "/embeddings.npz", **{name: value["embedding"].numpy() for name, value in result.items()})
"""


@pytest.mark.integration
@pytest.mark.parametrize("pooling", ["gap", "gsp"])
def test_a_process_with_tensorflow_alone_gives_the_same_numbers(tmp_path, pooling):
    keras.utils.set_random_seed(1)
    options = {"prototypes": 6, "ratio": 0.4} if pooling == "gsp" else None
    embedder = build_embedder("resnet20", pooling, 16, "l2", (28, 28, 1), pooling_options=options)
    images = make_images(33, 28, 1)
    np.save(tmp_path / "images.npy", images)
    path = export_saved_model(embedder, tmp_path / "model")
    run_without_tfdml(LOAD_AND_EMBED, tmp_path, path, tmp_path)
    with np.load(tmp_path / "embeddings.npz") as results:
        assert len(results.files) == 6
        for name in results.files:
            count = 1 if name.endswith("1") else 33
            np.testing.assert_allclose(results[name], expected(embedder, images[:count]), atol=1e-5, err_msg=name)


def test_mixed_files_are_preprocessed_one_by_one(exported, saved):
    embedder, _ = exported
    preprocessing = Preprocessing((SIZE, SIZE), CHANNELS)
    images = [make_images(1, size, channels, seed)[0] for seed, (size, channels) in enumerate(
        [((12, 12), 3), ((30, 20), 3), ((7, 9), 1), ((16, 16), 4), ((12, 12), 2)]
    )]  # fmt: skip
    files = [png(image) for image in images]
    files.append(tf.io.encode_jpeg(images[1]).numpy())
    images.append(tf.io.decode_jpeg(files[-1]).numpy())
    prepared = np.stack([preprocessing(image) for image in images])
    received = saved(files)
    np.testing.assert_allclose(received, embedder(prepared, training=False), atol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [((30, 20), 3), ((5, 9), 1), ((12, 12), 4)])
def test_arrays_of_other_sizes_and_channels_are_preprocessed(exported, saved, size, channels):
    embedder, _ = exported
    images = make_images(4, size, channels)
    prepared = Preprocessing((SIZE, SIZE), CHANNELS)(images)
    wanted = embedder(prepared, training=False)
    np.testing.assert_allclose(saved(images), wanted, atol=1e-5)
    np.testing.assert_allclose(saved(images / np.float32(255.0)), wanted, atol=1e-5)


def test_no_image_is_no_embedding(saved):
    for images in (make_images(0), np.float32(make_images(0)), tf.constant([], tf.string)):
        assert saved(images).shape == (0, DIMENSIONS)


def test_a_preprocessing_of_one_s_own(tmp_path):
    embedder = small_embedder()
    strength = tf.Variable(0.5)

    class Darken(tf.Module):
        def __init__(self):
            super().__init__()
            self.strength = strength

        def __call__(self, image):
            image = tf.image.convert_image_dtype(image, tf.float32)
            return tf.image.resize(image, (SIZE, SIZE)) * self.strength

    saved = load_saved_model(export_saved_model(embedder, tmp_path / "model", Darken()))
    images = make_images(3)
    wanted = embedder(np.float32(images) / 255.0 * 0.5, training=False)
    np.testing.assert_allclose(saved(images), wanted, atol=1e-5)
    np.testing.assert_allclose(saved(images / np.float32(255.0)), wanted, atol=1e-5)
    np.testing.assert_allclose(saved([png(image) for image in images]), wanted, atol=1e-5)
    assert saved.metadata["preprocessing"] is None


def test_an_embedder_of_any_size_needs_a_preprocessing(tmp_path):
    embedder = small_embedder(size=None)
    with pytest.raises(ValueError, match=r"shape \(b, None, None, 3\) without preprocessing. Expected"):
        export_saved_model(embedder, tmp_path / "model")
    path = export_saved_model(embedder, tmp_path / "model", Preprocessing((20, 16), 3, short_side=24))
    saved = load_saved_model(path)
    assert saved.metadata["input_shape"] == [20, 16, 3]
    images = make_images(2, (40, 30))
    wanted = embedder(Preprocessing((20, 16), 3, short_side=24)(images), training=False)
    np.testing.assert_allclose(saved(images), wanted, atol=1e-5)


@pytest.mark.integration
def test_gradients_by_the_images_are_those_of_the_embedder(exported_gsp):
    embedder, path = exported_gsp
    saved = load_saved_model(path)
    images = tf.constant(make_images(2, 14, 1) / np.float32(255.0))
    gradients = []
    for model in (embedder, saved):
        with tf.GradientTape() as tape:
            tape.watch(images)
            embeddings = model(images, training=False)
        gradients.append(tape.gradient(embeddings, images))
    assert np.abs(gradients[0]).max() > 1e-3
    np.testing.assert_allclose(*gradients, atol=1e-4 * np.abs(gradients[0]).max())


@pytest.mark.integration
def test_half_precision_inside_float32_outside(tmp_path):
    embedder = small_embedder(dtype="mixed_bfloat16")
    images = make_images(4)
    half = embedder(np.float32(images) / 255.0, training=False)
    assert half.dtype != tf.float32
    received = load_saved_model(export_saved_model(embedder, tmp_path / "model"))(images)
    assert received.dtype == tf.float32
    np.testing.assert_allclose(received, tf.cast(half, tf.float32), atol=1e-2)


def test_metadata(exported, saved):
    metadata = saved.metadata
    assert metadata["input_shape"] == [SIZE, SIZE, CHANNELS]
    assert metadata["embedding_size"] == DIMENSIONS
    assert metadata["tensorflow_version"] == tf.__version__
    assert metadata["keras_version"] == keras.__version__
    restored = Preprocessing.from_config(metadata["preprocessing"])
    assert restored == Preprocessing((SIZE, SIZE), CHANNELS)
    on_disk = json.loads((exported[1] / "assets.extra" / "tfdml.json").read_text())
    assert on_disk == metadata


@pytest.mark.integration
def test_a_saved_embedder_stands_where_an_embedder_does(exported, saved):
    embedder, _ = exported
    assert isinstance(saved, SavedEmbedder)
    images, labels = make_images(10), np.arange(10)
    wanted = expected(embedder, images)
    for data in (images, images / np.float32(255.0), images / 255.0, [png(image) for image in images]):
        received = saved.embed(data, batch_size=4)
        assert isinstance(received, np.ndarray) and received.dtype == np.float32
        np.testing.assert_allclose(received, wanted, atol=1e-5)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(3)
    for received, received_labels in (saved.embed(batches), embed(saved, batches)):
        np.testing.assert_allclose(received, wanted, atol=1e-5)
        np.testing.assert_array_equal(received_labels, labels)


def test_nothing_is_overwritten(exported, tmp_path):
    embedder, path = exported
    before = {entry: entry.stat().st_mtime_ns for entry in path.rglob("*")}
    with pytest.raises(FileExistsError, match="exists already"):
        export_saved_model(embedder, path)
    assert {entry: entry.stat().st_mtime_ns for entry in path.rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        export_saved_model(embedder, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(module, folder, **_):
        os.makedirs(folder)
        (tmp_path / folder / "saved_model.pb").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(small_embedder(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_holds_the_model_and_nothing_is_left_beside_it(exported):
    _, path = exported
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]
    assert {"saved_model.pb", "variables", "assets.extra"} <= {entry.name for entry in path.iterdir()}


def test_what_is_no_embedder(tmp_path):
    images = keras.Input((8, 8, 3))
    others = keras.Input((8, 8, 3))
    vector = keras.layers.GlobalAveragePooling2D()(images)
    dense = keras.layers.Dense(2)
    rows = keras.Input((4, 3))
    path = tmp_path / "model"
    with pytest.raises(TypeError, match="Received: function. Expected: a keras.Model"):
        export_saved_model(lambda images: images, path)
    for model in (
        keras.Model(images, images),
        keras.Model(rows, dense(keras.layers.Flatten()(rows))),
        keras.Model([images, others], keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([images, others]))),
        keras.Model(images, [vector, vector]),
    ):
        with pytest.raises(ValueError, match="Expected: one input .* and one output"):
            export_saved_model(model, path)
    with pytest.raises(TypeError, match="preprocessing='resize'. Expected: a function"):
        export_saved_model(small_embedder(), path, preprocessing="resize")
    with pytest.raises(ValueError, match=r"images of shape \(6, 6, 3\). Expected: \(12, 12, 3\)"):
        export_saved_model(small_embedder(), path, preprocessing=Preprocessing((6, 6), 3))
    assert not path.exists()


def test_operations_on_files_are_refused_unless_trusted(tmp_path):
    victim = tmp_path / "victim"

    def preprocessing(image):
        tf.io.write_file(str(victim), "hostile")
        return tf.image.resize(tf.cast(image, tf.float32), (6, 6))

    path = export_saved_model(small_embedder(6), tmp_path / "model", preprocessing)
    with pytest.raises(ValueError, match=rf"reach files, processes or Python. Received: {path} with WriteFile"):
        load_saved_model(path)
    assert not victim.exists()
    load_saved_model(path, trust=True)(make_images(1, 6))
    assert victim.read_text() == "hostile"


def test_what_is_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no SavedModel"):
        load_saved_model(tmp_path)
    module = tf.Module()
    module.one = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="without .*tfdml.json"):
        load_saved_model(tmp_path / "other")


def test_what_cannot_be_embedded(saved):
    with pytest.raises(TypeError, match="Received: int64. Expected: float"):
        saved(make_images(1).astype(np.int64))
    with pytest.raises(ValueError, match=r"Received: uint8 of shape \(12, 12, 3\). Expected: \(batch, h, w, c\)"):
        saved(make_images(1)[0])
    with pytest.raises(ValueError, match="training=True"):
        saved(make_images(1), training=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        saved([b"no image"])


def check_head(head, path, saved):
    assert saved.takes_features and saved.metadata["input_shape"] == [7] and saved.metadata["preprocessing"] is None
    assert list(tf.saved_model.load(str(path)).signatures) == ["serving_default"]
    features = np.random.default_rng(1).normal(size=(33, 7)).astype("float32")
    expected = embed(head, features)
    np.testing.assert_allclose(saved.embed(features), expected, atol=1e-5)
    np.testing.assert_allclose(saved(features.astype("float64")), expected, atol=1e-5)
    assert saved(features[:0]).shape == (0, DIMENSIONS)


def test_a_head_takes_features(exported_head):
    head, path = exported_head
    check_head(head, path, load_saved_model(path))


def test_a_head_of_half_precision_takes_features(tmp_path, dtype_policy):
    dtype_policy("mixed_float16")
    head = build_head(7, DIMENSIONS)
    assert head.layers[-2].compute_dtype == "float16"
    path = export_saved_model(head, tmp_path / "head")
    check_head(head, path, load_saved_model(path))


@pytest.mark.integration
def test_a_process_with_tensorflow_alone_embeds_features(tmp_path, exported_head):
    head, path = exported_head
    script = """
        import sys
        import numpy as np
        import tensorflow as tf
        model = tf.saved_model.load(sys.argv[1])
        print(np.asarray(model.signatures["serving_default"](features=tf.ones((1, 7)))["embedding"])[0, 0])
    """
    printed = float(run_without_tfdml(script, tmp_path, path))
    assert printed == pytest.approx(embed(head, np.ones((1, 7), "float32"))[0, 0], abs=1e-5)


def test_what_is_served_is_checked_in_the_graph(saved):
    """A loaded graph does not check the rank, and TensorFlow aborted the process of one image without a batch axis."""
    signatures = saved._model.signatures
    image = make_images(1)[0]
    floats = np.float32(image) / 255.0
    bad = np.stack([floats, floats])
    bad[1, 3, 4, 0] = np.nan
    for name, images, message in (
        ("serving_default", floats, "images_are_batch_height_width_channels"),
        ("serving_uint8", image, "images_are_batch_height_width_channels"),
        ("serving_default", floats[None, None], "images_are_batch_height_width_channels"),
        ("serving_default", np.zeros((2, SIZE, SIZE, 5), "float32"), "1 to 4 channels"),
        ("serving_uint8", np.zeros((2, 7, 9, 5), "uint8"), "1 to 4 channels"),
        ("serving_uint8", np.zeros((2, 7, 9, 0), "uint8"), "1 to 4 channels"),
        ("serving_uint8", np.zeros((2, 0, 0, 3), "uint8"), "at least one pixel"),
        ("serving_default", bad, r"NaN or infinite.*number\] \[1\] \[of the batch"),
        ("serving_default", 255.0 * floats[None], "Float images are in 0–1"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures[name](images=tf.constant(images))
    for encoded, message in (
        ([[b"a"]], "encoded_is_a_batch_of_files"),
        ([png(image), b"no image"], r"\[Image\] \[1\] \[of the batch \(from 0\)\] \[is not an image"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures["serving_encoded"](encoded=tf.constant(encoded))


@pytest.mark.integration
def test_encoded_images_are_bounded_and_turned_upright(tmp_path):
    embedder = small_embedder()
    saved = load_saved_model(export_saved_model(embedder, tmp_path / "model", max_pixels=200))
    stored = make_images(1)[0]
    files = []
    for number in range(1, 9):
        tagged = Image.fromarray(stored)
        tagged.getexif()[0x0112] = number
        file = io.BytesIO()
        tagged.save(file, "PNG", exif=tagged.getexif())
        files.append(file.getvalue())
    upright = np.stack([np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file)))) for file in files])
    assert len({image.tobytes() for image in upright}) == 8
    np.testing.assert_allclose(saved(files), expected(embedder, upright), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="is too large to decode"):
        saved([png(make_images(1, (201, 1))[0])])


def test_a_head_is_served_finite_features_of_its_size(exported_head):
    signature = tf.saved_model.load(str(exported_head[1])).signatures["serving_default"]
    for features, message in ((np.ones(7), "features_batch_and_size"), (np.full((1, 7), np.nan), "NaN or infinite")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signature(features=tf.constant(features, tf.float32))


def test_the_embedder_of_a_metric_model_is_exported(tmp_path, exported_head):
    head, _ = exported_head
    model = MetricModel(head, ClassProxies(num_classes=4, per_class=1, embedding_size=DIMENSIONS))
    saved = load_saved_model(export_saved_model(model, tmp_path / "model"))
    features = np.ones((2, 7), "float32")
    np.testing.assert_allclose(saved(features), embed(head, features), atol=1e-5)


@pytest.mark.parametrize("name", ["run [v2]", "a*b?", "{c}", os.fsdecode(b"caf\xe9")], ids=ascii)
def test_paths_with_characters_that_tensorflow_does_not_take(tmp_path, name, exported_head):
    head, _ = exported_head
    path = export_saved_model(head, tmp_path / name / name)
    assert path == tmp_path / name / name and os.listdir(path.parent) == [name]
    features = np.ones((1, 7), "float32")
    np.testing.assert_allclose(load_saved_model(path)(features), embed(head, features), atol=1e-5)
    assert is_own_saved_model(path)


def test_the_home_folder_is_expanded(tmp_path, exported_head, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = export_saved_model(exported_head[0], "~/model")
    assert path == tmp_path / "model" and path.is_dir() and is_own_saved_model("~/model")
    assert load_saved_model("~/model").metadata["embedding_size"] == DIMENSIONS
    with pytest.raises(FileExistsError):
        export_saved_model(exported_head[0], "~/model")


def mobile_net(shape=(32, 32, 3)):
    """The first layers of one, as an embedder."""
    network = keras.applications.MobileNetV2(shape, 0.35, include_top=False, weights=None)
    features = network.get_layer("expanded_conv_depthwise").output
    return keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(features))


@pytest.mark.integration
def test_an_embedder_of_another_range_is_served_what_it_expects(tmp_path):
    """The vectors of a network of keras.applications had a cosine of 0.85 with the right ones."""
    embedder, images = mobile_net(), make_images(2, 32)
    wanted = embedder(keras.applications.mobilenet_v2.preprocess_input(np.float32(images)), training=False)
    with pytest.warns(UserWarning, match=r"starts with MobileNetV2 of keras.applications.*\(-1.0, 1.0\)"):
        path = export_saved_model(embedder, tmp_path / "recognized")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export_saved_model(embedder, tmp_path / "confirmed", input_range=(-1, 1)).is_dir()
    saved = load_saved_model(path)
    assert saved.metadata["input_range"] == [-1.0, 1.0]
    assert saved.metadata["preprocessing"]["input_range"] == [0.0, 1.0]
    for served in (images, images / np.float32(255.0), [png(image) for image in images]):
        np.testing.assert_allclose(saved(served), wanted, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize(("given", "input_range"), [("export", (0, 255)), ("preprocessing", "caffe")])
def test_an_input_range_is_stated(tmp_path, given, input_range):
    embedder, images = small_embedder(), make_images(2)
    scaling = Preprocessing((SIZE, SIZE), CHANNELS, input_range=input_range)
    options = {"input_range": input_range} if given == "export" else {"preprocessing": scaling}
    saved = load_saved_model(export_saved_model(embedder, tmp_path / "model", **options))
    wanted = embedder(scaling(images), training=False)
    np.testing.assert_allclose(saved(images), wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.integration
def test_integer_inputs_are_scaled(tmp_path):
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    vector = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(images))
    embedder = keras.Model(images, vector)
    values = make_images(3)
    wanted = values.astype("float32").mean(axis=(1, 2))
    saved = load_saved_model(export_saved_model(embedder, tmp_path / "model", input_range=(0, 255)))
    for served in (values, values / np.float32(255.0), [png(image) for image in values]):
        np.testing.assert_allclose(saved(served), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="input of type uint8 and input_range=.*Expected: input_range="):
        export_saved_model(embedder, tmp_path / "black", input_range=(0, 1))


def test_input_ranges_that_do_not_fit(tmp_path):
    embedder, path = small_embedder(), tmp_path / "model"
    with pytest.raises(ValueError, match="Two input ranges"):
        export_saved_model(embedder, path, Preprocessing((SIZE, SIZE), 3, input_range=(0, 255)), input_range=(-1, 1))
    with pytest.raises(ValueError, match="Invalid input range"):
        export_saved_model(embedder, path, input_range=(1, 0))
    with pytest.raises(ValueError, match="for color images"):
        export_saved_model(small_embedder(channels=1), path, input_range="caffe")
    with pytest.raises(ValueError, match="Features have no input range"):
        export_saved_model(build_head(7, DIMENSIONS), path, input_range=(0, 1))
    assert not path.exists()


def test_a_head_refuses_what_is_no_feature(tmp_path, exported_head):
    head, path = exported_head
    with pytest.raises(ValueError, match="Features are not preprocessed. Received: preprocessing=Preprocessing"):
        export_saved_model(head, tmp_path / "head", Preprocessing((4, 4), 3))
    saved = load_saved_model(path)
    for wrong in (np.zeros((2, 6), "float32"), np.zeros((2, 7), np.uint8), np.zeros((2, 4, 4, 3), "float32")):
        with pytest.raises(ValueError, match=r"Expected: floats \(batch, 7\)"):
            saved(wrong)
