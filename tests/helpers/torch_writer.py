"""Write PyTorch files without PyTorch: pickles assembled by hand, in the two formats of torch.save."""

import pickle
import struct
import zipfile

import numpy as np

STREAM_MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value):
    return f"S{value!r}\n".encode()


def numbers(values):
    return b"(" + b"".join(f"I{value}\n".encode() for value in values) + b"t"


def storage(key, count, kind="FloatStorage"):
    """Pickle of the persistent identifier of a storage."""
    parts = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + f"I{count}\n".encode()
    return b"(" + parts + b"tQ"


def tensor(key, count, shape, steps, offset=0, kind="FloatStorage"):
    """Pickle of the call that creates a tensor."""
    arguments = storage(key, count, kind) + f"I{offset}\n".encode() + numbers(shape) + numbers(steps)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"I00\n)tR"


def program(items):
    """Pickle of a dict from names to pickled values."""
    return b"(d" + b"".join(text(name) + value + b"s" for name, value in items.items()) + b"."


def write_archive(path, data, contents, byteorder="little", folder="archive"):
    """Write a file of PyTorch 1.6 and later; `contents` are the bytes of the storages by key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", data)
        archive.writestr(f"{folder}/byteorder", byteorder)
        for key, content in contents.items():
            archive.writestr(f"{folder}/data/{key}", content)
        archive.writestr(f"{folder}/version", "3\n")


def write_stream(path, data, contents, counts=None, magic=STREAM_MAGIC, version=1001, system=SYSTEM):
    """Write a file of PyTorch before 1.6; `counts` are the numbers of elements, float32 by default."""
    with open(path, "wb") as file:
        for part in (magic, version, system):
            pickle.dump(part, file, protocol=2)
        file.write(data)
        pickle.dump(list(contents), file, protocol=2)
        for key, content in contents.items():
            file.write(struct.pack("<q", (counts or {}).get(key, len(content) // 4)))
            file.write(content)


def write_state_dict(path, state, write=write_stream):
    """Write a file of float32 arrays."""
    items, contents = {}, {}
    for key, (name, array) in enumerate(state.items()):
        array = np.ascontiguousarray(array, np.float32)
        steps = [step // 4 for step in array.strides]
        items[name] = tensor(str(key), array.size, array.shape, steps)
        contents[str(key)] = array.tobytes()
    write(path, program(items), contents)
