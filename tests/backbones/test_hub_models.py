"""Vision transformers of KerasHub, built from configurations with random weights. KerasHub needs Keras 3."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdml
from tfdml import backbones, data, models
from tfdml._utils.keras_compat import IS_KERAS_2
from tfdml.backbones.batch_normalization import can_freeze_statistics, with_frozen_batch_norm
from tfdml.ops import to_input_range

if IS_KERAS_2:
    pytest.skip("KerasHub needs Keras 3.", allow_module_level=True)
keras_hub = pytest.importorskip("keras_hub")

SIDE = 16
_SMALL = {"patch_size": 4, "num_layers": 1, "hidden_dim": 8, "num_heads": 2}
_SQUARE = {**_SMALL, "image_shape": (SIDE, SIDE, 3)}
# Class, configuration, leading tokens, grid, input range.
NETWORKS = {
    "dinov2": (
        "DINOV2Backbone",
        {**_SQUARE, "intermediate_dim": 16, "num_register_tokens": 4, "position_embedding_shape": (20, 20, 3)},
        5, (4, 4), "torch",
    ),
    "dinov3": ("DINOV3Backbone", {**_SQUARE, "intermediate_dim": 16}, 5, (4, 4), "torch"),
    "vit": ("ViTBackbone", {**_SMALL, "mlp_dim": 16, "image_shape": (SIDE, 24, 3)}, 1, (4, 6), "tf"),
    "deit": ("DeiTBackbone", {**_SQUARE, "intermediate_dim": 16}, 2, (4, 4), "torch"),
    "clip": ("CLIPVisionEncoder", {**_SQUARE, "intermediate_dim": 16}, 1, (4, 4), "clip"),
    "siglip": ("SigLIPVisionEncoder", {**_SQUARE, "intermediate_dim": 16}, 1, (4, 4), "tf"),
}  # fmt: skip


def network(name):
    kind, config, *expected = NETWORKS[name]
    kind = getattr(keras_hub.models, kind, None) or keras.saving.get_registered_object(f"keras_hub>{kind}")
    return kind(**config), *expected


def make_images(model, count=3):
    return np.random.default_rng(0).random((count, *model.inputs[0].shape[1:])).astype("float32")


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_told_apart_and_images_scaled(name, tmp_path):
    model, skip, grid, input_range = network(name)
    images = make_images(model)
    embedder = models.build_embedder(model, "cls+gsp", 8, None, pooling_options={"prototypes": 3})
    patches = embedder.get_layer("patches")
    assert (patches.skip, tuple(patches.grid)) == (skip, grid)
    assert models.pooling_maps(embedder, images).shape == (3, *grid)
    # A single input with a name takes a tensor, too; with a dict Keras has nothing to warn of.
    scaled = to_input_range(images, input_range)
    outputs = np.asarray(model({next(iter(model.input)): scaled} if isinstance(model.input, dict) else scaled))
    class_token = outputs if outputs.ndim == 2 else outputs[:, 0]
    kernel, bias = embedder.get_layer("class_embedding").get_weights()
    embeddings = embedder(images)
    np.testing.assert_allclose(np.asarray(embeddings)[:, :4], class_token @ kernel + bias, atol=1e-4)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(images), embeddings, atol=1e-5)


def test_the_vision_encoder_of_a_model_of_images_and_texts():
    vision, *_ = network("clip")
    kind = keras.saving.get_registered_object("keras_hub>CLIPTextEncoder")
    text = kind(20, 8, 8, 1, 2, 16, max_sequence_length=5)
    both = keras_hub.models.CLIPBackbone(vision, text, projection_dim=8)
    images = make_images(vision)
    embedder = models.build_embedder(both, "cls", 4, None)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    tokens = np.asarray(vision({"images": to_input_range(images, "clip")}))
    np.testing.assert_allclose(embedder(images), tokens[:, 0] @ kernel + bias, atol=1e-4)


def test_a_small_dinov2_trains_exports_and_serves(tmp_path):
    model, *_ = network("dinov2")
    images, labels = make_images(model, 6), np.array([0, 0, 1, 1, 2, 2])
    embedder = models.build_embedder(model, "gsp", 8, pooling_options={"prototypes": 3})
    models.adapt_pooling(embedder, images)
    trainer = models.MetricModel(embedder)
    trainer.compile(optimizer=keras.optimizers.Adam(1e-3), loss="multi_similarity")
    kernel = np.array(model.encoder.trainable_weights[0])
    trainer.fit(tf.data.Dataset.from_tensors((images, labels)).repeat(3), verbose=0)
    assert np.abs(np.asarray(model.encoder.trainable_weights[0]) - kernel).max() > 0
    embedder.save(tmp_path / "trained.keras")
    again = keras.saving.load_model(tmp_path / "trained.keras", safe_mode=True)
    np.testing.assert_allclose(again(images), embedder(images), atol=1e-5)
    tfdml.export_saved_model(embedder, str(tmp_path / "served"), data.Preprocessing((SIDE, SIDE), 3))
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.signatures["serving_default"](images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(result, embedder(images), atol=1e-5)


def test_networks_that_do_not_tell_what_they_expect():
    model = keras_hub.models.ResNetBackbone(
        [64], [7], [64], [1], [1], block_type="basic_block", use_pre_activation=False, image_shape=(32, 32, 3)
    )
    with pytest.raises(ValueError, match="input range of this KerasHub network is unknown. Received: ResNetBackbone"):
        models.build_embedder(model)
    assert backbones.token_layout(model) is None
    embedder = models.build_embedder(model, "gap", 4, input_range="torch")
    assert embedder(make_images(model)).shape == (3, 4)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Folders of presets, as `save_to_preset` writes them: (folder, network)."""
    made = {}
    for name in ("dinov2", "vit"):
        made[name] = tmp_path_factory.mktemp(name), network(name)[0]
        made[name][1].save_to_preset(str(made[name][0]))
    converter = keras_hub.layers.ViTImageConverter(scale=[0.01, 0.02, 0.03], offset=[0.5, 0.25, 0.0])
    converter.save_to_preset(str(made["vit"][0]))
    return made


def test_a_preset_by_its_folder(presets):
    folder, model = presets["dinov2"]
    images = make_images(model)
    backbone = backbones.get(f"keras_hub:{folder}", (SIDE, SIDE, 3))
    wanted = np.asarray(model({"images": to_input_range(images, "torch")}))
    np.testing.assert_allclose(backbone(images), wanted, atol=1e-5)
    assert backbones.token_layout(backbone) == (5, (4, 4))
    random = backbones.get(f"keras_hub:{folder}", (None, None, 3), weights=None, name="mine")
    assert random.name == "mine" and np.abs(np.asarray(random(images)) - wanted).max() > 1e-3
    # Position embeddings are interpolated.
    embedder = models.build_embedder(f"keras_hub:{folder}", "cls+gap", 8, input_shape=(24, 24, 3))
    assert tuple(embedder.get_layer("patches").grid) == (6, 6)


def test_the_preprocessing_of_a_preset(presets):
    folder, model = presets["vit"]
    images = make_images(model)
    scaled = 255.0 * images * np.array([0.01, 0.02, 0.03], "float32") + np.array([0.5, 0.25, 0.0], "float32")
    backbone = backbones.get(f"keras_hub:{folder}", (SIDE, 24, 3))
    np.testing.assert_allclose(backbone(images), model(scaled), atol=1e-4)
    stated = backbones.get(f"keras_hub:{folder}", (SIDE, 24, 3), input_range=(0, 255))
    np.testing.assert_allclose(stated(images), model(255.0 * images), atol=1e-4)


def test_weights_of_a_file(presets, tmp_path):
    folder, model = presets["dinov2"]
    model.save_weights(tmp_path / "dinov2.weights.h5")
    images = make_images(model)
    random, loaded = (
        backbones.get(f"keras_hub:{folder}", (SIDE, SIDE, 3), weights=weights)
        for weights in (None, tmp_path / "dinov2.weights.h5")
    )
    np.testing.assert_allclose(loaded(images), model({"images": to_input_range(images, "torch")}), atol=1e-5)
    assert np.abs(np.asarray(loaded(images)) - np.asarray(random(images))).max() > 1e-3
    with pytest.raises(ValueError, match="Not weights of"):
        backbones.get(f"keras_hub:{presets['vit'][0]}", (SIDE, 24, 3), weights=tmp_path / "dinov2.weights.h5")


def test_presets_that_cannot_be_used(presets, monkeypatch):
    with pytest.raises(ValueError, match="Unknown preset of KerasHub. Received: 'dinov2_smal'.*'dinov2_small'"):
        backbones.get("keras_hub:dinov2_smal", (SIDE, SIDE, 3))
    with pytest.raises(ValueError, match=r"cannot be loaded.*input_shape=\(16, 18, 3\)"):
        backbones.get(f"keras_hub:{presets['dinov2'][0]}", (16, 18, 3))
    with pytest.raises(ValueError, match="'keras_hub:dinov2_small' does not take these options|does not take"):
        backbones.get("keras_hub:dinov2_small", (SIDE, SIDE, 3), size=3)

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", offline)
    with pytest.raises(FileNotFoundError, match="cannot be downloaded .no route to host.*save_to_preset"):
        backbones.get("keras_hub:dinov2_small", (SIDE, SIDE, 3))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'tfdml\[keras-hub\]'"):
        backbones.get("keras_hub:dinov2_small", (SIDE, SIDE, 3))


@pytest.mark.parametrize(("frozen", "weights"), [(None, "pretrained"), (None, None), ("all", "pretrained")])
def test_batch_normalization_of_a_preset(frozen, weights, tmp_path):
    model = keras_hub.models.ResNetBackbone(
        [64], [7], [64], [1], [1], block_type="basic_block", use_pre_activation=False, image_shape=(32, 32, 3)
    )
    model.save_to_preset(str(tmp_path))
    keras.utils.set_random_seed(0)
    backbone = backbones.get(
        f"keras_hub:{tmp_path}", (32, 32, 3), weights=weights, input_range="torch", frozen_batch_norm=frozen
    )
    images = make_images(backbone)
    at_inference = np.asarray(backbone(images, training=False))
    if weights is not None:
        np.testing.assert_allclose(at_inference, model(to_input_range(images, "torch")), atol=1e-4)
    is_frozen = np.array_equal(backbone(images, training=True), at_inference)
    assert is_frozen == (weights is not None)
    assert len(backbone.trainable_weights) == len(model.trainable_weights) - (6 if frozen == "all" else 0)
    # A run restores its weights into a network that is built without pretrained ones.
    backbone.save_weights(tmp_path / "run.weights.h5")
    again = backbones.get(f"keras_hub:{tmp_path}", (32, 32, 3), weights=None, input_range="torch")
    again.load_weights(tmp_path / "run.weights.h5")
    np.testing.assert_allclose(again(images, training=False), backbone(images, training=False), atol=1e-5)


def test_batch_normalization_inside_other_layers():
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.normalize = keras.layers.BatchNormalization()

        def call(self, inputs, training=None):
            return self.normalize(inputs, training=training)

    images = keras.Input((4, 4, 3))
    model = keras.Model(images, Block()(images), name="network")
    assert not can_freeze_statistics(model)
    assert with_frozen_batch_norm(model, "none", always_copy=True) is model
    with pytest.raises(ValueError, match="frozen_batch_norm='statistics' with 'network'.*Expected: 'all' or 'none'"):
        with_frozen_batch_norm(model, "statistics")
    assert len(with_frozen_batch_norm(model, "all").trainable_weights) == 0
