"""Training an embedder by a metric-learning loss, judged by exact retrieval metrics."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import losses, ops
from tfdml._utils import keras_compat
from tfdml._utils.arguments import check_between, check_not_negative, check_whole_number
from tfdml._utils.types import Config, Identifier, Labels, TensorLike, Weight
from tfdml.layers import ClassProxies, ZeroShotPrediction
from tfdml.models import training_step
from tfdml.models.batches import (
    LabelCheck,
    check_images,
    checked_batches,
    data_errors,
    finite_batches,
    number_of_batches,
)
from tfdml.models.distribution import workers_of
from tfdml.models.embedder import inference_function, largest_distance, with_attributes
from tfdml.models.monitors import warn_of_minimized
from tfdml.models.parameter_groups import ParameterGroup, ScaledUpdates, grouped_variables, groups_of
from tfdml.models.step_counter import StepCounter
from tfdml.models.validation import (
    GEOMETRY_LOGS,
    EmbeddedBatch,
    check_retrieval_names,
    collect,
    geometry_logs,
    mean_loss,
    retrieval_logs,
)


@keras.saving.register_keras_serializable(package="tfdml")
class MetricModel(keras_compat.WorkerModel):
    r"""Trains an embedder with `fit` and judges it by exact retrieval metrics.

    A training step embeds the batch and scores it by the loss $\ell$ against the batch itself and against each of the
    references $r$, such as trainable proxies or a memory of past batches:

    $$w \, \ell_{\text{batch}} + \sum_r \ell_{\text{against } r}.$$

    With a zero-shot prediction loss $\ell_{ZS}$ of the pooling's attributes the step minimises $(1 - \lambda) \, \ell +
    \lambda \, \ell_{ZS}$ of that.

    A memory takes the batch up after it was scored, so no sample is its own positive. Labels stay the integers they
    are. Labels that are not integers, or have no proxy, are an error before the first step that would train on them;
    `tfdml.data.encode_labels` numbers them.

    Where a loss compares the batch with itself, `anchors_without_positive` in the logs of training is the share of
    samples that are alone with their class in their batch. Such samples have nothing to be pulled to, and if most are
    like that, and there are no references, `fit` warns: `tfdml.data.balanced_batches` makes batches with positives.

    `evaluate`, and with it `fit(validation_data=…)`, embeds the whole set and compares every sample with every
    other: `val_map_at_r` and its like are in the logs of every Keras callback. Give Keras' own callbacks that monitor
    them `mode="max"`, as `keras.callbacks.EarlyStopping("val_map_at_r", mode="max")`.

    Args:
        embedder: A model from images to embeddings `(batch, dim)`, as `build_embedder` gives.
        references: A layer that gives `References` when called, such as `ClassProxies` or `CrossBatchMemory`, or a list
            of such layers; `None` compares each batch with itself alone. The attribute is always a tuple.
        in_batch_weight: $w \ge 0$. `None` is 0 if all references are proxies, else 1.
        zero_shot: A `ZeroShotPrediction`, or `None`. The embedder's pooling must give attributes (`with_attributes`).
        zero_shot_weight: $\lambda$ from 0 to 1.

    Attributes:
        proxies: The `ClassProxies` among the references, or `None`.
        loss_parameters: The layer of what the loss itself learns, or `None`.
        steps: The number of training steps so far, an int64 variable among the model's weights. Compiling again does
            not set it back, and files of weights hold it.

    Raises:
        ValueError: If a weight is out of range, there is nothing to compare with, or the pooling has no attributes.
        TypeError: If a reference is no layer.

    Example:
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile(optimizer="adam", loss="c2")
        >>> data = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.array([0, 0, 1, 1, 2, 2, 3, 3])
        >>> history = model.fit(*data, validation_data=data, verbose=0)
        >>> sorted(history.history)[:4]
        ['anchors_without_positive', 'loss', 'val_loss', 'val_map_at_r']
    """

    def __init__(
        self,
        embedder: keras.Model,
        references: keras.layers.Layer | Sequence[keras.layers.Layer] | None = None,
        in_batch_weight: float | None = None,
        zero_shot: ZeroShotPrediction | None = None,
        zero_shot_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedder = embedder
        self.zero_shot = zero_shot
        self.zero_shot_weight = check_between("zero_shot_weight", zero_shot_weight, 0.0, 1.0)
        self._attributed_embedder: Any = None if zero_shot is None else with_attributes(embedder)
        # A tuple: tf.train.Checkpoint does not look into a list that Keras 3 tracks.
        self.references = layers = _as_tuple(references)
        for layer in layers:
            if not isinstance(layer, keras.layers.Layer):
                raise TypeError(f"References must be a layer or a list of layers. Received: {layer!r}.")
        if in_batch_weight is None:
            in_batch_weight = 0 if layers and all(isinstance(layer, ClassProxies) for layer in layers) else 1
        self.in_batch_weight = check_not_negative("in_batch_weight", in_batch_weight)
        if not (layers or self.in_batch_weight):
            raise ValueError("There is nothing to compare with. Received: in_batch_weight=0 without references.")
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._alone_tracker = _Untracked(keras.metrics.Mean(name=_ALONE))
        self._has_warned_of_positives = False
        self.step_counter = StepCounter(name="step_counter")
        self.built = True

    @property
    def steps(self) -> Weight:
        return self.step_counter.steps

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Identifier = "c2",
        reference_optimizer: str | keras.optimizers.Optimizer | None = None,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        geometry: bool = False,
        metrics: Sequence[str] | None = None,
        parameter_groups: Sequence[ParameterGroup] | None = None,
        **kwargs: Any,
    ) -> None:
        r"""Prepares training.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: What `tfdml.losses.get` accepts: a name, a `MetricLoss`, any Keras loss of (labels, embeddings), such
                as those of TensorFlow Addons, a function of them, or a configuration. `references` need a loss with a
                method `against`, as each `MetricLoss` has. What a `MetricLoss` itself learns (its `parameters`) is
                trained along.
            reference_optimizer: An optimizer or its name for proxies and what the loss learns: all that is trained
                outside the embedder but the zero-shot loss' label embeddings; usually with a much larger learning rate.
                `None`: `optimizer` trains everything. Each optimizer clips the gradients of its own variables only, by
                its own `global_clipnorm`, so large gradients of the proxies do not shrink the embedder's.
            weight_decay: $\lambda \ge 0$: the L2 term $\lambda w$ is added to the gradient of every trainable weight
                $w$ of the embedder but those of batch normalisation, before gradients are clipped. The loss that is
                reported is without it. AdamW's decoupled decay is an argument of that optimizer.
            warmup_steps: For so many `steps` of the model, from its first training on, the embedder is held as it
                is, its layer named `"embedding"` excepted.
            geometry: Whether `evaluate` also tells how the embeddings lie: `tfdml.metrics.geometry_metrics`, and, for a
                loss with margins, `margin_slack`: $d_{\max} - d_{\min} - m$, of the largest distance between classes,
                the smallest within one, and what the margins ask for (`loss.margin_requirements`). Where it is negative
                no triplet of these samples can meet them; the third time in a row brings a warning.
            metrics: Names of the retrieval metrics that `evaluate` gives, such as `["map_at_r", "recall_at_16"]`;
                `None` gives `map_at_r`, `precision_at_1`, `r_precision` and recall at 1, 2, 4 and 8. Metrics of Keras,
                which are means over batches, are refused.
            parameter_groups: List of `ParameterGroup`: layers of the embedder that have another learning rate, or are
                frozen at first. `None` trains all layers alike.
            **kwargs: As for `keras.Model.compile`: `jit_compile`, `run_eagerly`, `steps_per_execution`, …

        Raises:
            ValueError: If the loss cannot be scored against references; a number is negative; an optimizer has nothing
                to train; two optimizers are one object or keep averages (`use_ema`); the embedder cannot be held;
                or a metric is not a retrieval metric.

        Warns:
            UserWarning: If the margins of the loss ask for larger distances than the normalisation of the embedder
                leaves room for, such as 2 for vectors of unit length.
        """
        if kwargs.get("weighted_metrics"):
            raise ValueError(
                "Retrieval metrics are not weighted. Received: weighted_metrics. Expected: `metrics`, names of "
                "retrieval metrics."
            )
        metrics = check_retrieval_names(metrics)
        given_loss, loss = loss, losses.get(loss)
        if self.references and not callable(getattr(loss, "against", None)):
            names = ", ".join(type(layer).__name__ for layer in self.references)
            raise ValueError(
                f"The loss compares a batch with itself alone, not with references. Received: {type(loss).__name__} "
                f"{loss.name!r} with references {names}. Expected: no references, or a loss with the method "
                "`against(labels, embeddings, references)`. Leave out the references, or subclass "
                "`tfdml.losses.MetricLoss`."
            )
        self.workers = workers_of(self.distribute_strategy)
        self._check_workers(kwargs.get("jit_compile"))
        super().compile(optimizer=optimizer, **kwargs)
        # Keras saves them by itself only with its own arguments of compile.
        self._fit_options = {name: kwargs[name] for name in _FIT_OPTIONS if kwargs.get(name) is not None}
        self._warned_callbacks: frozenset[type] = frozenset()
        self.metric_loss = loss
        # As any Keras model tells what it was compiled with.
        self.loss = given_loss
        self._retrieval_names = metrics
        self._replace_loss_parameters(getattr(loss, "parameters", None))
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.warmup_steps = check_whole_number("warmup_steps", warmup_steps, minimum=0)
        self.reference_optimizer = None if reference_optimizer is None else keras.optimizers.get(reference_optimizer)
        self.parameter_groups = tuple(groups_of(parameter_groups))
        self._check_optimizers()
        self.geometry = bool(geometry)
        self._check_margins()
        self._evaluation_functions: Any = None
        self._inference_function: Any = None

    def _check_workers(self, jit_compile):
        if self.workers.is_single:
            return
        replicas = self.workers.count * self.workers.replicas
        if jit_compile is True:
            raise ValueError(
                "XLA does not compile what gathers the batch of several replicas. Received: jit_compile=True with "
                f"{replicas} replicas; expected jit_compile=False."
            )

    def retrace(self) -> None:
        """Forgets the graphs of training, evaluation and embedding, after an option of a layer has changed."""
        self._evaluation_functions = self._inference_function = None
        if getattr(self, "train_function", None) is not None:
            self.make_train_function(force=True)

    def embed_batch(self, images: TensorLike) -> tf.Tensor:
        """Float32 embeddings `(b, d)` of a batch, as at inference, by a graph that is kept for the next batch."""
        if self._inference_function is None:
            self._inference_function = inference_function(self.embedder, self.workers, self.run_eagerly)
        with data_errors():
            return self._inference_function(images)

    def _replace_loss_parameters(self, layer):
        keras_compat.untrack(self, getattr(self, "loss_parameters", None))
        self.loss_parameters = layer

    def _check_margins(self):
        self._evaluations_without_room = 0
        required = getattr(self.metric_loss, "margin_requirements", None)
        if required is None:
            return
        room = largest_distance(self.embedder, required.distance)
        if room is not None and max(required.gap, required.reach) > room:
            warnings.warn(
                f"No embeddings can meet the margins of this loss: they ask for a {required.distance} distance of "
                f"{max(required.gap, required.reach):g} between classes, and the embedder's normalization leaves "
                f"room for {room:g}. Received: {type(self.metric_loss).__name__}.",
                stacklevel=3,
            )

    def _check_optimizers(self):
        optimizer = keras_compat.base_optimizer(self.optimizer)
        if grouped_variables(self.embedder, self.parameter_groups) and getattr(optimizer, "use_ema", False):
            raise ValueError(
                "The moving averages of an optimizer do not know of parameter groups. Received: use_ema=True with "
                "parameter_groups. Expected: use_ema=False. Use tfdml.callbacks.AveragedWeights."
            )
        if self.warmup_steps:
            training_step.frozen_variables(self.embedder)
            optimizer = keras_compat.base_optimizer(self.optimizer)
            if getattr(optimizer, "weight_decay", None):
                raise ValueError(
                    f"Decoupled weight decay moves weights that the warm-up holds. Received: warmup_steps="
                    f"{self.warmup_steps} and {type(optimizer).__name__} with weight_decay={optimizer.weight_decay}; "
                    "expected the weight_decay of compile in its place."
                )
        if self.reference_optimizer is None:
            return
        first = keras_compat.base_optimizer(self.optimizer)
        if self.reference_optimizer in (first, self.optimizer):
            raise ValueError(
                "One optimizer object cannot have both roles: each keeps the state of its own variables. Received: the "
                f"same {type(first).__name__} as optimizer and reference_optimizer. Expected: two objects. Leave out "
                "reference_optimizer to train everything by one."
            )
        if getattr(first, "use_ema", False) or getattr(self.reference_optimizer, "use_ema", False):
            raise ValueError(
                "Keras writes the moving averages of one optimizer into the weights of both. Received: use_ema=True "
                "with a reference_optimizer. Expected: use_ema=False. Use tfdml.callbacks.AveragedWeights, or one "
                "optimizer."
            )
        if isinstance(self.reference_optimizer, keras.mixed_precision.LossScaleOptimizer):
            raise ValueError(
                "The loss is scaled by `optimizer` alone. Received: reference_optimizer=LossScaleOptimizer(…); "
                "expected the optimizer inside."
            )
        if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer) and not self.workers.is_single:
            raise ValueError(
                "Replicas cannot skip a step in two optimizers for the sake of the scale of the loss. Received: "
                "LossScaleOptimizer with a reference_optimizer; expected one of the two, or mixed_bfloat16."
            )
        for (_, variables), place in zip(self.optimizer_groups(), ("in", "outside")):
            if not variables:
                raise ValueError(
                    f"Two optimizers need something to train each. Received: a reference_optimizer and nothing that is "
                    f"trainable {place} the embedder (which must be built)."
                )
        # Keras would build the first of them for the variables of both.
        self.build_optimizers()

    def optimizer_groups(self) -> list[tuple[keras.optimizers.Optimizer, list[Weight]]]:
        """Each optimizer with the variables that it trains: a list of pairs."""
        if self.reference_optimizer is None:
            return [(self.optimizer, self.trainable_variables)]
        inside = list(self.embedder.trainable_variables)
        if self.zero_shot is not None:
            inside += self.zero_shot.trainable_variables
        ids = {id(variable) for variable in inside}
        outside = [variable for variable in self.trainable_variables if id(variable) not in ids]
        return [(self.optimizer, inside), (self.reference_optimizer, outside)]

    def build_optimizers(self) -> None:
        """Makes the optimizers' variables, which they would make at the first step."""
        with self.distribute_strategy.scope():
            for optimizer, variables in self.optimizer_groups():
                training_step.build_optimizer(optimizer, variables)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras resets these before each epoch and reads them after it.
        return [self.loss_tracker, self._alone_tracker.value] if self.in_batch_weight else [self.loss_tracker]

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` gives, in its order; without any before `compile`."""
        if not hasattr(self, "metric_loss"):
            return []
        names = ["loss", *self._retrieval_names]
        if self.geometry:
            names += GEOMETRY_LOGS
            if getattr(self.metric_loss, "margin_requirements", None) is not None:
                names.append("margin_slack")
        return names

    @property
    def proxies(self) -> ClassProxies | None:
        return next((layer for layer in self.references if isinstance(layer, ClassProxies)), None)

    def call(self, inputs: TensorLike, training: bool | None = False) -> Any:
        return self.embedder(inputs, training=training)

    def sample_losses(self, labels: Labels, embeddings: TensorLike) -> tf.Tensor:
        """The metric loss of each sample of a training batch.

        Args:
            labels: Integer class labels, `(batch,)`.
            embeddings: `(batch, dim)`.

        Returns:
            `(batch,)`; a scalar for a Keras loss that is not a `MetricLoss`.
        """
        terms = [self.metric_loss.against(labels, embeddings, layer()) for layer in self.references]
        if self.in_batch_weight:
            terms.append(self.in_batch_weight * self._in_batch_losses(labels, embeddings))
        return tf.add_n(terms)

    def _in_batch_losses(self, labels, embeddings, unseen=False):
        loss = self.metric_loss
        # Other losses of Keras reduce for themselves when they are called; ours would lose digits of the labels.
        if isinstance(loss, losses.FunctionLoss):
            return loss.call(labels, embeddings)
        if not isinstance(loss, losses.MetricLoss):
            return loss(labels, embeddings)
        return loss.call_unseen(labels, embeddings) if unseen else loss.call(labels, embeddings)

    def penalty(self) -> tf.Tensor | float:
        """What is added to the metric loss: the regularisation losses of the layers."""
        return tf.add_n(self.losses) if self.losses else 0.0

    def train_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None:
            raise ValueError(
                "Labels are missing. Received: batches of images alone. Expected: batches of (images, labels), or "
                "arrays as in `fit(images, labels)`."
            )
        with tf.GradientTape() as tape:
            embeddings, labels, values = self._embed_and_compare(images, labels)
            loss = _weighted_mean(values, None if sample_weight is None else ops.gather_batch(sample_weight))
            loss += tf.cast(self.penalty(), loss.dtype)
            objective = loss
            if self.weight_decay:
                decayed = training_step.decayed_variables(self.embedder)
                objective += tf.cast(training_step.weight_penalty(decayed, self.weight_decay), loss.dtype)
            # All replicas see the same loss, and the optimizers sum their gradients.
            scaled_objective = keras_compat.scale_loss(self.optimizer, objective / ops.replica_count())
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_objective, variables)
        if self.warmup_steps:
            is_over = tf.convert_to_tensor(self.steps) >= self.warmup_steps
            held = training_step.frozen_variables(self.embedder)
            gradients = training_step.mask_gradients(gradients, variables, held, factor=is_over)
        grouped = grouped_variables(self.embedder, self.parameter_groups)
        updates = ScaledUpdates(grouped, self.steps)
        # As the optimizer counts: a step that is skipped or accumulated is not one.
        before = tf.convert_to_tensor(self.optimizer.iterations)
        training_step.apply_gradients(self.optimizer_groups(), gradients, variables)
        updates.apply()
        self.step_counter.advance(tf.convert_to_tensor(self.optimizer.iterations) - before)
        for layer in self.references:
            if hasattr(layer, "update"):
                layer.update(ops.check_labels(labels, embeddings), embeddings)
        self.loss_tracker.update_state(loss)
        logs = {"loss": self.loss_tracker.result()}
        if self.in_batch_weight and _names_classes(labels):
            alone = self._alone_tracker.value
            alone.update_state(_share_alone(ops.check_labels(labels, embeddings)))
            logs[_ALONE] = alone.result()
        return self.step_logs(logs)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit` does.

        Labels are checked first: those of an array at once, those of a `tf.data.Dataset`, a `keras.utils.PyDataset` or
        a generator when their batch is made.

        Raises:
            ValueError: If the model is not compiled, labels are not integers or have no proxy, or the validation
                dataset is endless and there are no `validation_steps`.

        Warns:
            UserWarning: If most samples have no positive in their batch, and nothing else to be compared with.
        """
        self._check_compiled("fit")
        check = self._label_check()
        if check is not None:
            x, y = (check.data(x), y) if y is None else (x, check.array(y))
        validation_data = self._checked_validation(validation_data, kwargs.get("validation_steps"))
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*tf.nest.flatten(callbacks if callbacks is not None else []), _PositivesWarning()]
        with data_errors():
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, *args, **kwargs
            )

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, return_dict: bool = False, **kwargs: Any) -> Any:
        """A step on one batch, as `keras.Model.train_on_batch` makes it; gives the loss, or a dict of all logs."""
        self._check_compiled("train_on_batch")
        check = self._label_check()
        if check is not None and y is not None:
            y = check.array(y)
        with data_errors():
            logs = super().train_on_batch(x, y, *args, return_dict=True, **kwargs)
        return logs if return_dict else logs["loss"]

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Scores one batch, as `keras.Model.test_on_batch` does; retrieval metrics need `evaluate`."""
        self._check_compiled("test_on_batch")
        if y is not None:
            y = self._checked_labels(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def _checked_validation(self, data, steps):
        """Validation data with checked labels: errors after the first epoch would be late."""
        if data is None:
            return None
        if isinstance(data, tuple):
            images, labels, *weights = data
            return images, labels if isinstance(labels, Mapping) else self._checked_labels(labels), *weights
        finite_batches(data, steps)
        return data

    def _check_compiled(self, method):
        if not hasattr(self, "metric_loss"):
            raise ValueError(
                f"The model is not compiled. Received: {method} before compile. Expected: `model.compile(optimizer, "
                "loss)` first; metrics without a loss come from `tfdml.metrics.retrieval_metrics` of what "
                "`tfdml.models.embed` gives."
            )

    def _label_check(self):
        """What labels must be, or `None` where another loss of Keras may take anything."""
        limits = [
            LabelCheck(layer.num_classes, f"{type(layer).__name__}({layer.num_classes}, …)")
            for layer in [*self.references, self.zero_shot]
            if isinstance(layer, (ClassProxies, ZeroShotPrediction))
        ]
        classes = getattr(self.metric_loss, "label_classes", None)
        if classes is not None:
            limits.append(LabelCheck(classes, f"{type(self.metric_loss).__name__}(num_classes={classes}, …)"))
        if limits:
            return min(limits, key=operator.attrgetter("classes"))
        is_ours = isinstance(self.metric_loss, losses.MetricLoss) or self.references
        return LabelCheck() if is_ours else None

    def _embed_and_compare(self, images, labels):
        """Embeddings, labels and losses of the samples of a training batch, of all replicas."""
        check_images(self.embedder, images)
        if self.zero_shot is None:
            embeddings = self.embedder(images, training=True)
        else:
            embeddings, attributes = self._attributed_embedder(images, training=True)
        labels, embeddings = ops.gather_batch(labels), ops.gather_batch(embeddings)
        values = self.sample_losses(labels, embeddings)
        if self.zero_shot is None:
            return embeddings, labels, values
        attributes = ops.gather_batch(attributes)
        transfer = tf.cast(self.zero_shot(attributes, ops.check_labels(labels, attributes)), values.dtype)
        return embeddings, labels, (1.0 - self.zero_shot_weight) * values + self.zero_shot_weight * transfer

    def test_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        embeddings = ops.gather_batch(tf.cast(self.embedder(images, training=False), tf.float32))
        weight = None if sample_weight is None else ops.gather_batch(sample_weight)
        loss = self._score(embeddings, ops.gather_batch(labels), weight)
        self.loss_tracker.update_state(loss)
        return self.step_logs({"loss": self.loss_tracker.result()})

    def _score(self, embeddings, labels, sample_weight=None):
        # Other classes than those of the training have no references: what is judged is the batch by itself.
        return _weighted_mean(self._in_batch_losses(labels, embeddings, unseen=True), sample_weight)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> dict[str, float] | list[float]:
        """Embeds a set and gives its loss and its exact retrieval metrics.

        Args:
            x: Images, or a finite `tf.data.Dataset`, a `keras.utils.PyDataset` or another iterable of batches (images,
                labels). Where queries are to be found in a gallery rather than among themselves, the labels are a dict
                of `"label"` and `"is_query"`, a bool for each image.
            y: Integer class labels, for images in an array.
            batch_size: For an array; 32 by default.
            verbose: 0 for no progress bar.
            sample_weight: Weights of the samples in the loss, for an array; retrieval is not weighted.
            steps: How many batches to take; all by default. An endless dataset needs it.
            callbacks: Keras callbacks.
            return_dict: Whether to return a dict rather than a list.
            **kwargs: Only what Keras' `fit` passes.

        Returns:
            `loss` (each batch scored by itself), `map_at_r`, `precision_at_1`, `r_precision`, `recall_at_1`,
            `recall_at_2`, `recall_at_4`, `recall_at_8` (or the `metrics` of `compile`), and what `geometry` of
            `compile` asks for: as a dict, or as a list in the order of `metrics_names`. Embeddings that are not finite,
            as of a training that has diverged, have metrics NaN.

        Raises:
            ValueError: If the model is not compiled; there is nothing to evaluate, or no end of it; labels are missing
                or not integers; or an image is not finite.
        """
        self._check_compiled("evaluate")
        from_fit = keras_compat.pop_call_from_fit(kwargs)
        unknown = sorted(set(kwargs) - {"max_queue_size", "use_multiprocessing", "workers"})
        if unknown:
            raise TypeError(f"evaluate does not take these arguments. Received: {unknown}.")
        data = self._as_batches(x, y, sample_weight, batch_size or 32)
        batches = finite_batches(data, steps)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            self._warned_callbacks = warn_of_minimized(callbacks.callbacks, self._warned_callbacks)
        else:
            show = verbose not in (0, "0") and not from_fit
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=show, verbose=1 if verbose == "auto" else verbose, epochs=1,
                steps=steps if steps is not None else number_of_batches(data), model=self,
            )  # fmt: skip
        callbacks.on_test_begin()
        logs = self._evaluation_logs(self._embed_set(batches, steps, callbacks))
        callbacks.on_test_end(logs)
        return logs if return_dict else list(logs.values())

    def _embed_set(self, batches, steps, callbacks):
        """Embeds and scores this worker's share of the batches; gives the whole set, in its order."""
        if self._evaluation_functions is None:
            # Not the graph of `embed_batch`: batches of other shapes would relax it, and a resumed training, which
            # has not seen them, would round otherwise.
            score = self._score if self.run_eagerly else tf.function(self._score, reduce_retracing=True)
            self._evaluation_functions = inference_function(self.embedder, self.workers, self.run_eagerly), score
        embed_batch, score = self._evaluation_functions
        mine = itertools.takewhile(lambda numbered: steps is None or numbered[0] < steps, self.workers.share(batches))
        parts = []
        for number, batch in checked_batches(mine):
            if batch.labels is None:
                raise ValueError("Retrieval is judged by labels. Received: a data set of images without labels.")
            callbacks.on_test_batch_begin(number)
            labels = self._checked_labels(batch.labels)
            embeddings = embed_batch(batch.images)
            loss = score(embeddings, tf.convert_to_tensor(labels), batch.weights)
            labels = np.asarray(labels).reshape(-1)
            parts.append(EmbeddedBatch(number, np.asarray(embeddings), labels, batch.is_query, float(loss)))
            callbacks.on_test_batch_end(number, {"loss": mean_loss(parts)})
        return collect(parts, self.workers)

    def _evaluation_logs(self, embedded):
        """The logs of an embedded set, the same on all workers."""
        embeddings, labels = embedded.embeddings, embedded.labels
        logs = {"loss": embedded.loss}
        logs.update(retrieval_logs(embeddings, labels, embedded.is_query, self.workers, self._retrieval_names))
        if self.geometry:
            logs.update(self._geometry_logs(embeddings, labels))
        if self.workers.count > 1:
            # What is decided by them must be decided alike, whatever processors the workers have.
            logs = dict(zip(logs, map(float, self.workers.broadcast(list(logs.values())))))
        return logs

    def _as_batches(self, x, y, sample_weight, batch_size):
        if y is None:
            return x
        if isinstance(y, Mapping):
            y = {**y, "label": self._checked_labels(y["label"])}
        else:
            y = self._checked_labels(y)
        arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
        return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)

    def _checked_labels(self, labels):
        # Other losses of Keras may take others.
        return LabelCheck().array(labels) if isinstance(self.metric_loss, losses.MetricLoss) else labels

    def _geometry_logs(self, embeddings, labels):
        logs, complaint = geometry_logs(embeddings, labels, getattr(self.metric_loss, "margin_requirements", None))
        # Embeddings that have hardly begun to spread are no reason to worry.
        self._evaluations_without_room = 0 if complaint is None else self._evaluations_without_room + 1
        if self._evaluations_without_room == _PATIENCE_WITH_MARGINS:
            warnings.warn(f"{complaint} Received: {type(self.metric_loss).__name__}.", stacklevel=3)
        return logs

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "references": [keras.saving.serialize_keras_object(layer) for layer in self.references],
            "in_batch_weight": self.in_batch_weight,
            "zero_shot": None if self.zero_shot is None else keras.saving.serialize_keras_object(self.zero_shot),
            "zero_shot_weight": self.zero_shot_weight,
        }

    @classmethod
    def from_config(cls, config: Config) -> MetricModel:
        config = dict(config)
        for part in ("embedder", "zero_shot"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        # Earlier versions wrote a single layer by itself.
        references = _as_tuple(config.get("references"))
        config["references"] = [keras.saving.deserialize_keras_object(layer) for layer in references]
        return cls(**config)

    def get_compile_config(self) -> Config | None:
        if not hasattr(self, "metric_loss"):
            return None
        second = self.reference_optimizer
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "loss": keras.saving.serialize_keras_object(self.metric_loss),
            "reference_optimizer": None if second is None else keras.saving.serialize_keras_object(second),
            "weight_decay": self.weight_decay,
            "warmup_steps": self.warmup_steps,
            "geometry": self.geometry,
            "metrics": list(self._retrieval_names),
            "parameter_groups": [group.get_config() for group in self.parameter_groups],
            **self._fit_options,
        }

    def compile_from_config(self, config: Config) -> None:
        config = dict(config)
        for part in ("optimizer", "loss", "reference_optimizer"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        self.compile(**config)
        self.build_optimizers()


_PATIENCE_WITH_MARGINS = 3
# The name in the logs of the share of samples that are alone with their class in their batch.
_ALONE = "anchors_without_positive"
_FIT_OPTIONS = ("run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss")


def _as_tuple(references):
    """What stands for references, a layer, several or `None`, as a tuple."""
    if references is None:
        return ()
    return tuple(references) if isinstance(references, (list, tuple)) else (references,)


def _weighted_mean(values, sample_weight):
    values = tf.convert_to_tensor(values)
    if sample_weight is not None:
        values *= tf.reshape(tf.cast(sample_weight, values.dtype), (-1,))
    return tf.reduce_mean(values)


def _names_classes(labels):
    """Whether labels are those of classes, one for each sample: other losses of Keras may take others."""
    labels = tf.convert_to_tensor(labels)
    is_column = labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[1] == 1)
    return is_column and labels.dtype.is_integer


def _share_alone(labels):
    """The share of samples that are alone with their class in the batch."""
    of_class = tf.reduce_sum(tf.cast(labels[:, None] == labels[None, :], tf.int32), axis=1)
    return tf.math.divide_no_nan(
        tf.cast(tf.math.count_nonzero(of_class == 1), tf.float32), tf.cast(tf.size(labels), tf.float32)
    )


class _Untracked:
    """Holds a metric that is not part of the model's saved state, which files of earlier versions do not have."""

    def __init__(self, value):
        self.value = value


class _PositivesWarning(keras.callbacks.Callback):
    """Warns once of batches in which most samples have nothing to be pulled to."""

    def on_epoch_end(self, epoch, logs=None):
        share = (logs or {}).get(_ALONE, 0.0)
        if share <= 0.5 or self.model.references or self.model._has_warned_of_positives:
            return
        self.model._has_warned_of_positives = True
        warnings.warn(
            f"{share:.0%} of the samples have no other sample of their class in their batch, and nothing else to be "
            "compared with as a positive, so the loss hardly trains on them. Received: batches drawn without regard to "
            "classes. Expected: at least two samples of each class in a batch. Make batches by "
            "`tfdml.data.balanced_batches`, or add references such as `ClassProxies` or `CrossBatchMemory`.",
            stacklevel=2,
        )
