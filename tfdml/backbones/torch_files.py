"""Read PyTorch's weight files without PyTorch and without running pickled code."""

import io
import math
import pathlib
import pickletools
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from tfdml._utils.foreign_files import short_reason, size_limit

# The first object of a file that torch.save of PyTorch before 1.6 wrote, and of later ones on request.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ZIP_MAGIC = b"PK\x03\x04"
_LARGEST_PICKLE = 4 * 2**20
_LONGEST_LINE = 2**16
_MOST_AXES = 32
_LONGEST_NAME = 100
# Where training scripts put the state dict of the model in a checkpoint, and what they put before its names.
_NESTED = ("state_dict", "model_state_dict", "model")
_WRAPPER = "module."

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
    count: int  # type: ignore[assignment]

    @property
    def size(self):
        return self.count * self.element.size


class _Tensor(NamedTuple):
    """Which numbers of a storage make a tensor; the steps are counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple
    steps: tuple
    negative: bool = False


def read_state_dict(path):
    """Read the tensors of a file written by `torch.save(model.state_dict(), path)`.

    Both formats are read: the archive of PyTorch 1.6 and later, and the earlier stream of pickles. A pickle is a
    program. It is run by a small interpreter that knows only dicts, lists, tuples, numbers, strings and the names that
    a state dict needs (ordered dictionaries, storages, tensors and parameters); any other name raises an error.
    Allocated memory is bounded by the size of the file.

    If a checkpoint contains its state dict under `"state_dict"`, `"model_state_dict"` or `"model"`, next to an epoch or
    an optimizer, this state dict is read. The prefix `module.` (`torch.nn.DataParallel`) is removed if all names have
    it.

    Args:
        path: str or `os.PathLike`. File to read.

    Returns:
        dict from names to NumPy arrays, in the file's order; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file has another format, is truncated or damaged, contains anything but tensors, or claims to
            contain more than its size allows.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file. Received: {path}.")
    with path.open("rb") as file:
        try:
            is_archive = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
            file.seek(0)
            return (_read_archive if is_archive else _read_stream)(file, path)
        except _FileError as error:
            raise ValueError(f"Not a readable weights file. Received: {path}{error}") from error
        except Exception as error:  # A damaged file can fail in any way, also by MemoryError or RecursionError.
            raise ValueError(
                "Not a readable weights file. "
                f"Received: {path}, which is not a file of torch.save, or is truncated or damaged "
                f"({short_reason(error)}). Expected: a state dict."
            ) from error


class _FileError(Exception):
    """What is wrong with a file; the path is put before it."""


def _read_archive(file, path):
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _FileError(", an archive without one data.pkl. Expected: a file of torch.save.")
        folder = pickles[0].split("/")[0]

        def read(name, size=None):
            """A member, after its size was checked."""
            info = members.get(f"{folder}/{name}")
            if info is None:
                raise _FileError(f", which is cut off or damaged without {short_text(f'{folder}/{name}')}.")
            if size is not None and info.file_size != size:
                raise _FileError(
                    f", whose storage {short_text(name.split('/')[-1])} has {info.file_size} bytes. Expected: {size}."
                )
            return archive.read(info)

        if f"{folder}/byteorder" in members:
            with archive.open(members[f"{folder}/byteorder"]) as member:
                if member.read(16) != b"little":
                    raise _FileError(", whose numbers are not little-endian.")
        if members[pickles[0]].file_size > _LARGEST_PICKLE:
            raise _FileError(f", whose data.pkl has {members[pickles[0]].file_size} bytes. Expected: a state dict.")
        data = read("data.pkl")
        reader = _PickleReader(_BoundedFile(io.BytesIO(data), len(data)))
        tensors = _state_dict_of(reader.read())
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        _check_total(path, tensors, storages)
        contents = {key: read(f"data/{key}", storage.size) for key, storage in storages.items()}
    return {name: _array(name, tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_stream(file, path):
    file = _BoundedFile(file, path.stat().st_size)
    if _PickleReader(file).read() != _LEGACY_MAGIC:
        raise _FileError(", which is not a file of torch.save.")
    version = _PickleReader(file).read()
    if version != _LEGACY_VERSION:
        raise _FileError(f", of version {short_text(version)} of torch.save. Expected: {_LEGACY_VERSION}.")
    system = _PickleReader(file).read()
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise _FileError(", whose numbers are not little-endian.")
    reader = _PickleReader(file)
    tensors = _state_dict_of(reader.read())
    keys = _PickleReader(file).read()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _FileError(", which does not list its storages.")
    if not set(reader.storages) <= set(keys):
        raise _FileError(", which does not list all its storages.")
    _check_total(path, tensors, {tensor.storage.key: tensor.storage for tensor in tensors.values()})
    wanted, contents = {tensor.storage.key for tensor in tensors.values()}, {}
    for key in keys:
        storage = reader.storages.get(key)
        if storage is None:
            raise _FileError(f", with a storage {short_text(key)} that no tensor has.")
        count = file.read(8)
        present = min(storage.size, file.remaining())
        if len(count) != 8 or present != storage.size:
            raise _FileError(
                f", which is cut off in storage {short_text(key)}: {present} of {storage.size} bytes are there."
            )
        if int.from_bytes(count, "little") != storage.count:
            raise _FileError(f", which is damaged: storage {short_text(key)} has another size than its tensors say.")
        if key in wanted:
            contents[key] = file.read(storage.size)
        else:
            file.skip(storage.size)
    return {name: _array(name, tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


class _BoundedFile:
    """A file of which no more is asked for than there is: Python allocates what it is asked for."""

    def __init__(self, file, size):
        self._file, self._size = file, size

    def remaining(self):
        return self._size - self._file.tell()

    def read(self, count):
        return self._file.read(min(count, self.remaining()))

    def readline(self):
        return self._file.readline(_LONGEST_LINE)

    def tell(self):
        return self._file.tell()

    def skip(self, count):
        self._file.seek(count, io.SEEK_CUR)


class _Function(NamedTuple):
    """Stands for what a pickle calls."""

    name: str


# All that a pickle can ask for. What the functions do is done here, to descriptions.
_KNOWN = {
    ("collections", "OrderedDict"): _Function("dict"),
    ("torch._utils", "_rebuild_tensor"): _Function("tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): _Function("tensor"),
    ("torch._utils", "_rebuild_parameter"): _Function("parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function("parameter"),
    **{("torch", name): _Element(element) for name, element in _ELEMENTS.items()},
}


class _Mark:
    """Where the arguments of an instruction begin."""


_MARK = _Mark()


class _PickleReader:
    """Follows a pickle to descriptions of its tensors; nothing in it can be called, and no key is hashed but strings
    and numbers.

    Args:
        file: Where the pickle begins.
    """

    def __init__(self, file):
        self.file = file
        self.storages = {}
        self.stack = []
        self.memo = {}

    def read(self):
        """The object; the file stands behind the pickle."""
        start = self.file.tell()
        for instruction, argument, position in pickletools.genops(self.file):
            if (position or 0) - start > _LARGEST_PICKLE:
                raise _FileError(", whose pickle is too long. Expected: a state dict.")
            name = instruction.name
            if name == "STOP":
                break
            if name in _VALUES:
                self.stack.append(_VALUES[name](argument))
            else:
                handler = getattr(self, f"_{name.lower()}", None)
                if handler is None:
                    raise _FileError(f", whose pickle has the instruction {name}. Expected: a state dict.")
                handler(argument)
        (result,) = self.stack
        return result

    def _to_mark(self):
        """What stands behind the last mark; takes it and the mark off the stack."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("no mark")

    def _ignore(self, argument):
        pass

    _proto = _frame = _ignore

    def _mark(self, argument):
        self.stack.append(_MARK)

    def _pop(self, argument):
        self.stack.pop()

    def _tuple(self, argument):
        self.stack.append(tuple(self._to_mark()))

    def _take(self, count):
        items = self.stack[-count:]
        if len(items) != count:
            raise ValueError("an empty stack")
        del self.stack[-count:]
        return tuple(items)

    def _tuple1(self, argument):
        self.stack.append(self._take(1))

    def _tuple2(self, argument):
        self.stack.append(self._take(2))

    def _tuple3(self, argument):
        self.stack.append(self._take(3))

    def _list(self, argument):
        self.stack.append(self._to_mark())

    def _append(self, argument):
        (item,) = self._take(1)
        self._top(list).append(item)

    def _appends(self, argument):
        items = self._to_mark()
        self._top(list).extend(items)

    def _dict(self, argument):
        items = self._to_mark()
        self.stack.append({})
        self._set(items)

    def _setitem(self, argument):
        self._set(self._take(2))

    def _setitems(self, argument):
        self._set(self._to_mark())

    def _set(self, items):
        into = self._top(dict)
        for key, value in zip(items[::2], items[1::2]):
            # The hash of nested tuples that share their parts takes forever.
            if not isinstance(key, (str, int)):
                raise _FileError(f", with a key of type {type(key).__name__}. Expected: names.")
            into[key] = value

    def _top(self, kind):
        top = self.stack[-1]
        if not isinstance(top, kind):
            raise ValueError(f"a {type(top).__name__} in the place of a {kind.__name__}")
        return top

    def _put(self, argument):
        self.memo[argument] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, argument):
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, argument):
        self.stack.append(self.memo[argument])

    _binget = _long_binget = _get

    def _global(self, argument):
        self._find(*argument.split(" ", 1))

    def _stack_global(self, argument):
        self._find(*self._take(2))

    def _find(self, module, name):
        found = _KNOWN.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise _FileError(
                f", whose pickle asks for {short_text(f'{module}.{name}', quoted=False)}. Expected: a state dict of "
                "dense tensors, which does not. Nothing was called."
            )
        self.stack.append(found)

    def _reduce(self, argument):
        function, arguments = self._take(2)
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is not a function")
        if function.name == "dict":
            self.stack.append({})
            if arguments:
                if len(arguments) != 1 or not isinstance(arguments[0], list):
                    raise ValueError("a dict of something else than a list")
                for pair in arguments[0]:
                    self._set(tuple(pair))
        elif function.name == "parameter":
            self.stack.append(arguments[0])
        else:
            is_negative = _is_negative(arguments[6:])
            self.stack.append(_Tensor(*arguments[:4], negative=is_negative))  # type: ignore[misc]

    def _build(self, argument):
        # The state of a dict is the versions of its modules, of a parameter its attributes.
        self.stack.pop()

    def _binpersid(self, argument):
        (identifier,) = self._take(1)
        if not isinstance(identifier, tuple) or len(identifier) < 5:
            raise _FileError(", with a storage of an unknown kind.")
        kind, element, key, _, count, *view = identifier
        fits = kind == "storage" and isinstance(element, _Element) and isinstance(key, str) and _is_count(count)
        if not fits or any(part is not None for part in view):
            raise _FileError(f", with a storage of an unknown kind, {short_text(key)}.")
        self.stack.append(self.storages.setdefault(key, _Storage(element, key, count)))


def _same(argument):
    return argument


def _python_2_text(argument):
    """What Python 2 pickled as bytes: names in UTF-8."""
    return argument.encode("latin-1").decode("utf-8") if isinstance(argument, str) else argument


_VALUES = {
    "NONE": lambda argument: None,
    "NEWTRUE": lambda argument: True,
    "NEWFALSE": lambda argument: False,
    "EMPTY_TUPLE": lambda argument: (),
    "EMPTY_LIST": lambda argument: [],
    "EMPTY_DICT": lambda argument: {},
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _same),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _python_2_text),
}


def _is_negative(rest):
    """Whether the numbers of a tensor are negated, out of the last argument of its call."""
    if not rest or rest[0] is None:
        return False
    metadata = rest[0]
    if not isinstance(metadata, dict) or not set(metadata) <= {"neg", "conj"}:
        raise _FileError(", with a tensor of an unknown kind. Expected: dense ones.")
    return bool(metadata.get("neg", False))


def _state_dict_of(content):
    """The tensors by their names, out of all that a file holds."""
    if not isinstance(content, dict):
        raise _FileError(f", which holds an object of type {type(content).__name__}. Expected: a dict.")
    nested = [key for key in _NESTED if isinstance(content.get(key), dict)]
    tensors = content[nested[0]] if nested else content
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _FileError(
                f", which holds {short_text(name)} of type {type(tensor).__name__.lstrip('_')}. "
                "Expected: tensors by their names alone, as torch.save(model.state_dict(), …) writes them."
            )
        _check_place(name, tensor)
    if tensors and all(name.startswith(_WRAPPER) for name in tensors):
        tensors = {name[len(_WRAPPER) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _check_place(name, tensor):
    storage, offset, shape, steps, _ = tensor
    fits = (
        isinstance(storage, _Storage)
        and all(isinstance(part, tuple) and all(map(_is_count, part)) for part in (shape, steps))
        and len(shape) == len(steps) <= _MOST_AXES
        and _is_count(offset)
    )
    last = offset + sum((count - 1) * step for count, step in zip(shape, steps)) if fits else 0
    if not fits or (last >= storage.count and 0 not in shape) or (0 in shape and max(shape) > sys.maxsize // 2**32):
        place = f"({short_text(offset)}, {short_text(shape)}, {short_text(steps)})" if fits else "of an unknown kind"
        raise _FileError(f": {short_text(name, quoted=False)}, a tensor {place} that does not lie in its storage.")


def _check_total(path, tensors, storages):
    """Raises a _FileError if tensors that overlap, or storages, amount to more than the file can hold."""
    of_storages = sum(storage.size for storage in storages.values())
    # bfloat16 takes twice its size here.
    of_tensors = sum(2 * math.prod(tensor.shape) * tensor.storage.element.size for tensor in tensors.values())
    for claimed, what in ((of_storages, "storages"), (of_tensors, "tensors")):
        if claimed > size_limit(path):
            raise _FileError(
                f", whose {what} claim {claimed:,} bytes. Expected: at most {size_limit(path):,} (64 MiB plus 16 times "
                "the file's size)."
            )


def _array(name, tensor, data):
    storage, offset, shape, steps, negative = tensor
    if storage.element.type == _BFLOAT16:
        # The upper half of a float32.
        numbers = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(data, storage.element.type)
    if 0 in shape:
        return np.zeros(shape, numbers.dtype)
    strides = tuple(step * numbers.itemsize for step in steps)
    array = np.array(np.lib.stride_tricks.as_strided(numbers[offset:], shape, strides))
    return -array if negative else array


def short_text(value, quoted=True):
    """A value for a message: text and numbers cut to a length, of all else the type."""
    if isinstance(value, tuple) and len(value) <= _MOST_AXES and all(isinstance(part, int) for part in value):
        text = repr(value)
    elif isinstance(value, (str, int, float, type(None))):
        text = repr(value[: 2 * _LONGEST_NAME]) if isinstance(value, str) and quoted else str(value)
    else:
        text = f"a {type(value).__name__}"
    return f"{text[:_LONGEST_NAME]}…" if len(text) > _LONGEST_NAME else text


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= sys.maxsize
