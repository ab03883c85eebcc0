"""Load untrusted networks: refuse code, and graphs that access files, processes or Python."""

from __future__ import annotations

import pathlib
import re
import zipfile

import keras
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

# Operations that read or write files, start processes, access the network or call Python.
_DANGEROUS = re.compile(
    r"File|Reader(?!Restore)|Save|Restore|Checkpoint|Dataset|PyFunc|Python|Summary|Print|Debug|Dump|Rpc|RemoteCall|"
    r"Snapshot|DataService|LoadAndRemap|LMDB|Sql|BigQuery|Directory|^_Send|^_Recv|^Recv|^Send|TPU"
)
# Harmless operations that match the pattern.
_HARMLESS = {"ReadVariableOp"}
# Operations that tf.saved_model.save adds, in functions that nothing else calls.
_SAVER = {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"}


def load_keras_file(path):
    """Load a `.keras` file in Keras' safe mode, which refuses Lambda layers, without compiling it.

    Args:
        path: str or `os.PathLike`. File to load.

    Raises:
        ValueError: If it is not a `.keras` archive (HDF5 files with this extension would be loaded without safe mode),
            or cannot be loaded.
    """
    path = pathlib.Path(path).expanduser()
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"The file is not a Keras archive. Received: {path}. Expected: a file written by model.save('….keras'). "
            "HDF5 files can contain code and are not loaded. If you trust the file, load it yourself and save it again."
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, ImportError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"The Keras archive cannot be loaded: {reason}. Received: {path}.") from error


def check_saved_model(path, trust=False):
    """Raise a ValueError if a SavedModel has operations with effects outside of the model.

    A graph runs with the rights of the process. The check refuses operations on files (except those that
    `tf.saved_model.save` adds for variables), processes, the network and Python, and operations unknown to TensorFlow.

    Args:
        path: str or `os.PathLike`. Folder of the SavedModel.
        trust: bool. Skip the check. Default `False`.
    """
    if trust:
        return
    path = pathlib.Path(path).expanduser()
    if (path / "saved_model.cpb").exists():
        raise ValueError(
            f"The SavedModel consists of chunks, which cannot be checked. Received: {path}. Expected: only "
            "saved_model.pb, or trust=True (--trust) if you trust its author."
        )
    found = sorted(_dangerous_operations(_read(path / "saved_model.pb")))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ValueError(
            f"The SavedModel has operations that can reach files, processes or Python. Received: {path} with "
            f"{', '.join(found[:5])}{more}. Expected: none of these, or trust=True (--trust) if you trust its author."
        )


def _read(path):
    try:
        return saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except Exception as error:  # protobuf's error class differs between versions.
        raise ValueError(f"The SavedModel is damaged. Received: {path}.") from error


def _dangerous_operations(saved_model):
    found = set()
    for graph in saved_model.meta_graphs:
        functions = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
        saver = _saver_nodes(graph)
        # Functions that the saver calls, and functions that the graph and its objects can call.
        of_saver = _reached([node for node in graph.graph_def.node if node.name in saver], functions)
        named = set(graph.object_graph_def.concrete_functions)
        others = [node for node in graph.graph_def.node if node.name not in saver]
        of_others = _reached(others, functions, named | (set(functions) - of_saver))
        for name, nodes in [("", others), *functions.items()]:
            allowed = _SAVER if name in of_saver and name not in of_others else set()
            found |= {node.op for node in nodes if _is_dangerous(node.op, functions) and node.op not in allowed}
    return found


def _is_dangerous(op, functions):
    if op in functions or op in _HARMLESS:
        return False
    return _DANGEROUS.search(op) is not None or op_def_registry.get(op) is None


def _saver_nodes(graph):
    """Return the names of the nodes that run a saver."""
    saver = graph.saver_def
    names = (saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name)
    return {name.split(":")[0] for name in names if name}


def _reached(nodes, functions, names=()):
    """Return the names of the functions that nodes, or functions of these names, call."""
    reached, todo = set(), [name for node in nodes for name in _calls(node, functions)]
    todo += [name for name in names if name in functions]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [called for node in functions[name] for called in _calls(node, functions)]
    return reached


def _calls(node, functions):
    names = {node.op} | {value.func.name for value in node.attr.values()}
    names |= {function.name for value in node.attr.values() for function in value.list.func}
    return names & set(functions)
