"""Train two encoders, of queries and of items, so that queries find their items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils import keras_compat
from tfdml._utils.arguments import check_choice, check_positive, check_whole_number
from tfdml._utils.types import Config
from tfdml.layers import CrossBatchMemory, ItemFrequencies
from tfdml.metrics import ranking_metrics
from tfdml.models import training_step
from tfdml.models.batches import finite_batches
from tfdml.models.embedder import compiled_for_batches
from tfdml.models.micro_batches import embed_in_parts, gradients_in_parts

_LEAST_TEMPERATURE = 0.01
_EXTRAS = ("item_ids", "query_ids", "negatives", "negative_ids", "weights")
_FIT_OPTIONS = ("run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss")


@keras.saving.register_keras_serializable(package="tfdml")
class DualEncoder(keras_compat.WorkerModel):
    r"""Trains two encoders so that a query is most similar to its own item: a two-tower model.

    Use it for search and recommendation: questions and passages, users and products, captions and images. The encoders
    may have different inputs; each accepts whatever its own Keras model accepts, such as a dict of features or token
    ids. Their embeddings have the same size.

    A training step embeds a batch of pairs. The loss of a query is the cross-entropy of its own item in a softmax over
    it and the query's negatives:

    $$\ell_i = -\log \frac{e^{z_{ii}}}{e^{z_{ii}} + \sum_{n \in N_i} e^{z_{in}}}, \qquad
      z_{ij} = \frac{s_{ij}}{\tau} - \log q_j.$$

    The negatives are the items of the other pairs, the explicit negatives of all pairs, and the memory. Candidates with
    the id of the query's item are not among them, nor are those with the ids of its other items in the batch; a
    relevant item that no pair of the batch names is a negative like any other. $-\log q_j$ corrects for popular items,
    which are drawn as negatives more often; it applies to all candidates. With `symmetric`,
    the loss is the mean of this and of the loss of the items, which must find their queries among those of the batch.

    Batches are tuples `(query, item)` or `(query, item, extras)`. `extras` is a dict with any of these keys, or an int
    tensor, which stands for `item_ids` alone; `tfdml.data.query_item_batches` makes such batches.

    | key | shape | what it is |
    |---|---|---|
    | `item_ids` | `(batch,)` | Ids of the items, >= 0. Without them, all items of a batch count as different. |
    | `query_ids` | `(batch,)` | Ids of the queries. Without them, all queries of a batch count as different. |
    | `negatives` | `(batch, k, …)` | `k` explicit negatives of each query, in the form of `item` with one more axis. |
    | `negative_ids` | `(batch, k)` | Their ids, required with `negatives`; -1 for a negative that does not count. |
    | `weights` | `(batch,)` | Weights of the pairs in the loss. |

    The logs of training contain `in_batch_accuracy`, the share of queries whose own item is more similar than all
    negatives, and `queries_without_negative`, the share of queries that train nothing. `evaluate` and `val_loss`
    compare with the batch and its explicit negatives only, without correction. For NDCG, MRR and recall among all
    items, use `ranking_metrics` or the callback `tfdml.callbacks.RankingMetrics`.

    Args:
        query_encoder: `keras.Model` or layer from queries to embeddings `(batch, dim)`.
        item_encoder: `keras.Model` or layer from items to embeddings `(batch, dim)`. `None` embeds items with
            `query_encoder`. Default `None`.
        similarity: `"cosine"`, which normalizes the embeddings, or `"dot"`. Default `"cosine"`.
        temperature: float, > 0. $\tau$. Default 0.05.
        learn_temperature: bool. Train $\log (1 / \tau)$ with the encoders; $\tau$ stays at 0.01 or more. Default
            `False`.
        symmetric: bool. Whether items must find their queries, too. Default `False`.
        memory: `CrossBatchMemory` of past item embeddings, or `None`. Needs `item_ids`. Default `None`.
        frequencies: `ItemFrequencies`, for the correction by $\log q$, or `None` for none. Needs `item_ids`. Default
            `None`.
        shared_ids: bool. Whether equal ids of a query and of an item name the same thing, as in a search for similar
            documents; a query is then not its own negative. Default `False`.
        **kwargs: `name`, as for `keras.Model`.

    Attributes:
        is_shared: bool. Whether both encoders are the same object.

    Raises:
        ValueError: If the temperature is not positive, or the sizes of the embeddings or of the memory differ.
        TypeError: If an encoder, the memory or the frequencies are not what they should be.

    Reference:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019;
        Karpukhin et al., "Dense passage retrieval for open-domain question answering", EMNLP 2020 (hard negatives).

    Example:
        >>> query_encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> item_encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model = DualEncoder(query_encoder, item_encoder)
        >>> model.compile("adam")
        >>> rng = np.random.default_rng(0)
        >>> queries, items = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")
        >>> history = model.fit(queries, items, batch_size=4, verbose=0)
        >>> sorted(history.history)
        ['in_batch_accuracy', 'loss', 'queries_without_negative']
        >>> model.ranking_metrics(queries, items, relevant=range(8))["queries"]
        8
    """

    def __init__(
        self,
        query_encoder: keras.Model | keras.layers.Layer,
        item_encoder: keras.Model | keras.layers.Layer | None = None,
        similarity: Literal["cosine", "dot"] = "cosine",
        temperature: float = 0.05,
        learn_temperature: bool = False,
        symmetric: bool = False,
        memory: CrossBatchMemory | None = None,
        frequencies: ItemFrequencies | None = None,
        shared_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        item_encoder = query_encoder if item_encoder is None else item_encoder
        for name, value, kind in (
            ("query_encoder", query_encoder, keras.layers.Layer),
            ("item_encoder", item_encoder, keras.layers.Layer),
            ("memory", memory, (CrossBatchMemory, type(None))),
            ("frequencies", frequencies, (ItemFrequencies, type(None))),
        ):
            if not isinstance(value, kind):
                expected = kind.__name__ if isinstance(kind, type) else f"{kind[0].__name__} or None"
                raise TypeError(f"Wrong type. Received: {name} of type {type(value).__name__}. Expected: {expected}.")
        self.query_encoder, self.item_encoder = query_encoder, item_encoder
        self.is_shared = query_encoder is item_encoder
        self.similarity = check_choice("similarity", similarity, ("cosine", "dot"))
        self.initial_temperature = check_positive("temperature", temperature)
        if learn_temperature and temperature < _LEAST_TEMPERATURE:
            raise ValueError(
                f"A learned temperature stays at {_LEAST_TEMPERATURE} or more. Received: temperature={temperature!r}. "
                f"Expected: temperature >= {_LEAST_TEMPERATURE}, or learn_temperature=False."
            )
        self.learn_temperature = bool(learn_temperature)
        self.temperature_layer = LearnedTemperature(temperature, name="temperature") if learn_temperature else None
        self.symmetric = bool(symmetric)
        self.memory: Any = memory
        self.frequencies: Any = frequencies
        self.shared_ids = bool(shared_ids)
        _check_sizes(query_encoder, item_encoder, memory)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._accuracy_tracker = keras.metrics.Mean(name="in_batch_accuracy")
        self._alone_tracker = keras.metrics.Mean(name="queries_without_negative")
        self._query_function: Any = None
        self._item_function: Any = None
        self.built = True

    @property
    def temperature(self) -> Any:
        r"""The temperature $\tau$: a float, or a scalar tensor if it is learned."""
        return self.initial_temperature if self.temperature_layer is None else self.temperature_layer()

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        micro_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        r"""Configure the model for training.

        More in-batch negatives need larger batches. With `micro_batch_size`, their activations need not fit into
        memory: a step embeds the batch in parts, computes the loss $\ell$ of all embeddings $x_i$ and the gradients
        $\partial \ell / \partial x_i$, and embeds the parts again to add up

        $$\frac{\partial \ell}{\partial w} = \sum_i \frac{\partial x_i}{\partial w}^\top
          \frac{\partial \ell}{\partial x_i}.$$

        The gradients are those of the whole batch up to rounding, at the cost of one more forward pass. This does not
        hold for two kinds of layers: batch normalization uses the statistics of a part and updates its moving averages
        twice per step, and dropout drops other units in the second pass. Use layer normalization or frozen batch
        normalization, and no dropout. Losses that layers compute from activations are not supported; weight
        regularization is.

        Args:
            optimizer: str or `keras.optimizers.Optimizer`. Default `"adam"`.
            micro_batch_size: int, >= 1. Queries, or items and explicit negatives, that are embedded at once in
                training; `None` embeds the whole batch at once. The encoders must be built, and with `jit_compile=True`
                batches must have a fixed size (`drop_remainder=True`). Default `None`.
            **kwargs: Other arguments of `keras.Model.compile`, such as `jit_compile`, `run_eagerly` or
                `steps_per_execution`.

        Raises:
            ValueError: If a loss or metrics are given: the model has its own; or the size is not a positive integer.

        Reference:
            Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP 2021
            (gradient caching).
        """
        if micro_batch_size is not None:
            micro_batch_size = check_whole_number("micro_batch_size", micro_batch_size, 1)
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"A DualEncoder has its own loss and metrics. Received: {name}={kwargs[name]!r}. Expected: "
                    "neither. Use tfdml.callbacks.RankingMetrics for metrics."
                )
        # The third part of a batch looks like weights.
        super().compile(optimizer=optimizer, **{**kwargs, **keras_compat.NO_WEIGHTED_METRICS})
        self._fit_options = {name: kwargs[name] for name in _FIT_OPTIONS if kwargs.get(name) is not None}
        self.micro_batch_size = micro_batch_size

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras resets these before each epoch and reads them after it.
        return [self.loss_tracker, self._accuracy_tracker, self._alone_tracker]

    def call(self, inputs: Any, training: bool | None = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Embed pairs.

        Args:
            inputs: Pair (query, item) of batches.
            training: bool. Default `False`.

        Returns:
            Embeddings of the queries and of the items, `(batch, dim)` each.
        """
        query, item = inputs
        return self.query_encoder(query, training=training), self.item_encoder(item, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        pairs = _unpack(data)
        self._check_pairs(pairs)
        inputs, size = (pairs.query, _items_and_negatives(pairs)), self.micro_batch_size
        embedded = None if size is None else self._embed_in_parts(inputs, size)
        with tf.GradientTape() as tape:
            if embedded is None:
                batch = self._gathered(pairs, *self._encode(inputs, training=True))
            else:
                tape.watch(embedded)
                batch = self._gathered(pairs, *embedded)
            if self.frequencies is not None:
                self.frequencies.update(batch.item_ids)
            candidates = self._candidates(batch, with_references=True)
            values, of_batch = self._compare(batch, candidates)
            loss = _weighted_mean(values, batch.weights)
            if self.losses:
                loss += tf.cast(tf.add_n(self.losses), loss.dtype)
            # Every replica computes the loss of the whole batch, and the optimizer sums over replicas.
            scaled_loss = keras_compat.scale_loss(self.optimizer, loss / ops.replica_count())
        variables = self.trainable_variables
        if embedded is None:
            gradients = tape.gradient(scaled_loss, variables)
        else:
            of_embeddings, gradients = tape.gradient(scaled_loss, (embedded, variables))
            gradients = self._with_those_of_parts(gradients, variables, inputs, of_embeddings, size)
        training_step.apply_gradients([(self.optimizer, variables)], gradients, variables)
        if self.memory is not None:
            self.memory.update(batch.item_ids, batch.items)
        logs = self._update_metrics(loss, *of_batch)
        if self.learn_temperature:
            logs["temperature"] = tf.convert_to_tensor(self.temperature)
        return self.step_logs(logs)

    def test_step(self, data: Any) -> dict[str, Any]:
        pairs = _unpack(data)
        self._check_pairs(pairs)
        embedded = self._encode((pairs.query, _items_and_negatives(pairs)), training=False)
        batch = self._gathered(pairs, *embedded)
        values, of_batch = self._compare(batch, self._candidates(batch, with_references=False))
        return self.step_logs(self._update_metrics(_weighted_mean(values, batch.weights), *of_batch))

    def _update_metrics(self, loss, similarities, negatives):
        similarities = tf.stop_gradient(similarities)
        own, has_negative = tf.linalg.diag_part(similarities), tf.reduce_any(negatives, axis=1)
        is_best = own > ops.masked_max(similarities, negatives)
        self.loss_tracker.update_state(loss)
        self._accuracy_tracker.update_state(tf.cast(is_best, tf.float32))
        self._alone_tracker.update_state(tf.cast(~has_negative, tf.float32))
        return {metric.name: metric.result() for metric in self.metrics}

    def _check_pairs(self, pairs):
        for name, layer in (("memory", self.memory), ("frequencies", self.frequencies)):
            if layer is not None and pairs.item_ids is None:
                raise ValueError(
                    f"Items need ids. Received: a model with {name} and batches without item_ids. Expected: batches "
                    "(query, item, {'item_ids': …})."
                )
        if self.shared_ids and pairs.query_ids is None:
            raise ValueError(
                "Shared ids need ids of queries. Received: shared_ids=True and batches without query_ids. Expected: "
                "both query_ids and item_ids in each batch."
            )

    @property
    def _encoders(self):
        return self.query_encoder, self.item_encoder

    def _encode(self, inputs, training):
        return [encoder(one, training=training) for encoder, one in zip(self._encoders, inputs)]

    def _embed_in_parts(self, inputs, size):
        """Return the embeddings of the queries and of the items with the explicit negatives, without gradients."""
        for name, encoder in zip(("query_encoder", "item_encoder"), self._encoders):
            if not encoder.built:
                raise ValueError(
                    f"An encoder without weights cannot be used in parts. Received: micro_batch_size={size} and "
                    f"{name} {encoder.name!r}, which is not built. Expected: an encoder with keras.Input, or one that "
                    "was called once."
                )
        if self.jit_compile and tf.nest.flatten(inputs[0])[0].shape[0] is None:
            raise ValueError(
                f"XLA cannot divide batches of unknown size. Received: micro_batch_size={size} with jit_compile=True. "
                "Expected: batches of a fixed size, as with `drop_remainder=True`, or jit_compile=False."
            )
        return [
            embed_in_parts(encoder, one, size, _embedding_size(encoder)) for encoder, one in zip(self._encoders, inputs)
        ]

    def _with_those_of_parts(self, gradients, variables, inputs, of_embeddings, size):
        """Add the gradients through the embeddings to those that do not depend on them, such as of a penalty."""
        totals = {id(variable): gradient for variable, gradient in zip(variables, gradients)}
        for encoder, one, upstream in zip(self._encoders, inputs, of_embeddings):
            parts = gradients_in_parts(encoder, one, upstream, size)
            for variable, gradient in zip(encoder.trainable_variables, parts):
                before = totals[id(variable)]
                totals[id(variable)] = gradient if before is None else tf.convert_to_tensor(before) + gradient
        return [totals[id(variable)] for variable in variables]

    def _gathered(self, pairs, queries, embedded):
        """Return the pairs of all replicas.

        Args:
            pairs: `_Pairs` of this replica.
            queries: Embeddings of its queries, `(batch, dim)`.
            embedded: Embeddings of its items, then of its explicit negatives.
        """
        count = tf.shape(tf.nest.flatten(pairs.item)[0])[0]
        queries, items = (ops.gather_batch(ops.at_least_float32(one)) for one in (queries, embedded[:count]))
        _check_embeddings(queries, items)
        size = tf.shape(queries)[0]
        item_ids = tf.range(size, dtype=tf.int64) if pairs.item_ids is None else _ids(pairs.item_ids, "item_ids")
        query_ids = None if pairs.query_ids is None else _ids(pairs.query_ids, "query_ids")
        negatives = negative_ids = None
        if pairs.negatives is not None:
            negatives = ops.gather_batch(ops.at_least_float32(embedded[count:]))
            negative_ids = _ids(tf.reshape(pairs.negative_ids, (-1,)), "negative_ids")
        weights = None if pairs.weights is None else ops.gather_batch(pairs.weights)
        return _Batch(queries, items, item_ids, query_ids, negatives, negative_ids, weights)

    def _candidates(self, batch, with_references):
        """Return the embeddings and ids of the candidates, those of the batch first, and their log q or `None`."""
        embeddings, ids = [batch.items], [batch.item_ids]
        if batch.negatives is not None:
            embeddings.append(batch.negatives)
            ids.append(batch.negative_ids)
        if with_references and self.memory is not None:
            references = self.memory()
            embeddings.append(tf.cast(references.embeddings, batch.items.dtype))
            ids.append(tf.where(references.valid, references.labels, -tf.ones_like(references.labels)))
        embeddings, ids = tf.concat(embeddings, axis=0), tf.concat(ids, axis=0)
        log_q = None
        if with_references and self.frequencies is not None:
            log_q = self.frequencies.log_probabilities(tf.maximum(ids, 0))
        return embeddings, ids, log_q

    def _compare(self, batch, candidates):
        """Return the losses of the queries, and the similarities and the mask of negatives within the batch."""
        embeddings, ids, log_q = candidates
        queries = batch.queries
        if self.similarity == "cosine":
            queries, embeddings = ops.l2_normalize(queries), ops.l2_normalize(embeddings)
        similarities = tf.matmul(queries, embeddings, transpose_b=True)
        negatives = ops.query_item_negatives(batch.item_ids, ids, batch.query_ids, self.shared_ids)
        values = ops.query_item_losses(similarities, negatives, self.temperature, log_q)
        size = tf.shape(queries)[0]
        if self.symmetric:
            of_items, not_theirs = (tf.transpose(one[:, :size]) for one in (similarities, negatives))
            values = (values + ops.query_item_losses(of_items, not_theirs, self.temperature)) / 2.0
        return values, (similarities, negatives)

    def embed_queries(self, queries: Any, batch_size: int = 256) -> np.ndarray:
        """Embed queries in inference mode.

        Args:
            queries: Array, or a dict or tuple of arrays, as the encoder accepts; or a finite `tf.data.Dataset` of
                batches of these.
            batch_size: int. Queries per batch, unless the data has batches. Default 256.

        Returns:
            float32 NumPy array `(n, dim)`, as the encoder returns it.

        Raises:
            ValueError: If there are no queries, the dataset is endless, or an embedding is not finite.
        """
        if self._query_function is None:
            self._query_function = _inference_function(self.query_encoder)
        return self._embed_all(self._query_function, queries, batch_size)

    def embed_items(self, items: Any, batch_size: int = 256) -> np.ndarray:
        """Embed items in inference mode, as `embed_queries` embeds queries.

        Args:
            items: As for `embed_queries`.
            batch_size: int. Items per batch, unless the data has batches. Default 256.

        Returns:
            float32 NumPy array `(n, dim)`, as the encoder returns it.
        """
        if self._item_function is None:
            self._item_function = _inference_function(self.item_encoder)
        return self._embed_all(self._item_function, items, batch_size)

    def ranking_metrics(
        self, queries: Any, items: Any, relevant: Sequence[Any], batch_size: int = 256, **options: Any
    ) -> dict[str, Any]:
        """Let queries search among items, and compute `tfdml.metrics.ranking_metrics`.

        Args:
            queries: As for `embed_queries`.
            items: As for `embed_items`.
            relevant: For each query its relevant items, as for `tfdml.metrics.ranking_metrics`.
            batch_size: int. Default 256.
            **options: Other arguments of `tfdml.metrics.ranking_metrics`. The similarity is that of the model.

        Returns:
            dict of the metrics.
        """
        embeddings = self.embed_queries(queries, batch_size), self.embed_items(items, batch_size)
        return ranking_metrics(*embeddings, relevant, **{"similarity": self.similarity, **options})

    def _embed_all(self, forward, data, batch_size):
        if not isinstance(data, tf.data.Dataset):
            batch_size = check_whole_number("batch_size", batch_size, 1)
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        parts = [np.asarray(forward(batch)) for batch in finite_batches(data)]
        if not parts:
            raise ValueError("There is nothing to embed. Received: no queries or items. Expected: at least one.")
        embeddings = np.concatenate(parts)
        bad = np.count_nonzero(~np.isfinite(embeddings).all(axis=1))
        if bad:
            raise ValueError(
                f"Embeddings are not finite. Received: NaN or infinity in {bad} of {len(embeddings)} embeddings. "
                "Expected: finite values. Check the inputs, and whether training diverged."
            )
        return embeddings

    def get_config(self) -> Config:
        def serialized(layer):
            return None if layer is None else keras.saving.serialize_keras_object(layer)

        return {
            "name": self.name,
            "query_encoder": serialized(self.query_encoder),
            "item_encoder": None if self.is_shared else serialized(self.item_encoder),
            "similarity": self.similarity,
            "temperature": self.initial_temperature,
            "learn_temperature": self.learn_temperature,
            "symmetric": self.symmetric,
            "memory": serialized(self.memory),
            "frequencies": serialized(self.frequencies),
            "shared_ids": self.shared_ids,
        }

    @classmethod
    def from_config(cls, config: Config) -> DualEncoder:
        config = dict(config)
        for part in ("query_encoder", "item_encoder", "memory", "frequencies"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        return cls(**config)

    def get_compile_config(self) -> Config | None:
        if getattr(self, "optimizer", None) is None:
            return None
        config = {"optimizer": keras.saving.serialize_keras_object(self.optimizer), **self._fit_options}
        return config if self.micro_batch_size is None else {**config, "micro_batch_size": self.micro_batch_size}

    def compile_from_config(self, config: Config) -> None:
        config = dict(config)
        config["optimizer"] = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(**config)
        self.build_optimizers()


@keras.saving.register_keras_serializable(package="tfdml")
class LearnedTemperature(keras.layers.Layer):
    r"""A trainable temperature, stored as $\log (1 / \tau)$; $\tau$ is at least 0.01.

    Args:
        temperature: float, > 0. Initial value.
        **kwargs: Arguments of a Keras layer.
    """

    def __init__(self, temperature, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_positive("temperature", temperature)
        self.log_scale = self.add_weight(
            name="log_scale", shape=(), dtype="float32", trainable=True, constraint=_at_most_log_100,
            initializer=keras.initializers.Constant(-math.log(temperature)),
        )  # fmt: skip
        self.built = True

    def __call__(self):
        return tf.exp(-tf.convert_to_tensor(self.log_scale))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


def _at_most_log_100(value):
    return tf.minimum(value, -math.log(_LEAST_TEMPERATURE))


class _Pairs(NamedTuple):
    """A batch as the data has it; what it lacks is `None`."""

    query: Any
    item: Any
    item_ids: Any = None
    query_ids: Any = None
    negatives: Any = None
    negative_ids: Any = None
    weights: Any = None


class _Batch(NamedTuple):
    """An embedded batch, gathered over all replicas."""

    queries: tf.Tensor
    items: tf.Tensor
    item_ids: tf.Tensor
    query_ids: tf.Tensor | None
    negatives: tf.Tensor | None
    negative_ids: tf.Tensor | None
    weights: tf.Tensor | None


def _unpack(data):
    """Return the `_Pairs` of (query, item) or (query, item, extras), or raise a ValueError."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3) or data[1] is None:
        raise ValueError(
            f"Batches must be pairs. Received: {_description(data)}. Expected: (query, item) or (query, item, extras)."
        )
    query, item, *rest = data
    extras = rest[0] if rest else None
    if extras is None:
        return _Pairs(query, item)
    if not isinstance(extras, Mapping):
        ids = tf.convert_to_tensor(extras)
        is_column = ids.shape.rank in (None, 1) or (ids.shape.rank == 2 and ids.shape[1] in (1, None))
        if not (ids.dtype.is_integer and is_column):
            raise ValueError(
                f"The third part of a batch must be ids or a dict. Received: {_description(extras)}. Expected: integer "
                "item ids (batch,), or a dict; weights are {'weights': …}, and explicit negatives {'negatives': …, "
                "'negative_ids': …, 'item_ids': …}."
            )
        extras = {"item_ids": extras}
    unknown = sorted(set(extras) - set(_EXTRAS))
    if unknown:
        raise ValueError(f"Unknown keys in a batch. Received: {unknown}. Expected: keys from {_EXTRAS}.")
    pairs = _Pairs(query, item, **extras)
    needed = [name for name in ("negatives", "negative_ids", "item_ids") if getattr(pairs, name) is None]
    if needed and (pairs.negatives is not None or pairs.negative_ids is not None):
        raise ValueError(
            f"Explicit negatives need ids, since one may be the item of another query. Received: a batch without "
            f"{needed[0]}. Expected: negatives, negative_ids and item_ids."
        )
    _check_lengths(pairs)
    if pairs.negatives is not None:
        _check_negatives(pairs)
    return pairs


def _check_lengths(pairs):
    batch = tf.TensorShape(tf.nest.flatten(pairs.query)[0].shape)[:1]
    for name in ("item_ids", "query_ids", "weights"):
        values = getattr(pairs, name)
        shape = batch if values is None else tf.convert_to_tensor(values).shape
        if not (shape.is_compatible_with(batch) or shape.is_compatible_with([*batch, 1])):
            raise ValueError(
                f"Each pair has one entry. Received: {name} of shape {shape} for queries of shape {(*batch, '…')}. "
                f"Expected: {tuple(batch)}."
            )


def _check_negatives(pairs):
    try:
        tf.nest.assert_same_structure(pairs.item, pairs.negatives)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Negatives must have the structure of items. Received: {_description(pairs.negatives)} for items that are "
            f"{_description(pairs.item)}. Expected: the same keys."
        ) from error
    for item, negatives in zip(tf.nest.flatten(pairs.item), tf.nest.flatten(pairs.negatives)):
        expected = [item.shape[0], None, *item.shape[1:]] if item.shape.rank is not None else None
        if not tf.TensorShape(negatives.shape).is_compatible_with(tf.TensorShape(expected)):
            raise ValueError(
                f"Negatives must have one more axis than items. Received: negatives of shape {negatives.shape} for "
                f"items of shape {item.shape}. Expected: (batch, k, …)."
            )
        expected = tf.TensorShape(negatives.shape)[:2]
        if not tf.convert_to_tensor(pairs.negative_ids).shape.is_compatible_with(expected):
            raise ValueError(
                f"Each negative needs an id. Received: negative_ids of shape "
                f"{tf.convert_to_tensor(pairs.negative_ids).shape} for negatives of shape {negatives.shape}. Expected: "
                f"{tuple(expected)}."
            )


def _description(data):
    if isinstance(data, Mapping):
        return f"a dict with the keys {sorted(data)}"
    if isinstance(data, (tuple, list)):
        return f"a {type(data).__name__} of {len(data)}"
    return f"{getattr(data, 'dtype', type(data))} of shape {getattr(data, 'shape', None)}"


def _items_and_negatives(pairs):
    """The items, followed by the explicit negatives: one batch, so that batch normalization sees them together."""
    if pairs.negatives is None:
        return pairs.item
    return tf.nest.map_structure(
        lambda one, more: tf.concat([one, _merged(more)], axis=0), pairs.item, pairs.negatives
    )


def _merged(values):
    """Merge the first two axes."""
    return tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], axis=0))


def _ids(ids, name):
    ids = tf.convert_to_tensor(ids)
    if not ids.dtype.is_integer:
        raise ValueError(
            f"Ids must be integers. Received: {name} of type {ids.dtype.name}. Expected: integers, such as those of "
            "tfdml.data.encode_labels."
        )
    return ops.gather_batch(tf.reshape(tf.cast(ids, tf.int64), (-1,)))


def _inference_function(encoder):
    return compiled_for_batches(lambda batch: tf.cast(encoder(batch, training=False), tf.float32))


def _weighted_mean(values, weights):
    return tf.reduce_mean(values if weights is None else values * tf.reshape(tf.cast(weights, values.dtype), (-1,)))


def _check_embeddings(queries, items):
    for name, embeddings in (("query_encoder", queries), ("item_encoder", items)):
        if embeddings.shape.rank not in (None, 2):
            raise ValueError(
                f"An encoder must return vectors. Received: {name} with embeddings of shape {embeddings.shape}. "
                "Expected: (batch, dim)."
            )
    if not queries.shape[-1:].is_compatible_with(items.shape[-1:]):
        raise _different_sizes(queries.shape[-1], items.shape[-1])
    if not queries.shape[:1].is_compatible_with(items.shape[:1]):
        raise ValueError(
            f"Each query has one item. Received: {queries.shape[0]} queries and {items.shape[0]} items. Expected: "
            "equal numbers."
        )


def _different_sizes(query_size, item_size):
    return ValueError(
        f"The encoders' embeddings differ in size. Received: {query_size} for queries and {item_size} for items. "
        "Expected: the same size."
    )


def _check_sizes(query_encoder, item_encoder, memory):
    """Compare sizes that are known before the first batch."""
    sizes = [_embedding_size(encoder) for encoder in (query_encoder, item_encoder)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise _different_sizes(*sizes)
    if memory is not None and sizes[1] not in (None, memory.embedding_size):
        raise ValueError(
            f"The memory does not match the item encoder. Received: a memory of size {memory.embedding_size} for "
            f"embeddings of size {sizes[1]}. Expected: CrossBatchMemory(size, embedding_size={sizes[1]})."
        )


def _embedding_size(encoder):
    outputs: Any = getattr(encoder, "outputs", None) or []
    return outputs[0].shape[-1] if len(outputs) == 1 else None
