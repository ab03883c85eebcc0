"""SavedModels of two encoders: signatures, equality, gallery, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import Gallery, layers
from tfdml.export import export_dual_encoder, load_dual_encoder, load_saved_model
from tfdml.export.saved_model import METADATA
from tfdml.models import DualEncoder


def tower(size):
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(2), layers.L2Normalization()])


def dict_encoder():
    inputs = {"tokens": keras.Input((3,), dtype="int32", name="tokens"), "price": keras.Input((1,), name="price")}
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(inputs["tokens"]))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()([embedded, inputs["price"]])))


RNG = np.random.default_rng(0)
QUERIES = RNG.normal(size=(5, 4)).astype("float32")
ITEMS = {"tokens": RNG.integers(0, 10, (7, 3)), "price": RNG.normal(size=(7, 1)).astype("float32")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = DualEncoder(tower(4), dict_encoder(), similarity="dot")
    return model, export_dual_encoder(model, tmp_path_factory.mktemp("towers") / "model")


def test_embeddings_equal_those_of_the_model(exported):
    model, path = exported
    saved = load_dual_encoder(path)
    np.testing.assert_allclose(saved.embed_queries(QUERIES, batch_size=2), model.embed_queries(QUERIES), atol=1e-6)
    np.testing.assert_allclose(saved.embed_items(ITEMS, batch_size=3), model.embed_items(ITEMS), atol=1e-6)
    assert saved.metadata["similarity"] == "dot" and saved.metadata["embedding_size"] == 2
    assert saved.metadata["item_inputs"] == ["tokens", "price"] or set(saved.metadata["item_inputs"]) == set(ITEMS)


def test_tensorflow_alone_can_load_it(exported):
    model, path = exported
    signatures = tf.saved_model.load(str(path)).signatures
    assert set(signatures) == {"query", "item", "serving_default"}
    found = signatures["serving_default"](inputs=tf.constant(QUERIES))["embedding"]
    np.testing.assert_allclose(found, model.embed_queries(QUERIES), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite"):
        signatures["query"](inputs=tf.constant([[np.nan] * 4]))


def test_the_query_encoder_searches_a_gallery_of_items(exported):
    model, path = exported
    saved, gallery = load_dual_encoder(path), Gallery(distance="cosine")
    gallery.add(saved.embed_items(ITEMS), ids=[f"item {index}" for index in range(7)])
    ids = gallery.search(saved.embed_queries(QUERIES), k=3).ids
    queries, items = model.embed_queries(QUERIES), model.embed_items(ITEMS)
    cosines = queries @ items.T / np.linalg.norm(items, axis=1)
    assert ids.tolist() == [[f"item {index}" for index in row] for row in np.argsort(-cosines, axis=1)[:, :3]]


def test_a_shared_encoder_is_stored_once(tmp_path):
    saved = tf.saved_model.load(str(export_dual_encoder(DualEncoder(tower(4)), tmp_path / "model")))
    assert len(saved.weights) == 2


def test_text_becomes_tokens_inside(tmp_path):
    texts = keras.layers.TextVectorization(output_sequence_length=3)
    texts.adapt(["a red car", "a blue boat"])
    tokens = [keras.Input((), dtype="string"), texts]
    model = DualEncoder(keras.Sequential([*tokens, keras.layers.Embedding(8, 2), keras.layers.Flatten()]))
    saved = load_dual_encoder(export_dual_encoder(model, tmp_path / "model"))
    queries = ["a red boat", "blue", "nothing known"]
    np.testing.assert_allclose(saved.embed_queries(queries), model.embed_queries(queries), atol=1e-6)


def test_an_embedder_is_named_as_one(tmp_path):
    (tmp_path / METADATA).parent.mkdir()
    for file in ("saved_model.pb", METADATA):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match="one encoder.*Load it with `tfdml.export.load_saved_model`"):
        load_dual_encoder(tmp_path)


def test_mistakes(exported, tmp_path):
    model, path = exported
    with pytest.raises(FileExistsError, match="The path exists already"):
        export_dual_encoder(model, path)
    with pytest.raises(TypeError, match="Received: Sequential. Expected: a DualEncoder"):
        export_dual_encoder(tower(4), tmp_path / "model")
    with pytest.raises(ValueError, match="a query encoder of type Dense"):
        export_dual_encoder(DualEncoder(keras.layers.Dense(2)), tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="without saved_model.pb"):
        load_dual_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"two encoders.*path='.*Load it with `tfdml.export.load_dual_encoder`"):
        load_saved_model(path)
    saved = load_dual_encoder(path)
    with pytest.raises(ValueError, match=r"Received: \['inputs'\]. Expected: \['price', 'tokens'\]"):
        saved.embed_items(QUERIES)
    with pytest.raises(ValueError, match=r"lengths \[0\]"):
        saved.embed_queries(QUERIES[:0])
    assert not list(tmp_path.iterdir())
