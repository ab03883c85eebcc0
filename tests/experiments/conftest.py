"""A whole run, made once, and the small backbone that it needs."""

import pytest
import tiny_backbone

from tfdml.experiments import load_recipe, train


@pytest.fixture(autouse=True)
def tiny():
    """The backbone "tiny" exists, in these tests alone."""
    with tiny_backbone.registered():
        yield


@pytest.fixture(scope="session")
def tiny_changes():
    """Changes of the recipe digits-quick that make a run short."""
    return dict(tiny_backbone.CHANGES)


@pytest.fixture(scope="session")
def tiny_arguments(tiny_changes):
    """The same for the command line."""
    texts = {key: "null" if value is None else str(value) for key, value in tiny_changes.items()}
    return ["digits-quick", *(part for key, text in texts.items() for part in (f"--{key}", text))]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_changes):
    """The result of an uninterrupted run with GSP and CCP. Tests copy its folder before they change it."""
    with tiny_backbone.registered():
        recipe = load_recipe("digits-quick", tiny_changes)
        return train(recipe, tmp_path_factory.mktemp("runs") / "whole", verbose=0)
