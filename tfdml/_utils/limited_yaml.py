"""YAML of unknown origin: plain values within limits, and errors of one line that follow the words "it is"."""

from __future__ import annotations

import math
import re

import yaml

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_MAX_DIGITS = 40
# YAML takes 1e-3, without a point, for text.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; dates are text, and 1e-3 is a number."""

    yaml_implicit_resolvers = {
        character: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token):
        # The scanner looks far ahead of a bracket.
        if self.flow_level > _MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, f"it is nested deeper than {_MAX_DEPTH} levels", None)
        super().fetch_flow_collection_start(token)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{EXPONENT.pattern}$"), list("-+0123456789"))


def load(text):
    """Reads YAML.

    Raises:
        ValueError: If it is not YAML, gives a key twice, has a number that is too large, is nested more than 32 deep,
            or has, aliases expanded, more than 100,000 values.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"too long. Received: {len(text):,} characters. Expected: at most {_MAX_CHARACTERS:,}.")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, 0, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"nested too deeply. Expected: at most {_MAX_DEPTH} levels.") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        message = one_line(error).replace(' in "<unicode string>",', " in")
        raise ValueError(f"not valid YAML: {message}") from error


def one_line(error):
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def _expanded_size(node, depth, known):
    """The number of values of a node with its aliases expanded; refuses what is too much, and keys given twice."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels, or an alias refers to itself")
    if id(node) in known:
        return known[id(node)]
    children = []
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in keys:
                raise ValueError(f"the key {key.value!r} is given twice, again in line {key.start_mark.line + 1}")
            keys.add(name)
            children += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif node.tag.endswith(":int") and len(node.value) > _MAX_DIGITS:
        raise ValueError(f"an integer is too large in line {node.start_mark.line + 1}")
    elif node.tag.endswith(":float") and "e" in node.value.lower() and math.isinf(float(node.value.replace("_", ""))):
        raise ValueError(f"{node.value} is too large in line {node.start_mark.line + 1}")
    size = 1 + sum(_expanded_size(child, depth + 1, known) for child in children)
    if size > _MAX_NODES:
        raise ValueError(f"it has more than {_MAX_NODES:,} values when its aliases are expanded")
    known[id(node)] = size
    return size
