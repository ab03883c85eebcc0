"""Experiments: recipes, training runs with their folders, evaluation, and the commands.

Names are imported on first use, so that the help of commands does not wait for TensorFlow.
"""

import importlib
import importlib.util
from typing import Any

for _name in ("yaml", "tqdm"):
    if importlib.util.find_spec(_name) is None:
        raise ModuleNotFoundError(
            f"Recipes and commands need more packages. Received: no module {_name!r}. Expected: the extra 'commands'. "
            "Run pip install 'tfdml[commands]'.",
            name=_name,
        )

_MODULES = {
    "commands": ("evaluate_main", "train_main"),
    "errors": ("InputError", "RecipeError", "RunFolderError"),
    "extract_command": ("extract_main",),
    "evaluation": ("Evaluation", "evaluate", "evaluate_embedder"),
    "gallery_command": ("gallery_main",),
    "protocols": ("ProtocolResult", "plan", "resume_protocol", "run_protocol"),
    "recipe": ("Recipe",),
    "recipe_files": ("dump_recipe", "load_preset", "load_recipe", "preset_names", "recipe_names"),
    "run_folder": ("RunFolder",),
    "sharded_extraction": ("ExtractionReport", "extract_to_parquet"),
    "runner": ("NonFiniteLossError", "TrainingResult", "resume", "train"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
