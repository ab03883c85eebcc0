"""What MetricModel, embed and RetrievalMetrics take as data, and what they refuse before a graph sees it."""

import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import callbacks, layers, losses, metrics, models
from tfdml.models.batches import LabelCheck, data_errors, image_batches

EAGER, GRAPH, XLA = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}


class Batches(keras.utils.Sequence):
    """Arrays as a dataset of Keras, with or without an end."""

    def __init__(self, arrays, size=10, is_endless=False):
        super().__init__()
        self.arrays, self.size, self.is_endless, self.ends = arrays, size, is_endless, 0

    def __getitem__(self, index):
        return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)

    def __len__(self):
        if self.is_endless:
            raise TypeError
        return -(-len(self.arrays[0]) // self.size)

    @property
    def num_batches(self):
        return None if self.is_endless else len(self)

    def on_epoch_end(self):
        self.ends += 1


def generator(arrays):
    dataset = Batches(arrays)
    yield from (dataset[index] for index in range(len(dataset)))


KINDS = {
    "arrays": lambda arrays: arrays,
    "dataset": lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(10),
    "sequence": Batches,
    "generator": generator,
}


def compiled(embedder, references=None, loss="c2", mode=EAGER, **options):
    model = models.MetricModel(embedder, references, **options)
    model.compile(keras.optimizers.SGD(0.01), loss, **mode)
    return model


def fit(model, kind, arrays, **options):
    if kind == "arrays":
        return model.fit(*arrays, batch_size=10, verbose=0, shuffle=False, **options)
    return model.fit(KINDS[kind](arrays), verbose=0, shuffle=False, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind, blobs, linear_embedder):
    points, labels = blobs
    expected = np.asarray(linear_embedder()(points))
    embeddings, found = models.embed(linear_embedder(), KINDS[kind]((points, labels[:, None])), batch_size=10)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    np.testing.assert_array_equal(found, labels)
    model = compiled(linear_embedder(), layers.ClassProxies(4, embedding_size=2, initializer="ones"))
    data = KINDS[kind](blobs)
    logs = model.evaluate(*(data if kind == "arrays" else (data,)), batch_size=10, verbose=0, return_dict=True)
    assert logs["map_at_r"] == pytest.approx(metrics.retrieval_metrics(expected, labels)["map_at_r"], abs=1e-6)
    twin = compiled(linear_embedder(), layers.ClassProxies(4, embedding_size=2, initializer="ones"))
    expected = fit(twin, "arrays", blobs).history["loss"]
    np.testing.assert_allclose(fit(model, kind, blobs).history["loss"], expected, rtol=1e-5)


@pytest.mark.integration
def test_epochs_of_a_keras_dataset(blobs, linear_embedder):
    data, same = Batches(blobs), Batches(blobs)
    compiled(linear_embedder()).fit(data, epochs=2, verbose=0)
    plain = linear_embedder()
    plain.compile("sgd", losses.get("c2"), run_eagerly=True)
    plain.fit(same, epochs=2, verbose=0)
    assert data.ends == same.ends >= 2


@pytest.mark.parametrize("kind", ["dataset", "sequence"])
def test_endless_data(kind, blobs, linear_embedder):
    endless = KINDS["dataset"](blobs).repeat() if kind == "dataset" else Batches(blobs, is_endless=True)
    message = "The dataset is endless. Received: .* of infinite cardinality. Expected: a finite"
    embedder, model = linear_embedder(), compiled(linear_embedder())
    for use in (
        lambda: models.embed(embedder, endless),
        lambda: models.calibrate_batch_norm(embedder, endless),
        lambda: callbacks.RetrievalMetrics(endless),
        lambda: model.evaluate(endless, verbose=0),
        lambda: next(image_batches(endless)),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    if kind == "dataset":
        with pytest.raises(ValueError, match=message):
            model.fit(*blobs, validation_data=endless, verbose=0)
    expected = model.evaluate(blobs[0][:20], blobs[1][:20], batch_size=10, verbose=0)
    np.testing.assert_allclose(model.evaluate(endless, steps=2, verbose=0), expected, rtol=1e-6)


def test_what_is_read_again_is_no_generator(blobs, linear_embedder):
    """The second reading of a generator would find nothing."""
    model, generator = compiled(linear_embedder()), iter([blobs])
    for use in (
        lambda: callbacks.RetrievalMetrics(generator),
        lambda: callbacks.AlternatingProjections(generator),
        lambda: model.fit(*blobs, epochs=2, validation_data=generator, verbose=0),
    ):
        with pytest.raises(TypeError, match="readable again and again. Received: list_iterator. Expected: arrays"):
            use()


BAD_LABELS = {
    "from 1": (lambda labels: labels + 1, "Labels are out of range for ClassProxies.4.*. Received: 4. Expected: 0 <= "),
    "negative": (lambda labels: labels - 1, "Received: -1. Expected: 0 <= label < 4. Renumber .*encode_labels"),
    "ids": (lambda labels: 100 * labels + 100, "Received: .*00.* Expected: 0 <= label < 4"),
    "fractions": (lambda labels: labels / 4, "Labels must be whole numbers.* Received: .*encode_labels"),
    "NaN": (lambda labels: np.where(labels == 2, np.nan, labels), "Labels must be whole numbers.*encode_labels"),
    "strings": (lambda labels: labels.astype(str), "Labels must be integers. Received: .*encode_labels"),
}


@pytest.mark.parametrize(
    ("kind", "labels"),
    [*((kind, labels) for kind in ("arrays", "dataset") for labels in BAD_LABELS),
     *((kind, labels) for kind in ("sequence", "generator") for labels in ("ids", "NaN", "strings"))],
)  # fmt: skip
def test_bad_labels_are_refused_in_one_line(kind, labels, blobs, linear_embedder):
    change, message = BAD_LABELS[labels]
    points, sound = blobs[0][:20], blobs[1][:20]
    model = compiled(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    with pytest.raises(ValueError, match=message) as caught:
        fit(model, kind, (points, change(sound)))
    assert "\n" not in str(caught.value)
    if kind == "arrays":
        with pytest.raises(ValueError, match=message):
            model.train_on_batch(points, change(sound))
        if labels in ("fractions", "NaN", "strings"):  # Classes without a proxy can be scored by themselves.
            with pytest.raises(ValueError, match=message):
                model.test_on_batch(points, change(sound))


@pytest.mark.parametrize("labels", ["ids", "strings"])
def test_bad_labels_of_an_iterator(labels, blobs, linear_embedder):
    """Which XLA would train on, as it drops assertions."""
    change, message = BAD_LABELS[labels]
    batches = map(lambda batch: batch, [(blobs[0][:20], change(blobs[1][:20]))])
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    model.compile("sgd", "c2", jit_compile=True)
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(batches, steps_per_epoch=1, verbose=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", ["ids", "NaN"])
def test_bad_labels_of_unknown_rank(labels, blobs):
    change, message = BAD_LABELS[labels]
    values = change(blobs[1][:20])
    signature = (tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, values.dtype))
    batches = tf.data.Dataset.from_generator(lambda: [(blobs[0][:20], values)], output_signature=signature)
    checked = LabelCheck(4, "ClassProxies(4, …)").data(batches)
    with pytest.raises(ValueError, match=message), data_errors():
        next(iter(checked))


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_training_without_labels(kind, blobs, linear_embedder):
    data = blobs[0] if kind == "arrays" else tf.data.Dataset.from_tensor_slices(blobs[0]).batch(8)
    model = models.MetricModel(linear_embedder())
    model.compile("sgd", "c2", **EAGER)
    with pytest.raises(ValueError, match="^Labels are missing. Received: batches of images only.* Expected: "):
        model.fit(data, verbose=0)


def test_labels_of_the_zero_shot_loss():
    check = LabelCheck(4, "ZeroShotPrediction(4, …)")
    with pytest.raises(ValueError, match="out of range for ZeroShotPrediction.4"):
        check.array([4])
    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    options = {"prototypes": 2, "return_attributes": True}
    embedder = models.build_embedder(backbone, "gsp", 2, pooling_options=options)
    model = compiled(embedder, layers.ClassProxies(6, embedding_size=2), zero_shot=layers.ZeroShotPrediction(4, 3))
    with pytest.raises(ValueError, match="out of range for ZeroShotPrediction.4, ….. Received: 5"):
        model.fit(np.zeros((4, 8, 8, 1), "float32"), np.array([0, 0, 5, 5]), verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_losses_against_proxies(jit_compile, blobs):
    """A batch that no check of the data has seen: an error in a graph, and NaN under XLA, which drops assertions."""
    embeddings, labels = tf.constant(blobs[0][:4, :2]), tf.constant([0, 1, 4, 3])
    proxies, loss = layers.ClassProxies(4, embedding_size=2), losses.get("c2")
    function = tf.function(lambda x, y: loss.against(y, x, proxies()), jit_compile=jit_compile)
    if jit_compile:
        np.testing.assert_array_equal(np.isnan(function(embeddings, labels)), [False, False, True, False])
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="Labels are out of range for class proxies"):
            function(embeddings, labels)


def test_validation_is_checked_before_training(blobs, linear_embedder):
    model = compiled(linear_embedder())
    with pytest.raises(ValueError, match="Labels must be integers.*encode_labels"):
        model.fit(*blobs, validation_data=(blobs[0], blobs[1].astype(str)), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_a_loss_against_proxies(blobs):
    embeddings = blobs[0][:4, :2]
    proxies = layers.ClassProxies(4, embedding_size=2)
    for name in ("c1", "normalized_softmax"):
        with pytest.raises(ValueError, match="out of range for class proxies. Received: -1, 7"):
            losses.get(name).against([-1, 0, 7, 3], embeddings, proxies())
    # Other references need not have every class.
    references = proxies()._replace(classes=None)
    assert np.isfinite(losses.get("c1").against([-1, 0, 7, 3], embeddings, references)).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint64", "bool", "float32", "float64", list])
def test_labels_of_other_types(dtype, blobs, linear_embedder):
    points, labels = blobs[0], blobs[1] % 2
    given = labels.tolist() if dtype is list else labels.astype(dtype)
    results = []
    for y in (labels, given if dtype is list else given[:, None]):
        model = compiled(linear_embedder(), layers.ClassProxies(2, embedding_size=2, initializer="ones"))
        history = model.fit(points, y, validation_data=(points, y), batch_size=96, shuffle=False, verbose=0).history
        results.append([history["loss"][0], history["val_map_at_r"][0]])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_strings_for_retrieval_alone(blobs, linear_embedder):
    points, names = blobs[0], np.array(["a", "b", "c", "dd"])[blobs[1]]
    expected = metrics.retrieval_metrics(np.asarray(linear_embedder()(points)), blobs[1])["map_at_r"]
    kinds = [names] if np.__version__ < "2" else [names, names.astype(np.dtypes.StringDType())]
    for labels in kinds:
        embeddings, found = models.embed(linear_embedder(), (points, labels))
        assert found.tolist() == names.tolist()
        assert metrics.retrieval_metrics(embeddings, found)["map_at_r"] == pytest.approx(expected, abs=1e-6)
        model = compiled(linear_embedder())
        for use in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="Labels must be integers.*encode_labels"):
                use(points, labels, verbose=0)


def test_other_losses_of_keras_take_their_own_labels(blobs, linear_embedder):
    """Whose labels need not be classes: nothing is checked, and no positives are counted."""
    model = compiled(linear_embedder(), loss=keras.losses.MeanSquaredError())
    targets = np.random.default_rng(0).normal(size=(96, 2)).astype("float32")
    assert list(model.fit(blobs[0], targets, verbose=0).history) == ["loss"]


def test_images_that_are_not_finite(blobs, linear_embedder):
    points, labels = blobs[0].copy(), blobs[1]
    points[33, 2], points[37, 0] = np.nan, np.inf
    message = "Images must be finite. Received: NaN or infinity in image 33 .*and in 2 of the 10 images of its batch"
    model = compiled(linear_embedder())
    for use in (
        lambda: models.embed(model.embedder, points, batch_size=10),
        lambda: models.calibrate_batch_norm(model.embedder, KINDS["dataset"]((points, labels))),
        lambda: model.evaluate(points, labels, batch_size=10, verbose=0),
        lambda: model.fit(*blobs, validation_data=(points, labels), validation_batch_size=10, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    # The sum of these is infinite, they are not.
    assert models.embed(linear_embedder(), np.full((3, 8), 3e38 / 8, "float32")).shape == (3, 2)


def test_embeddings_that_are_not_finite(blobs):
    root = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: tf.math.log(x + 1.0))])
    points = np.abs(blobs[0])
    points[41] = -2.0
    with pytest.raises(ValueError, match="Embeddings must be finite. Received: NaN or infinity in row 41"):
        models.embed(root, points, batch_size=10)


def test_before_compile(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder())
    assert model.metrics_names == []
    for use in (model.evaluate, model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match=f"not compiled. Received: {use.__name__} before compile. Expected: "):
            use(*blobs)


def test_what_a_compiled_model_tells(blobs, linear_embedder, tmp_path):
    model = models.MetricModel(linear_embedder())
    loss = losses.get("triplet")
    model.compile("sgd", loss, geometry=True, **EAGER)
    logs = model.evaluate(*blobs, verbose=0, return_dict=True)
    assert model.loss is loss
    assert model.metrics_names == list(logs) and logs["margin_slack"] < 10
    model.compile("sgd", "c2", metrics=["recall_at_16", "map_at_r"], **EAGER)
    assert model.loss == "c2" and model.metrics_names == ["loss", "recall_at_16", "map_at_r"]
    logs = model.evaluate(*blobs, verbose=0, return_dict=True)
    assert list(logs) == model.metrics_names
    expected = metrics.retrieval_metrics(np.asarray(model.embedder(blobs[0])), blobs[1], ks=(16,))
    assert logs["recall_at_16"] == pytest.approx(expected["recall_at_16"])
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").metrics_names == model.metrics_names
    for refused in (["accuracy"], [keras.metrics.Mean()], ["recall_at_0"], "map"):
        with pytest.raises(ValueError, match="retrieval metrics of the whole dataset.* Expected: names of map_at_r"):
            model.compile("sgd", "c2", metrics=refused)


def test_anchors_without_a_positive(blobs, linear_embedder):
    points = blobs[0][:20]
    # In batches of ten: the first has two classes, of the second all but two samples are alone.
    labels = np.array([0] * 4 + [1] * 6 + [2, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    model = compiled(linear_embedder(), mode=GRAPH)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(model, "dataset", (points, labels)).history
    assert history["anchors_without_positive"] == pytest.approx([0.4])
    with pytest.warns(UserWarning, match="^80% of the samples .*tfdml.data.balanced_batches") as caught:
        for _ in range(2):
            history = fit(model, "dataset", (points[10:], labels[10:]), epochs=2).history
    assert history["anchors_without_positive"] == pytest.approx([0.8, 0.8])
    assert len(caught) == 1


def test_no_warning_where_positives_come_from_elsewhere(blobs, linear_embedder, recwarn):
    everyone = np.arange(10)
    for references in (layers.ClassProxies(10, embedding_size=2), layers.CrossBatchMemory(20, 2)):
        model = compiled(linear_embedder(), references, in_batch_weight=0.5)
        history = fit(model, "arrays", (blobs[0][:10], everyone)).history
        assert history["anchors_without_positive"] == [1.0]
    model = compiled(linear_embedder(), layers.ClassProxies(10, embedding_size=2))
    assert "anchors_without_positive" not in fit(model, "arrays", (blobs[0][:10], everyone)).history
    assert not [warning for warning in recwarn if "balanced_batches" in str(warning.message)]


def test_one_label_for_each_image(blobs, linear_embedder):
    points, labels = blobs
    for data in ((points, labels[:5]), (points[:20], labels[:30]), iter([(points, labels[:5])])):
        with pytest.raises(ValueError, match="numbers of images and labels differ. Received: .* images and .* labels"):
            models.embed(linear_embedder(), data, batch_size=10)
    with pytest.raises(ValueError, match="The dataset is not batched. Received: single images. Expected: batches"):
        models.embed(linear_embedder(), tf.data.Dataset.from_tensor_slices(blobs))


@pytest.fixture(scope="module")
def image_embedder():
    images = keras.Input((4, 4, 3))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(data_format="channels_last")(images))


def test_integer_images_are_not_cast(image_embedder):
    """They would be 255 times as large as the images in 0–1 that the embedder takes."""
    images, labels = np.ones((4, 4, 4, 3), np.uint8), np.array([0, 0, 1, 1])
    message = "Images are integers.* Received: images of type uint8. Expected: floats in 0–1.*astype"
    model = compiled(image_embedder, layers.ClassProxies(2, embedding_size=3))
    callback = callbacks.RetrievalMetrics((images, labels))
    callback.set_model(image_embedder)
    callback.on_train_begin()
    for use in (
        lambda: models.embed(image_embedder, images),
        lambda: models.embed(model, images),
        lambda: models.calibrate_batch_norm(image_embedder, images),
        lambda: callback.on_epoch_end(0, {}),
        lambda: model.fit(images, labels, verbose=0),
        lambda: model.train_on_batch(images, labels),
        lambda: model.evaluate(images, labels, verbose=0),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_integer_images_of_a_network_that_takes_them():
    images = np.full((2, 4, 4, 3), 51, np.uint8)
    pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last")
    for dtype, scale in (("float32", 1 / 255), ("uint8", 1 / 255), ("uint8", 1 / 51)):
        inputs = keras.Input((4, 4, 3), dtype=dtype)
        embeddings = models.embed(keras.Model(inputs, pool(keras.layers.Rescaling(scale)(inputs))), images)
        np.testing.assert_allclose(embeddings, 51 * scale, rtol=1e-6)
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert models.embed(small, np.ones((2, 3), np.int64)).shape == (2, 2)  # Features, not images.


NOT_IMAGES = {
    "a pair in a list": (lambda x, y: [x, y], r"a list of 2 \(\(5, 4, 4, 3\), \(5,\)\)"),
    "batches in a list": (lambda x, y: [(x, y), (x, y)], r"a list of 2 \(tuple, tuple\)"),
    "one in a tuple": (lambda x, y: (x,), "a tuple of 1"),
    "nothing": (lambda x, y: None, "an object of type NoneType"),
    "a path": (lambda x, y: pathlib.Path("images"), "'images'.*tfdml.data.folder"),
    "text": (lambda x, y: "images", "'images'.*tfdml.data.folder"),
    "paths": (lambda x, y: ["a.png", "b.png"], "images of type string.*tfdml.data.folder"),
    "objects": (lambda x, y: [object(), object()], r"a list of 2 \(object, object\)"),
    "a dict": (lambda x, y: {"images": x, "labels": y}, r"2 inputs, a dict with the keys \['images', 'labels'\]"),
    "batches of dicts": (
        lambda x, y: tf.data.Dataset.from_tensor_slices({"images": x, "labels": y}).batch(2),
        r"2 inputs, a dict with the keys",
    ),
    "one image": (lambda x, y: x[0], r"a batch of shape \(4, 4, 3\). Expected: \(None, 4, 4, 3\)"),
    "another size": (lambda x, y: x[:, :2], r"a batch of shape \(5, 2, 4, 3\). Expected: \(None, 4, 4, 3\)"),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_not_images_is_named_in_one_line(kind, image_embedder):
    make, message = NOT_IMAGES[kind]
    with pytest.raises(ValueError, match=f"^Images .* Received: {message}") as caught:
        models.embed(image_embedder, make(np.ones((5, 4, 4, 3), np.float32), np.arange(5)))
    assert "\n" not in str(caught.value)
