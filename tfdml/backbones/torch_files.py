"""PyTorch's files of weights, read without PyTorch and without running what is pickled in them."""

import collections
import pathlib
import pickle
import sys
import zipfile
from typing import NamedTuple

import numpy as np

# The first object of a file that torch.save of PyTorch before 1.6 wrote, and of later ones on request.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ZIP_MAGIC = b"PK\x03\x04"

_BFLOAT16 = "bfloat16"
_ELEMENTS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Element(NamedTuple):
    """Stands for a class of storages, such as torch.FloatStorage."""

    type: str

    @property
    def size(self):
        return 2 if self.type == _BFLOAT16 else np.dtype(self.type).itemsize


class _Storage(NamedTuple):
    """A row of `count` numbers somewhere in the file."""

    element: _Element
    key: str
    count: int

    @property
    def size(self):
        return self.count * self.element.size


class _Tensor(NamedTuple):
    """Which numbers of a storage make a tensor; the steps are counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple
    steps: tuple


def read_state_dict(path):
    """Reads the tensors of a file that `torch.save(model.state_dict(), path)` wrote.

    Both formats are read: the archive of PyTorch 1.6 and later, and the stream of pickles before it. A pickle is a
    program; of the names it may call, only those of a state dict are known here (ordered dictionaries, storages,
    tensors and parameters), each by an inert stand-in. Every other name ends the reading.

    Args:
        path: The file.

    Returns:
        A dict from names to NumPy arrays, in the file's order; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is cut off or damaged, asks for anything but tensors, or holds anything else.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file. Received: {path}.")
    with path.open("rb") as file:
        is_archive = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        file.seek(0)
        try:
            tensors, contents = (_read_archive if is_archive else _read_stream)(file)
        except _FileError as error:
            raise ValueError(f"Received: {path}, {error}") from error
        _check_tensors(tensors, path)
        return {name: _array(tensor, contents, f"{path}: {name}") for name, tensor in tensors.items()}


class _FileError(Exception):
    """What is wrong with a file; the path is put before it."""


class _Unpickler(pickle.Unpickler):
    """Unpickles a state dict to descriptions of its tensors, and nothing else."""

    def __init__(self, file):
        # As PyTorch does: names that Python 2 wrote are bytes.
        super().__init__(file, encoding="utf-8")
        self.storages = {}
        # Made anew for each file: a pickle can set attributes of what it is given.
        self._known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *parts: _Tensor(*parts[:4]),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _Tensor(*parts[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
            **{("torch", name): _Element(element) for name, element in _ELEMENTS.items()},
        }

    def find_class(self, module, name):
        if (module, name) not in self._known:
            raise _FileError(
                f"whose pickle asks for {module}.{name}; expected a state dict of dense tensors, which does not. "
                "Nothing was called."
            )
        return self._known[module, name]

    def persistent_load(self, identifier):
        kind, element, key, _, count, *view = identifier
        fits = kind == "storage" and isinstance(element, _Element) and isinstance(key, str) and _is_count(count)
        if not fits or any(part is not None for part in view):
            raise _FileError(f"with a storage of an unknown kind: {identifier!r}.")
        return self.storages.setdefault(key, _Storage(element, key, count))

    def load_checked(self):
        try:
            return self.load()
        except _FileError:
            raise
        except Exception as error:  # A damaged pickle can fail in any way.
            raise _FileError(
                "which is no file of torch.save, or cut off or damaged "
                f"({type(error).__name__}: {error}); expected a state dict."
            ) from error


def _read_archive(file):
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1:
                raise _FileError("an archive without one data.pkl; expected a file of torch.save.")
            folder = pickles[0].split("/")[0]
            if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
                raise _FileError("whose numbers are not little-endian.")
            with archive.open(pickles[0]) as data:
                unpickler = _Unpickler(data)
                tensors = unpickler.load_checked()
            storages = unpickler.storages.values()
            contents = {storage.key: archive.read(f"{folder}/data/{storage.key}") for storage in storages}
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _FileError(f"which is cut off or damaged ({error}); expected an archive of torch.save.") from error
    for storage in storages:
        if len(contents[storage.key]) != storage.size:
            raise _FileError(
                f"whose storage {storage.key!r} has {len(contents[storage.key])} bytes; expected {storage.size}."
            )
    return tensors, contents


def _read_stream(file):
    if _Unpickler(file).load_checked() != _LEGACY_MAGIC:
        raise _FileError("which is no file of torch.save.")
    version = _Unpickler(file).load_checked()
    if version != _LEGACY_VERSION:
        raise _FileError(f"of version {version!r} of torch.save; expected {_LEGACY_VERSION}.")
    system = _Unpickler(file).load_checked()
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise _FileError("whose numbers are not little-endian.")
    unpickler = _Unpickler(file)
    tensors = unpickler.load_checked()
    keys = _Unpickler(file).load_checked()
    if not isinstance(keys, list) or any(key not in keys for key in unpickler.storages):
        raise _FileError("which does not list all its storages.")
    contents = {}
    for key in keys:
        storage = unpickler.storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise _FileError(f"with a storage {key!r} that no tensor has.")
        count, data = file.read(8), file.read(storage.size)
        if len(count) != 8 or len(data) != storage.size:
            raise _FileError(f"which is cut off in storage {key!r}: {len(data)} of {storage.size} bytes are there.")
        if int.from_bytes(count, "little") != storage.count:
            raise _FileError(f"which is damaged: storage {key!r} has another size than its tensors say.")
        contents[key] = data
    return tensors, contents


def _check_tensors(tensors, path):
    if not isinstance(tensors, dict):
        raise ValueError(f"Received: {path}, which holds an object of type {type(tensors).__name__}; expected a dict.")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(
                f"Received: {path}, which holds {name!r} of type {type(tensor).__name__}; "
                "expected tensors by their names alone, as torch.save(model.state_dict(), …) writes them."
            )


def _array(tensor, contents, name):
    storage, offset, shape, steps = tensor
    fits = (
        isinstance(storage, _Storage)
        and all(isinstance(part, tuple) and all(map(_is_count, part)) for part in (shape, steps))
        and len(shape) == len(steps)
        and _is_count(offset)
    )
    is_empty = fits and 0 in shape
    last = offset + sum((count - 1) * step for count, step in zip(shape, steps)) if fits else 0
    if not fits or (last >= storage.count and not is_empty):
        raise ValueError(f"Received: {name}, a tensor {tensor[1:]} that does not lie in its storage.")
    data = contents[storage.key]
    if storage.element.type == _BFLOAT16:
        # The upper half of a float32.
        numbers = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(data, storage.element.type)
    if is_empty:
        return np.zeros(shape, numbers.dtype)
    strides = tuple(step * numbers.itemsize for step in steps)
    return np.array(np.lib.stride_tricks.as_strided(numbers[offset:], shape, strides))


def _is_count(value):
    return isinstance(value, int) and 0 <= value <= sys.maxsize
