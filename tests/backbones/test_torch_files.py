import pathlib
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_writer import numbers, program, storage, tensor, write_archive, write_state_dict, write_stream

from tfdml.backbones.torch_files import read_state_dict

FILES = pathlib.Path(__file__).parent / "files"
WRITERS = (write_archive, write_stream)
FOUR = np.arange(4, dtype=np.float32)


def counted(shape, dtype="float32", start=0, unit=1 / 8):
    return (np.arange(start, start + np.prod(shape, dtype=int)) * unit).reshape(shape).astype(dtype)


def contents_of(path):
    return {"0": FOUR.tobytes()}, path / "state.pth"


# As files/README.md says.
ROWS = counted((6, 4))
EXPECTED = {
    "weight": counted((3, 2, 3, 2)),
    "bias": counted(3, start=100),
    "transposed": counted((3, 4, 2)).transpose(2, 0, 1),
    "upper": ROWS[:2],
    "lower_columns": ROWS[3:, 1::2],
    "expanded": np.repeat(counted((3, 1), start=5), 2, axis=1),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": counted((2, 2), start=9),
    "half": counted((2, 3), "float16", start=2),
    "bfloat16": counted((2, 3), start=2),
    "double": counted((2, 3), "float64", start=2),
    **{kind: counted((2, 3), kind, start=2, unit=1) for kind in ("int32", "int16", "int8", "uint8")},
    "bool": np.array([True, False, True]),
}


@pytest.mark.parametrize("name", ["archive.pth", "stream.pth"])
def test_files_of_pytorch(name):
    state = read_state_dict(FILES / name)
    assert list(state) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        assert state[key].dtype == expected.dtype, key
        np.testing.assert_array_equal(state[key], expected, err_msg=key)
        assert state[key].flags.writeable


@pytest.mark.parametrize("write", WRITERS)
def test_files_of_these_tests(write, tmp_path):
    arrays = {"a.weight": counted((2, 3, 1, 2)), "a.bias": counted(2), "b": counted(())}
    write_state_dict(tmp_path / "state.pth", arrays, write)
    state = read_state_dict(tmp_path / "state.pth")
    assert list(state) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(state[key], array)


@pytest.mark.parametrize("write", WRITERS)
def test_tensors_share_a_storage(write, tmp_path):
    contents, path = contents_of(tmp_path)
    items = {"all": tensor("0", 4, [2, 2], [1, 2]), "last": tensor("0", 4, [1], [1], offset=3)}
    write(path, program(items), contents)
    state = read_state_dict(path)
    np.testing.assert_array_equal(state["all"], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(state["last"], [3])


class Evil:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_is_run(write, tmp_path):
    import os

    marker = tmp_path / "marker"
    pickled = pickle.dumps({"weight": Evil(os.system, f"touch {marker}")}, protocol=2)
    contents, path = contents_of(tmp_path)
    write(path, pickled, contents)
    with pytest.raises(ValueError, match=rf"Received: {path}, whose pickle asks for {os.system.__module__}\.system\."):
        read_state_dict(path)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists(), "the pickle would have run"


@pytest.mark.parametrize("place", ["magic", "version", "system", "keys"])
def test_nothing_is_run_at_any_place_of_the_stream(place, tmp_path):
    path, evil = tmp_path / "state.pth", Evil(eval, "1 / 0")
    if place == "keys":
        write_stream(path, program({}), {})
        path.write_bytes(path.read_bytes()[: -len(pickle.dumps([], 2))] + pickle.dumps(evil, 2))
    else:
        write_stream(path, program({}), {}, **{place: evil})
    with pytest.raises(ValueError, match=r"asks for \w+\.eval. Expected: a state dict"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "name",
    ["torch.nn.modules.conv.Conv2d", "torch._utils._rebuild_sparse_tensor", "torch.load", "builtins.getattr",
     "collections.defaultdict", "torch._utils.sys", "numpy.core.multiarray._reconstruct", "copyreg._reconstructor"],
)  # fmt: skip
def test_only_the_names_of_a_state_dict(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "model.pth"
    write_archive(path, f"c{module}\n{attribute}\n.".encode(), {})
    with pytest.raises(ValueError, match=f"{path}, whose pickle asks for {name}. Expected:"):
        read_state_dict(path)


def test_what_a_pickle_does_to_a_stand_in_ends_with_it(tmp_path):
    # BUILD sets attributes of the function that makes tensors: its defaults, of the next file, too, if it were shared.
    contents, path = contents_of(tmp_path)
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N(dS'__defaults__'\n(I1\ntstb0"
    write_stream(path, build + program({"a": tensor("0", 4, [4], [1])}), contents)
    np.testing.assert_array_equal(read_state_dict(path)["a"], FOUR)
    np.testing.assert_array_equal(read_state_dict(FILES / "stream.pth")["bias"], EXPECTED["bias"])


@pytest.mark.parametrize("name", ["archive.pth", "stream.pth"])
def test_cut_off(name, tmp_path):
    whole, path = (FILES / name).read_bytes(), tmp_path / name
    # 4 bytes of the archive are still the sign of one.
    for count in [4, 30, *range(100, len(whole), 331), len(whole) - 1]:
        path.write_bytes(whole[:count])
        with pytest.raises(ValueError, match=f"Received: {path}, which is .*(cut off|truncated)"):
            read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x89HDF\r\n\x1a\n", pickle.dumps([1]), b"PK\x03\x04"])
def test_other_files(content, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"Received: {path}, which is .*torch\.save"):
        read_state_dict(path)


def test_damaged_archive(tmp_path):
    contents, path = contents_of(tmp_path)
    write_archive(path, program({"a": tensor("0", 4, [4], [1])}), contents)
    content = path.read_bytes()
    path.write_bytes(content.replace(FOUR.tobytes(), FOUR[::-1].tobytes()))
    with pytest.raises(ValueError, match="damaged .*CRC"):
        read_state_dict(path)


def test_archive_that_is_no_model(tmp_path):
    np.savez(tmp_path / "other.pth.npz", a=FOUR)
    with pytest.raises(ValueError, match=r"an archive without one data\.pkl"):
        read_state_dict(tmp_path / "other.pth.npz")


def test_archive_without_a_storage(tmp_path):
    path = tmp_path / "state.pth"
    write_archive(path, program({"a": tensor("0", 4, [4], [1])}), {})
    with pytest.raises(ValueError, match=r"damaged .*archive/data/0"):
        read_state_dict(path)


@pytest.mark.parametrize(("write", "message"), zip(WRITERS, ("has 16 bytes. Expected: 20", "cut off in storage '0'")))
def test_storage_of_another_size(write, message, tmp_path):
    contents, path = contents_of(tmp_path)
    write(path, program({"a": tensor("0", 5, [5], [1])}), contents)
    with pytest.raises(ValueError, match=message):
        read_state_dict(path)


def test_stream_whose_parts_disagree(tmp_path):
    contents, path = contents_of(tmp_path)
    items = {"a": tensor("0", 4, [4], [1])}
    write_stream(path, program(items), contents, counts={"0": 3})
    with pytest.raises(ValueError, match="another size than its tensors say"):
        read_state_dict(path)
    write_stream(path, program(items), {})
    with pytest.raises(ValueError, match="does not list all its storages"):
        read_state_dict(path)
    write_stream(path, program({}), contents)
    with pytest.raises(ValueError, match="'0' that no tensor has"):
        read_state_dict(path)


def test_big_endian(tmp_path):
    path = tmp_path / "state.pth"
    write_archive(path, program({}), {}, byteorder="big")
    with pytest.raises(ValueError, match="not little-endian"):
        read_state_dict(path)
    write_stream(path, program({}), {}, system={"little_endian": False})
    with pytest.raises(ValueError, match="not little-endian"):
        read_state_dict(path)


def test_another_version(tmp_path):
    write_stream(tmp_path / "state.pth", program({}), {}, version=1000)
    with pytest.raises(ValueError, match="of version 1000 of torch.save. Expected: 1001"):
        read_state_dict(tmp_path / "state.pth")


@pytest.mark.parametrize(
    "made",
    [
        tensor("0", 4, [5], [1]),
        tensor("0", 4, [2], [4]),
        tensor("0", 4, [1], [1], offset=4),
        tensor("0", 4, [2], [-1], offset=1),
        tensor("0", 4, [-1], [1]),
        tensor("0", 4, [1], [1], offset=-1),
        tensor("0", 4, [2, 2], [1]),
    ],
)
def test_tensors_beyond_their_storage(made, tmp_path):
    contents, path = contents_of(tmp_path)
    write_archive(path, program({"a.weight": made}), contents)
    with pytest.raises(ValueError, match=rf"Received: {path}: a\.weight, a tensor .* does not lie in its storage"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "made",
    [storage("0", -1), storage("0", 4).replace(b"torch\nFloatStorage", b"collections\nOrderedDict"),
     storage("0", 4).replace(b"'storage'", b"'module'"), storage("0", 4).replace(b"tQ", b"(I1\nttQ")],
)  # fmt: skip
def test_storages_of_another_kind(made, tmp_path):
    path = tmp_path / "state.pth"
    write_archive(path, program({"a": made}), {})
    with pytest.raises(ValueError, match="with a storage of an unknown kind"):
        read_state_dict(path)


def test_other_things_than_tensors(tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_archive(path, program({"epoch": b"I3\n"}), {})
    with pytest.raises(ValueError, match=f"Received: {path}, which holds 'epoch' of type int. Expected: tensors"):
        read_state_dict(path)
    write_archive(path, numbers([1, 2]) + b".", {})
    with pytest.raises(ValueError, match="an object of type tuple. Expected: a dict"):
        read_state_dict(path)
    without_storage = b"ctorch._utils\n_rebuild_tensor\n(I1\nI2\n" + numbers([1]) + numbers([1]) + b"tR"
    write_archive(path, program({"a": without_storage}), {})
    with pytest.raises(ValueError, match="does not lie in its storage"):
        read_state_dict(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"Received: {tmp_path}/none.pth"):
        read_state_dict(tmp_path / "none.pth")


def write_tensors(path, items, contents=None):
    write_archive(path, program(items), contents or {"0": FOUR.tobytes()})


def call(name, arguments):
    return f"ctorch._utils\n{name}\n(".encode() + arguments + b"tR"


def arguments_of_tensor(metadata=b""):
    return storage("0", 4) + b"I0\n" + numbers([4]) + numbers([1]) + b"I00\n)" + metadata


@pytest.mark.parametrize(
    ("metadata", "sign"), [(b"", 1), (b"N", 1), (b"(dS'neg'\nI01\ns", -1), (b"(dS'neg'\nI00\ns", 1)]
)
def test_negation_bit(metadata, sign, tmp_path):
    write_tensors(tmp_path / "a.pth", {"a": call("_rebuild_tensor_v2", arguments_of_tensor(metadata))})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pth")["a"], sign * FOUR)


@pytest.mark.parametrize("metadata", [b"(dS'quantized'\nI01\ns", b"I3\n", b"(I1\nt"])
def test_other_metadata(metadata, tmp_path):
    write_tensors(tmp_path / "a.pth", {"a": call("_rebuild_tensor_v2", arguments_of_tensor(metadata))})
    with pytest.raises(ValueError, match=rf"Received: {tmp_path}/a\.pth, with a tensor of an unknown kind"):
        read_state_dict(tmp_path / "a.pth")


def test_parameter_with_attributes(tmp_path):
    state = b"(dS'of_mine'\nI3\ns"
    made = call("_rebuild_parameter_with_state", tensor("0", 4, [4], [1]) + b"I01\n(d" + state)
    write_tensors(tmp_path / "a.pth", {"a": made})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pth")["a"], FOUR)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("write", WRITERS)
def test_checkpoints(key, wrapper, write, tmp_path):
    contents, path = {"0": FOUR.tobytes(), "1": FOUR[::-1].tobytes()}, tmp_path / "checkpoint.pth"
    inner = {f"{wrapper}a.weight": tensor("1", 4, [4], [1]), f"{wrapper}module.b": tensor("1", 4, [2], [1])}
    optimizer = b"(d" + b"S'step'\n" + tensor("0", 4, [4], [1]) + b"s"
    write(path, program({"epoch": b"I3\n", "optimizer": optimizer, key: program(inner)[:-1]}), contents)
    state = read_state_dict(path)
    assert list(state) == ["a.weight", "module.b"]
    np.testing.assert_array_equal(state["a.weight"], FOUR[::-1])


def test_a_prefix_of_some_names_stays(tmp_path):
    write_tensors(tmp_path / "a.pth", {"module.a": tensor("0", 4, [4], [1]), "b": tensor("0", 4, [4], [1])})
    assert list(read_state_dict(tmp_path / "a.pth")) == ["module.a", "b"]


def nested_tuples(depth=60):
    """A tuple of two that are the same tuple of two …: 2 ** depth parts, some bytes each."""
    return b")q\x00" + b"".join(b"h%c" % index + b"\x86q%c" % (index + 1) for index in range(depth))


@pytest.mark.parametrize("place", ["value", "key", "size", "storage", "metadata", "top", "set"])
def test_tuples_that_share_their_parts(place, tmp_path):
    """Neither hashed nor printed: both would take forever."""
    nested, path = nested_tuples(), tmp_path / "a.pth"
    data = {
        "value": program({"a": nested}),
        "key": b"(d" + nested + b"I1\ns.",
        "size": program({"a": call("_rebuild_tensor_v2", storage("0", 4) + b"I0\n" + nested + nested + b"I00\n)")}),
        "storage": program({"a": b"(S'storage'\n" + nested * 4 + b"tQ"}),
        "metadata": program({"a": call("_rebuild_tensor_v2", arguments_of_tensor(b"(d" + nested + b"I1\ns"))}),
        "top": nested + b".",
        "set": b"(" + nested + b"\x90.",
    }[place]
    assert len(data) < 2000
    write_archive(path, data, {"0": FOUR.tobytes()})
    with pytest.raises(ValueError, match=f"Received: {path}") as raised:
        read_state_dict(path)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("tensors", [1, 100])
def test_tensors_that_repeat_a_storage(tensors, write, tmp_path):
    path, each = tmp_path / "a.pth", 3 * 2**28 // tensors
    made = {str(index): tensor("0", 4, [each], [0]) for index in range(tensors)}
    write(path, program(made), {"0": FOUR.tobytes()})
    with pytest.raises(ValueError, match=rf"{path}, whose tensors claim 6,442,450,\d+ bytes. Expected: at most 67,"):
        read_state_dict(path)


def test_zip_bomb(tmp_path):
    path, size = tmp_path / "a.pth", 100 * 2**20
    for members in (["data.pkl"], ["data/0"]):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in {"data.pkl", *members}:
                with archive.open(f"archive/{name}", "w") as member:
                    if name in members:
                        for _ in range(100):
                            member.write(bytes(2**20))
                    else:
                        member.write(program({"a": tensor("0", size // 4, [size // 4], [1])}))
        assert path.stat().st_size < 200_000
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"{path}, whose (data\.pkl has|storages claim) 104,?857,?600 bytes"):
            read_state_dict(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"(" * 10_000 + b".",
        b"(" + b"(" * 5_000 + b"t" * 5_000 + b".",
        b"]" * 5_000 + b"a" * 4_999 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"X\xff\xff\xff\x7fa.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x8b\xff\xff\xff\x7fa.",
        b"h\x05.",
        b"0.",
        b"N\x85\x86.",
        b"(dNNb.",
        b"Nb.",
        b"NR.",
        b"}NNs.",
        b"ccollections\nOrderedDict\n(I3\ntR.",
        b"ctorch._utils\n_rebuild_parameter\n)R.",
        b"ctorch._utils\n_rebuild_tensor\n(NtR.",
        b"ctorch\nFloatStorage\n)R.",
        b"\xff",
        b"",
        program({"a": tensor("0", 4, [0, 2**62, 2**62], [1, 1, 1])}),
        program({"a": tensor("0", 4, [1] * 65, [1] * 65)}),
        program({"a" * 10_000: b"N"}),
        program({"a": call("_rebuild_tensor_v2", arguments_of_tensor().replace(b"I0\n", b"I" + b"7" * 4000 + b"\n"))}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", WRITERS)
def test_every_damage_is_a_short_value_error_with_the_path(data, write, tmp_path):
    path = tmp_path / "a.pth"
    write(path, data, {"0": FOUR.tobytes()})
    with pytest.raises(ValueError, match=f"Received: {path}") as raised:
        read_state_dict(path)
    assert len(str(raised.value)) < 600
