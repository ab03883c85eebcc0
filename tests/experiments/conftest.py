"""Runs that are trained once, and the small backbone that they use."""

import types

import keras
import pytest
import tiny_backbone

from tfdml.experiments import RunFolder, builders, load_recipe, train
from tfdml.experiments.extraction import extract_features
from tfdml.export import export_saved_model


@pytest.fixture(autouse=True)
def tiny():
    """Register the backbone "tiny" for these tests."""
    with tiny_backbone.registered():
        yield


@pytest.fixture(scope="session")
def tiny_changes():
    """Changes of the recipe digits-quick for a short run."""
    return dict(tiny_backbone.CHANGES)


@pytest.fixture(scope="session")
def tiny_arguments(tiny_changes):
    """The same for the command line."""
    texts = {key: "null" if value is None else str(value) for key, value in tiny_changes.items()}
    return ["digits-quick", *(part for key, text in texts.items() for part in (f"--{key}", text))]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_changes):
    """Result of an uninterrupted run on images with GSP, CCP and figures, for integration tests.

    Tests copy its folder before they change it.
    """
    with tiny_backbone.registered():
        recipe = load_recipe("digits-quick", tiny_changes)
        return train(recipe, tmp_path_factory.mktemp("runs") / "whole", verbose=0)


@pytest.fixture(scope="session")
def image_run(tmp_path_factory, tiny_changes):
    """Folder of a run on images, with the files that an evaluation reads, and its untrained embedder.

    Three times faster than a run that trains.
    """
    with tiny_backbone.registered():
        changes = {**tiny_changes, "model.pooling": "gap", "references.name": "batch", "ccp.enabled": False}
        recipe = load_recipe("digits-quick", changes)
        images = builders.load_data(recipe)
        recipe = builders.complete_recipe(recipe, images)
        keras.utils.set_random_seed(0)
        embedder = builders.make_embedder(recipe, images.preprocessing)
        builders.start_embedder(recipe, embedder, images)
    folder = RunFolder.create(recipe, tmp_path_factory.mktemp("runs") / "images")
    embedder.save(folder.embedder)
    embedder.save_weights(folder.best_weights)
    export_saved_model(embedder, folder.saved_model, preprocessing=images.preprocessing)
    return types.SimpleNamespace(folder=folder.path, embedder=embedder, images=images)


@pytest.fixture(scope="session")
def stored_features(tmp_path_factory):
    """Features of size 24 of the digits from a random network, which are better than chance."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(24, 5, activation="relu")(inputs)
    folder = tmp_path_factory.mktemp("features") / "digits"
    extract_features(keras.Model(inputs, maps, name="random"), "digits", folder, pooling="gmp", verbose=False)
    return folder


@pytest.fixture(scope="session")
def head_changes(stored_features):
    """Changes of the recipe features for a run of about a second."""
    return {
        "data.options.path": str(stored_features),
        "batches.classes": 4,
        "references.name": "memory",
        "references.memory_warmup": 2,
        "references.memory_size": 40,
        "model.embedding_size": 8,
        "model.head.hidden": [16],
        "model.head.dropout": 0.2,
        "optimizer.learning_rate": 0.03,
        "training.steps_per_validation": 4,
        "training.max_validations": 3,
        "training.geometry": False,
        "evaluation.figures": False,
    }


@pytest.fixture(scope="session")
def head_arguments(head_changes):
    """The same for the command line."""
    return ["features", *(part for key, value in head_changes.items() for part in (f"--{key}", str(value)))]


@pytest.fixture(scope="session")
def head_run(head_changes, tmp_path_factory):
    """Result of an uninterrupted run on features. Tests copy its folder before they change it."""
    recipe = load_recipe("features", head_changes)
    return train(recipe, tmp_path_factory.mktemp("runs") / "head", verbose=0)
