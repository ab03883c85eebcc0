"""Read untrusted YAML: plain values within limits. Errors are one line that continues the words "it is"."""

from __future__ import annotations

import math
import re

import yaml

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_MAX_DIGITS = 40
# In YAML, 1e-3 without a decimal point is text.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; dates are text, and 1e-3 is a number."""

    yaml_implicit_resolvers = {
        character: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token):
        # Check here because the scanner looks far ahead of a bracket.
        if self.flow_level > _MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, f"it is nested deeper than {_MAX_DEPTH} levels", None)
        super().fetch_flow_collection_start(token)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{EXPONENT.pattern}$"), list("-+0123456789"))


def load(text):
    """Read YAML.

    Raises:
        ValueError: If it is not valid YAML, has a duplicate key or a number that is too large, is nested deeper than 32
            levels, or has more than 100,000 values after aliases are expanded.
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
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())


def _expanded_size(node, depth, known):
    """Return the number of values of a node with aliases expanded; reject too many values and duplicate keys."""
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
