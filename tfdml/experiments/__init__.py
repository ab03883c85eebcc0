"""Experiments: recipes, training runs with their folders, evaluation, and the two commands."""

from tfdml.experiments.commands import evaluate_main, train_main
from tfdml.experiments.errors import InputError, RecipeError, RunFolderError
from tfdml.experiments.evaluation import Evaluation, evaluate, judge
from tfdml.experiments.protocols import ProtocolResult, plan, resume_protocol, run_protocol
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import dump_recipe, load_preset, load_recipe, preset_names, recipe_names
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import NonFiniteLossError, TrainingResult, resume, train

__all__ = [
    "Evaluation",
    "InputError",
    "NonFiniteLossError",
    "ProtocolResult",
    "Recipe",
    "RecipeError",
    "RunFolder",
    "RunFolderError",
    "TrainingResult",
    "dump_recipe",
    "evaluate",
    "evaluate_main",
    "judge",
    "load_preset",
    "load_recipe",
    "plan",
    "preset_names",
    "recipe_names",
    "resume",
    "resume_protocol",
    "run_protocol",
    "train",
    "train_main",
]
