"""Datasets of labeled images, class-disjoint splits and balanced batches, all ending in tf.data.

The names are imported when one of them is first used, so that the command `tfdml-prepare` starts without TensorFlow.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from tfdml._utils.naming import former_names

if TYPE_CHECKING:
    from tfdml.data import api
    from tfdml.data.api import *  # noqa: F403
    from tfdml.data.datasets import *  # noqa: F403

    __all__ = api.__all__  # noqa: PLE0605

_former_name = former_names(__name__, dataset_names="names")


def __getattr__(name: str) -> Any:
    is_special = name.startswith("_") and name != "__all__"
    # `from tfdml.data import MODULE` asks for the module here before it imports it.
    if is_special or importlib.util.find_spec(f"{__name__}.{name}"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = importlib.import_module(f"{__name__}.api")
    if name != "__all__" and name not in api.__all__:
        return _former_name(name)
    globals()[name] = getattr(api, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
