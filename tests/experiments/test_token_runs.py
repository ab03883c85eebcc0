"""Whole runs on vision transformers: class token, GSP of the patch tokens, CCP, figures and the SavedModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml._utils.keras_compat import IS_KERAS_2
from tfdml.backbones import registry
from tfdml.data import evaluation_batches
from tfdml.experiments import builders, load_recipe, train

pytestmark = pytest.mark.integration


def transformer(input_shape):
    """Nine patch tokens behind a class token, with one block of attention."""
    images = keras.Input(input_shape)
    tokens = keras.layers.Reshape((9, 8))(keras.layers.Conv2D(8, 4, strides=4, name="patch_embedding")(images))
    mean = keras.layers.Reshape((1, 8))(keras.layers.GlobalAveragePooling1D()(tokens))
    tokens = keras.layers.Concatenate(axis=1)([mean, tokens])
    attended = keras.layers.MultiHeadAttention(2, 4)(tokens, tokens)
    return keras.Model(images, keras.layers.LayerNormalization()(keras.layers.Add()([tokens, attended])))


def check_run(changes, path):
    train("digits-quick", path, overrides=changes, verbose=0)
    for file in ("best.weights.h5", "figures/pooling_maps.png", "saved_model/saved_model.pb"):
        assert (path / file).is_file(), file
    recipe = load_recipe(str(path / "recipe.yaml"))
    images = builders.load_data(recipe)
    shown, _ = next(iter(evaluation_batches(images.test, 8, images.preprocessing)))
    embedder = keras.saving.load_model(path / "embedder.keras", safe_mode=True)
    restored = builders.restore_embedder(recipe, path / "best.weights.h5")
    np.testing.assert_allclose(restored(shown), embedder(shown), atol=1e-5)
    served = tf.saved_model.load(str(path / "saved_model")).signatures["serving_default"]
    np.testing.assert_allclose(served(images=tf.constant(shown))["embedding"], embedder(shown), atol=1e-4)


def test_a_run_on_tokens(tiny_changes, tmp_path, registries):
    registry.register("transformer", transformer)
    tokens = {"model.backbone": "transformer", "model.pooling": "cls+gsp", "model.skip_tokens": 1}
    check_run({**tiny_changes, **tokens, "training.max_validations": 2}, tmp_path / "run")


@pytest.mark.skipif(IS_KERAS_2, reason="KerasHub needs Keras 3.")
def test_a_run_on_a_preset_of_keras_hub(tiny_changes, tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    keras_hub.models.DINOV2Backbone(
        patch_size=4, num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=16, image_shape=(16, 16, 3),
        position_embedding_shape=(16, 16, 3),
    ).save_to_preset(str(tmp_path / "preset"))  # fmt: skip
    preset = {"model.backbone": f"keras_hub:{tmp_path / 'preset'}", "model.pooling": "cls+gsp"}
    images = {"data.size": 16, "data.channels": 3, "training.max_validations": 2}
    check_run({**tiny_changes, **preset, **images}, tmp_path / "run")


@pytest.mark.skipif(IS_KERAS_2, reason="KerasHub needs Keras 3.")
def test_the_recipe_finetune_dinov2_on_a_tiny_one(tiny_changes, tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    keras_hub.models.DINOV2Backbone(
        patch_size=4, num_layers=2, hidden_dim=8, num_heads=2, intermediate_dim=16, image_shape=(16, 16, 3),
        position_embedding_shape=(16, 16, 3),
    ).save_to_preset(str(tmp_path / "preset"))  # fmt: skip
    changes = {key: value for key, value in tiny_changes.items() if key.startswith(("training.", "evaluation."))}
    changes |= {
        "model.backbone": f"keras_hub:{tmp_path / 'preset'}", "data.name": "digits", "data.options": {},
        "data.size": 16, "data.validation_classes": 0.2, "data.test_classes": 0.3, "batches.classes": 4,
        "optimizer.schedule_warmup_steps": 2, "training.max_validations": 2,
    }  # fmt: skip
    result = train("finetune-dinov2", tmp_path / "run", overrides=changes, verbose=0)
    assert result.training["steps"] == 2 * changes["training.steps_per_validation"]
    assert (tmp_path / "run" / "saved_model" / "saved_model.pb").is_file()
