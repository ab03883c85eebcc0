"""Runs of a study: each is done once, and an interrupted study goes on where it was."""

from __future__ import annotations

import dataclasses
import pathlib

from tfdml.experiments import resume, train
from tfdml.experiments.errors import RunFolderError
from tfdml.experiments.run_folder import RunFolder


def result_of(recipe, folder, verbose=0, extra_callbacks=()):
    """The result of a recipe's run: taken from its folder if it is there, else trained, from where it stopped.

    Args:
        recipe: A `Recipe`.
        folder: The run's folder.
        verbose: Of Keras' `fit`.
        extra_callbacks: Further Keras callbacks of the training, called last.

    Returns:
        A `TrainingResult`.

    Raises:
        RunFolderError: If the folder holds a run of another recipe.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        return train(recipe, folder, verbose=verbose, extra_callbacks=extra_callbacks)
    found = RunFolder.open(folder).load_recipe()
    # A run's recipe has the pictures' shape in it, which the study's may leave to the data set.
    if _without_shape(found) != _without_shape(recipe):
        raise RunFolderError(
            f"{folder} holds a run of another recipe. Choose another --out, or remove the folder to run it anew."
        )
    return resume(folder, verbose=verbose, extra_callbacks=extra_callbacks)


def _without_shape(recipe):
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, size=None, channels=None))
