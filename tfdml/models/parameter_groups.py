"""Learning rates and freezing by groups of layers, for fine-tuning."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_not_negative, check_whole_number
from tfdml._utils.keras_compat import direct_sublayers, tensorflow_variable
from tfdml._utils.types import Weight

# Layers of `build_embedder` that do not belong to the backbone.
_HEAD = (
    "class_embedding", "class_token", "concatenation", "embedding", "normalization", "patches", "pooling",
)  # fmt: skip
_NAMES_IN_A_MESSAGE = 10


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Layers of an embedder that are trained in another way than the rest.

    Give a list of groups to `MetricModel.compile(parameter_groups=…)`. A layer belongs to the first group that it
    matches. Every update of the optimizer is multiplied, its decoupled weight decay included: that is what another
    learning rate does, for every optimizer of Keras.

    Args:
        layers: Patterns of layer names, such as `"blocks_1?_*"`, or one pattern. A layer inside another is named by its
            path, such as `"dinov2/block_3/attention"`; a pattern that matches a layer matches all layers inside it.
            `"backbone"` stands for all layers but those that `build_embedder` adds: `embedding`, `class_embedding`,
            `pooling`, `normalization`.
        learning_rate_multiplier: Factor of the learning rate, at least 0.
        frozen_steps: Training steps of the model during which the layers are frozen. Groups with increasing numbers
            unfreeze a network gradually.

    Raises:
        ValueError: If there is no pattern, or a number is out of range.

    Example:
        >>> ParameterGroup("backbone", learning_rate_multiplier=0.1, frozen_steps=200)
        ParameterGroup(layers=('backbone',), learning_rate_multiplier=0.1, frozen_steps=200)
    """

    layers: str | Sequence[str]
    learning_rate_multiplier: float = 1.0
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        if not layers or not all(isinstance(pattern, str) and pattern for pattern in layers):
            raise ValueError(
                f"A parameter group has no layers. Received: layers={self.layers!r}. Expected: names or patterns of "
                "layers, such as 'backbone' or 'blocks_1*'."
            )
        object.__setattr__(self, "layers", layers)
        multiplier = check_not_negative("learning_rate_multiplier", self.learning_rate_multiplier)
        object.__setattr__(self, "learning_rate_multiplier", float(multiplier))
        check_whole_number("frozen_steps", self.frozen_steps, minimum=0)

    def get_config(self) -> dict[str, Any]:
        """The arguments as a dict of plain values."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}


def layer_decay_groups(embedder: keras.Model, decay: float = 0.75, blocks: int = 12) -> list[ParameterGroup]:
    r"""Makes groups whose learning rate decays from the last layers of the backbone to the first.

    The layers of the backbone that have trainable weights are cut, in the order of their depth, into blocks of about
    equal length; block $k$ of $K$ gets the multiplier $\gamma^{K - k}$ with $\gamma$ = `decay`, so the last block is
    trained $\gamma$ times as fast as the head.

    Args:
        embedder: A model as `build_embedder` makes.
        decay: $\gamma$, above 0 and at most 1.
        blocks: $K$.

    Returns:
        A list of `ParameterGroup`, the first layers first.

    Raises:
        ValueError: If a number is out of range, or the backbone has no trainable weights.

    Reference:
        Clark et al., "ELECTRA: Pre-training text encoders as discriminators rather than generators", ICLR 2020
        (appendix A).
    """
    check_between("decay", decay, 0.0, 1.0)
    blocks = check_whole_number("blocks", blocks, minimum=1)
    paths = [path for path, layer in leaf_layers(embedder).items() if layer.trainable_weights and not _is_head(path)]
    if not decay or not paths:
        raise ValueError(
            f"There are no layers to decay. Received: decay={decay} and a backbone with {len(paths)} trainable layers."
        )
    blocks = min(blocks, len(paths))
    borders = [round(len(paths) * number / blocks) for number in range(blocks + 1)]
    return [
        ParameterGroup([_escaped(path) for path in paths[begin:end]], decay ** (blocks - number))
        for number, (begin, end) in enumerate(zip(borders, borders[1:]))
    ]


def freeze_layers(
    embedder: keras.Model, layers: str | Sequence[str] = "backbone", until: bool = False
) -> list[str]:
    """Freezes layers for good: their weights are not trained, and no gradients are computed for them.

    Batch normalization in frozen layers uses its moving statistics. Call it before `compile`; for layers that are to be
    trained later, use `ParameterGroup(frozen_steps=…)`.

    Args:
        embedder: The model; it is changed.
        layers: Patterns as for `ParameterGroup`.
        until: Whether to freeze all layers before the last match, too.

    Returns:
        The paths of the layers with weights that are frozen now.

    Raises:
        ValueError: If a pattern matches no layer.
    """
    group, leaves = ParameterGroup(layers), leaf_layers(embedder)
    matched = [path for path in leaves if _matches(path, group.layers)]
    _check_patterns(group.layers, leaves)
    if until:
        paths = list(leaves)
        matched = paths[: paths.index(matched[-1]) + 1]
    for path in matched:
        leaves[path].trainable = False
    return [path for path in matched if leaves[path].weights]


def freeze_batch_norm(embedder: keras.Model) -> int:
    """Freezes all batch normalization: moving statistics are used in training, and nothing of it is trained.

    That is usual when pretrained weights are fine-tuned with small batches.

    Args:
        embedder: The model; it is changed. Call it before `compile`.

    Returns:
        The number of layers that are frozen.
    """
    found = [
        layer for layer in leaf_layers(embedder).values() if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in found:
        layer.trainable = False
    return len(found)


def leaf_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a model that have no layers inside, by their paths, in the order of the model."""
    leaves: dict[str, keras.layers.Layer] = {}
    seen: set[int] = set()

    def visit(layer, path):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        inner = direct_sublayers(layer)
        for part in inner:
            visit(part, f"{path}/{part.name}" if path else part.name)
        own = {id(weight) for weight in layer.weights} - {id(weight) for part in inner for weight in part.weights}
        if path and (own or not inner):
            leaves.setdefault(path, layer)

    visit(model, "")
    return leaves


def groups_of(groups: Any) -> list[ParameterGroup]:
    """Groups from what `compile` takes: `ParameterGroup`s, or dicts of their arguments as configurations have them."""
    made = []
    for group in groups or ():
        if isinstance(group, Mapping):
            group = ParameterGroup(**group)
        if not isinstance(group, ParameterGroup):
            raise TypeError(
                f"parameter_groups is not a list of groups. Received: {group!r}. Expected: tfdml.models.ParameterGroup."
            )
        made.append(group)
    return made


def grouped_variables(embedder: keras.Model, groups: Sequence[ParameterGroup]) -> list[tuple[ParameterGroup, Weight]]:
    """The trainable variables whose updates differ from the optimizer's, each with its group.

    Raises:
        ValueError: If a pattern matches no layer.
    """
    leaves = leaf_layers(embedder)
    for group in groups:
        _check_patterns(group.layers, leaves)
    trainable = {id(variable) for variable in embedder.trainable_variables}
    found = []
    for path, layer in leaves.items():
        group = next((group for group in groups if _matches(path, group.layers)), None)
        if group is None or (group.learning_rate_multiplier == 1.0 and not group.frozen_steps):
            continue
        inner = {id(weight) for part in direct_sublayers(layer) for weight in part.weights}
        for variable in layer.trainable_variables:
            if id(variable) in trainable and id(variable) not in inner:
                # A variable that two layers share belongs to the first.
                trainable.discard(id(variable))
                found.append((group, variable))
    return found


class ScaledUpdates:
    """Multiplies the update that an optimizer makes to some variables.

    Make it before the optimizer updates them, and call `apply` afterwards.

    Args:
        grouped: What `grouped_variables` returns.
        steps: Training steps of the model so far, a scalar.
    """

    def __init__(self, grouped, steps):
        self.variables = [variable for _, variable in grouped]
        self.before = [tf.identity(tf.convert_to_tensor(variable)) for variable in self.variables]
        steps = tf.convert_to_tensor(steps)
        factor_of = {
            group: tf.where(steps >= group.frozen_steps, group.learning_rate_multiplier, 0.0)
            for group in {group for group, _ in grouped}
        }
        self.factors = [factor_of[group] for group, _ in grouped]

    def apply(self):
        """Replaces each updated value by the value before it and a share of the difference."""
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            for variable, before, factor in zip(self.variables, self.before, self.factors):
                variable.assign(_between(tf.convert_to_tensor(variable), before, factor))
        elif self.variables:
            context.merge_call(self._apply_on_replicas, args=(self.before, self.factors))

    def _apply_on_replicas(self, strategy, before, factors):
        def update(variable, before, factor):
            return variable.assign(_between(variable, before, factor))

        for variable, *arguments in zip(map(tensorflow_variable, self.variables), before, factors):
            strategy.extended.update(variable, update, args=tuple(arguments))


def _between(after, before, factor):
    after = tf.convert_to_tensor(after)
    factor = tf.cast(factor, after.dtype)
    # Exactly one of the two where the factor says so.
    return tf.where(factor == 1, after, tf.where(factor == 0, before, before + factor * (after - before)))


def _matches(path, patterns):
    parts = path.split("/")
    parents = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(
        not _is_head(path) if pattern == "backbone" and "backbone" not in parents else _any_match(parents, pattern)
        for pattern in patterns
    )


def _any_match(paths, pattern):
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths)


def _is_head(path):
    return path.split("/")[0] in _HEAD


def _escaped(path):
    """A pattern that matches this path only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _check_patterns(patterns, leaves):
    for pattern in patterns:
        if not any(_matches(path, (pattern,)) for path in leaves):
            names = [path for path, layer in leaves.items() if layer.weights]
            more = f" and {len(names) - _NAMES_IN_A_MESSAGE} more" if len(names) > _NAMES_IN_A_MESSAGE else ""
            raise ValueError(
                f"No layer matches the pattern. Received: {pattern!r}. Expected: a pattern of layers with weights: "
                f"{', '.join(names[:_NAMES_IN_A_MESSAGE])}{more}."
            )
