"""Train an embedder with a metric-learning loss and evaluate it with exact retrieval metrics."""

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
from tfdml.layers import AttributeRegression, ClassProxies, CrossBatchPrototypes, ZeroShotPrediction
from tfdml.models import training_step
from tfdml.models.batches import (
    LabelCheck,
    check_images,
    check_rereadable,
    checked_batches,
    data_errors,
    finite_batches,
    number_of_batches,
    warn_of_bytes,
)
from tfdml.models.checkpointing import checkpointed
from tfdml.models.distribution import workers_of
from tfdml.models.embedder import inference_function, largest_distance, with_attributes, with_parts
from tfdml.models.mixing import Mixing, check_mixing
from tfdml.models.monitors import warn_of_minimized
from tfdml.models.parameter_groups import ParameterGroup, ScaledUpdates, grouped_variables, groups_of
from tfdml.models.relating import related
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
from tfdml.ops.pairs import related_masks


@keras.saving.register_keras_serializable(package="tfdml")
class MetricModel(keras_compat.WorkerModel):
    r"""Trains an embedder with `fit` and evaluates it with exact retrieval metrics.

    This is the model for all losses, with or without proxies and memories. Use `CCPModel` for chance-constrained
    programming.

    A training step embeds the batch and applies the loss $\ell$ within the batch and against each of the references
    $r$, such as class proxies or a memory of past batches:

    $$\ell = w \, \ell_{\text{batch}} + \sum_r \ell_{\text{against } r}.$$

    With a zero-shot prediction loss $\ell_{ZS}$ on the pooling's attributes, the step minimizes
    $(1 - \lambda) \, \ell + \lambda \, \ell_{ZS}$. With cross-batch prototypes (XML), the same loss $\ell_X$ of the
    embeddings that these express is a further term: $(1 - \lambda - \lambda_X) \, \ell + \lambda \, \ell_{ZS} +
    \lambda_X \, \ell_X$. It is 0 in a batch with a single class.

    A batch enters the memory after it is scored, so no sample is its own positive. Labels stay integers. Labels that
    are not integers or have no proxy raise an error before a step trains on them; `tfdml.data.encode_labels` maps
    arbitrary labels to integers.

    If the loss compares samples within the batch, the training logs contain `anchors_without_positive`: the share of
    samples whose class occurs only once in their batch, so that no positive attracts them. If this holds for most
    samples and there are no references, `fit` warns; `tfdml.data.balanced_batches` makes batches with positives.

    `evaluate`, and therefore `fit(validation_data=…)`, embeds the whole dataset and compares every sample with every
    other sample. Its metrics, such as `val_map_at_r`, are in the logs of all Keras callbacks. Pass `mode="max"` to
    Keras' own callbacks that monitor them, for example
    `keras.callbacks.EarlyStopping("val_map_at_r", mode="max")`.

    Args:
        embedder: `keras.Model` from images to embeddings `(batch, dim)`, such as one made by `build_embedder`.
        references: A layer that returns `References` when called, such as `ClassProxies` or `CrossBatchMemory`, or a
            list of such layers. `None` compares samples within the batch only. Default `None`. The attribute is always
            a tuple.
        in_batch_weight: float, $w \ge 0$. Weight of the loss within the batch. `None` means 0 if all references are
            proxies, else 1. Default `None`.
        zero_shot: `ZeroShotPrediction`, `AttributeRegression` or `None`. The embedder's pooling must return attributes
            (`with_attributes`). Default `None`.
        zero_shot_weight: float, $\lambda$ in 0–1. Default 0.1.
        cross_batch: `CrossBatchPrototypes` or `None`. The embedder's pooling must return attributes. Default `None`.
        cross_batch_weight: float, $\lambda_X$ in 0–1. Default 0.1.
        **kwargs: `name`, as for `keras.Model`.

    Attributes:
        proxies: The `ClassProxies` among the references, or `None`.
        loss_parameters: Layer with the trainable parameters of the loss, or `None`.
        steps: int64 variable, scalar. Number of training steps so far. It is one of the model's weights: compiling
            again does not reset it, and weight files contain it.

    Raises:
        ValueError: If a weight is out of range, the weights of the two auxiliary losses sum to more than 1,
            `in_batch_weight` is 0 without references, or the pooling does not return attributes.
        TypeError: If a reference is not a layer.

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
        zero_shot: ZeroShotPrediction | AttributeRegression | None = None,
        zero_shot_weight: float = 0.1,
        cross_batch: CrossBatchPrototypes | None = None,
        cross_batch_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedder = embedder
        self.zero_shot = zero_shot
        self.zero_shot_weight = check_between("zero_shot_weight", zero_shot_weight, 0.0, 1.0)
        self.cross_batch: Any = cross_batch
        self.cross_batch_weight = check_between("cross_batch_weight", cross_batch_weight, 0.0, 1.0)
        if zero_shot is not None and cross_batch is not None and zero_shot_weight + cross_batch_weight > 1.0:
            raise ValueError(
                f"Nothing is left for the metric loss. Received: zero_shot_weight={zero_shot_weight:g} and "
                f"cross_batch_weight={cross_batch_weight:g}. Expected: a sum of at most 1."
            )
        self._attributed_embedder: Any = None if zero_shot is None else with_attributes(embedder)
        # Keras would list the layers of the embedder once more.
        self._parts: Any = _Untracked(None if cross_batch is None else with_parts(embedder))
        # A tuple: tf.train.Checkpoint does not track the lists of Keras 3.
        self.references = layers = _as_tuple(references)
        for layer in layers:
            if not isinstance(layer, keras.layers.Layer):
                raise TypeError(f"References must be a layer or a list of layers. Received: {layer!r}.")
        if in_batch_weight is None:
            in_batch_weight = 0 if layers and all(isinstance(layer, ClassProxies) for layer in layers) else 1
        self.in_batch_weight = check_not_negative("in_batch_weight", in_batch_weight)
        if not (layers or self.in_batch_weight):
            raise ValueError(
                "There is nothing to compare with. Received: in_batch_weight=0 without references. Expected: "
                "references, or a positive in_batch_weight."
            )
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
        mixing: Mixing | None = None,
        gradient_checkpointing: bool = False,
        relation: Identifier | None = None,
        **kwargs: Any,
    ) -> None:
        r"""Configure the model for training.

        Args:
            optimizer: str or `keras.optimizers.Optimizer`. Default `"adam"`.
            loss: Anything that `tfdml.losses.get` accepts: a name, a `MetricLoss`, any Keras loss of (labels,
                embeddings), such as those of TensorFlow Addons, a function of (labels, embeddings), or a configuration.
                With `references`, the loss needs a method `against`, which every `MetricLoss` has. Trainable parameters
                of a `MetricLoss` are trained with the model. Default `"c2"`.
            reference_optimizer: str or `keras.optimizers.Optimizer`. Optimizer of the proxies and the parameters of the
                loss, that is, of all variables outside the embedder except the label embeddings of the zero-shot loss.
                It usually has a much larger learning rate. Each optimizer clips the gradients of its own variables
                only, with its own `global_clipnorm`, so large gradients of proxies do not shrink those of the embedder.
                `None` trains everything with `optimizer`. Default `None`.
            weight_decay: float, $\lambda \ge 0$. Adds the L2 term $\lambda w$ to the gradient of every trainable weight
                $w$ of the embedder except those of batch normalization, before gradients are clipped. The reported loss
                excludes it. For AdamW's decoupled decay, use the argument of that optimizer. Default 0.
            warmup_steps: int. Number of first training steps, counted by `steps`, in which the embedder is frozen
                except for its layer named `"embedding"`. Default 0.
            geometry: bool. Add `tfdml.metrics.geometry_metrics` to the result of `evaluate`, and, for a loss with
                margins, `margin_slack` = $d_{\max} - d_{\min} - m$: the largest distance between classes, minus the
                smallest distance within a class, minus the difference that the margins require
                (`loss.margin_requirements`). If it is negative, no triplet of the evaluated samples can satisfy the
                margins; the third such evaluation in a row causes a warning. Default `False`.
            metrics: Sequence of str. Retrieval metrics that `evaluate` returns, such as `["map_at_r", "recall_at_16"]`.
                `None` means `map_at_r`, `precision_at_1`, `r_precision` and recall at 1, 2, 4 and 8. Keras metrics,
                which are averages over batches, are rejected. Default `None`.
            parameter_groups: List of `ParameterGroup`. Layers of the embedder with another learning rate, or that are
                frozen at first. `None` trains all layers alike. Default `None`.
            mixing: `Mixup` or `CutMix`. Mix the images of each training batch, which then have two labels each. It
                requires class proxies as the only references and `in_batch_weight=0`. Default `None`.
            gradient_checkpointing: bool. Store only some activations of the embedder in the forward pass and recompute
                the others in the backward pass, which saves memory and costs about one more forward pass. Batch
                normalization must be frozen. It saves nothing inside layers that are networks themselves, such as the
                encoders of KerasHub's vision transformers. Default `False`.
            relation: `tfdml.relations.Relation`, a name or a configuration. Which pairs are positive and negative, in
                training and in `evaluate`: labels are then what it compares, such as positions or tags. Class proxies,
                zero-shot and cross-batch losses, mixed images and geometry metrics need classes. `None` is the relation
                of the loss, by default pairs of the same class. Default `None`.
            **kwargs: Other arguments of `keras.Model.compile`, such as `jit_compile`, `run_eagerly` or
                `steps_per_execution`.

        Raises:
            ValueError: If the loss has no method `against` but there are references; a number is negative; an optimizer
                has nothing to train; both optimizers are the same object, or one keeps averages (`use_ema`); the
                embedder cannot be frozen for the warm-up; images are mixed for a loss that needs one label per image;
                the embedder cannot be computed twice for gradient checkpointing; a metric is not a retrieval metric; or
                something needs classes and the relation does not compare them.

        Warns:
            UserWarning: If the loss is not a `MetricLoss`, so that the relation serves evaluation only; or if the
                margins of the loss require larger distances than the normalization of the embedder allows, such as 2
                for vectors of unit length.
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
                f"The loss compares samples within a batch only, not with references. Received: {type(loss).__name__} "
                f"{loss.name!r} with references {names}. Expected: no references, or a loss with the method "
                "`against(labels, embeddings, references)`. Leave out the references, or subclass "
                "`tfdml.losses.MetricLoss`."
            )
        mixing = check_mixing(mixing, self)
        found, loss = related(relation, loss, self, mixing, geometry)
        training_forward = self._checkpointed() if gradient_checkpointing else None
        self.workers = workers_of(self.distribute_strategy)
        self._check_workers(kwargs.get("jit_compile"))
        super().compile(optimizer=optimizer, **kwargs)
        # Keras does not save these because `get_compile_config` is overridden.
        self._fit_options = {name: kwargs[name] for name in _FIT_OPTIONS if kwargs.get(name) is not None}
        self._warned_callbacks: frozenset[type] = frozenset()
        self.metric_loss, self.mixing, self.relation = loss, mixing, found
        self.gradient_checkpointing, self._training_forward = bool(gradient_checkpointing), training_forward
        # As in any Keras model, `loss` is the argument of `compile`.
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

    def _checkpointed(self):
        if self.zero_shot is not None or self.cross_batch is not None:
            raise ValueError(
                "Gradient checkpointing does not support attributes. Received: gradient_checkpointing=True with a "
                f"{'cross-batch' if self.zero_shot is None else 'zero-shot'} loss. Expected: one of the two."
            )
        return checkpointed(self.embedder)

    def _check_workers(self, jit_compile):
        if self.workers.is_single:
            return
        replicas = self.workers.count * self.workers.replicas
        if jit_compile is True:
            raise ValueError(
                "`jit_compile=True` is not supported with more than one replica. Received: jit_compile=True with "
                f"{replicas} replicas. Expected: jit_compile=False."
            )

    def retrace(self) -> None:
        """Discard the graphs of training, evaluation and embedding. Call it after changing an option of a layer."""
        self._evaluation_functions = self._inference_function = None
        if getattr(self, "train_function", None) is not None:
            self.make_train_function(force=True)

    def embed_batch(self, images: TensorLike) -> tf.Tensor:
        """Embed one batch in inference mode, with a graph that later calls reuse.

        Args:
            images: float array or tensor, `(batch, height, width, channels)`.

        Returns:
            float32 tensor `(batch, dim)`.
        """
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
                f"No embeddings can satisfy the margins of this loss: they require a {required.distance} distance of "
                f"{max(required.gap, required.reach):g} between classes, and the embedder's normalization allows at "
                f"most {room:g}. Received: {type(self.metric_loss).__name__}. Use smaller margins, or an embedder with "
                "`normalization=None`.",
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
                    f"Decoupled weight decay would change weights that the warm-up freezes. Received: warmup_steps="
                    f"{self.warmup_steps} and {type(optimizer).__name__} with weight_decay={optimizer.weight_decay}. "
                    "Expected: the argument weight_decay of compile instead."
                )
        if self.reference_optimizer is None:
            return
        first = keras_compat.base_optimizer(self.optimizer)
        if self.reference_optimizer in (first, self.optimizer):
            raise ValueError(
                "The two optimizers must be different objects, because each stores the state of its own variables. "
                f"Received: the same {type(first).__name__} as optimizer and reference_optimizer. Expected: two "
                "objects. Omit reference_optimizer to train everything with one optimizer."
            )
        if getattr(first, "use_ema", False) or getattr(self.reference_optimizer, "use_ema", False):
            raise ValueError(
                "Keras would write the moving averages of one optimizer into the weights of both. Received: "
                "use_ema=True with a reference_optimizer. Expected: use_ema=False. Use "
                "tfdml.callbacks.AveragedWeights, or one optimizer."
            )
        if isinstance(self.reference_optimizer, keras.mixed_precision.LossScaleOptimizer):
            raise ValueError(
                "Only `optimizer` scales the loss. Received: reference_optimizer=LossScaleOptimizer(…). Expected: the "
                "inner optimizer."
            )
        if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer) and not self.workers.is_single:
            raise ValueError(
                "Loss scaling with two optimizers is not supported on several replicas. Received: LossScaleOptimizer "
                "with a reference_optimizer. Expected: one of the two, or the policy mixed_bfloat16."
            )
        for (_, variables), place in zip(self.optimizer_groups(), ("in", "outside")):
            if not variables:
                raise ValueError(
                    "Each of the two optimizers needs variables to train. Received: a reference_optimizer, and nothing "
                    f"trainable {place} the embedder. Expected: a built embedder with trainable weights, and proxies "
                    "or a loss with parameters."
                )
        # Keras would build the first optimizer for the variables of both.
        self.build_optimizers()

    def optimizer_groups(self) -> list[tuple[keras.optimizers.Optimizer, list[Weight]]]:
        """Return a list of pairs (optimizer, variables that it trains)."""
        if self.reference_optimizer is None:
            return [(self.optimizer, self.trainable_variables)]
        inside = list(self.embedder.trainable_variables)
        if self.zero_shot is not None:
            inside += self.zero_shot.trainable_variables
        ids = {id(variable) for variable in inside}
        outside = [variable for variable in self.trainable_variables if id(variable) not in ids]
        return [(self.optimizer, inside), (self.reference_optimizer, outside)]

    def build_optimizers(self) -> None:
        """Create the optimizers' variables now, not at the first step, so that checkpoints can restore them."""
        with self.distribute_strategy.scope():
            for optimizer, variables in self.optimizer_groups():
                training_step.build_optimizer(optimizer, variables)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras resets these before each epoch and reads them after it.
        return [self.loss_tracker, self._alone_tracker.value] if self.in_batch_weight else [self.loss_tracker]

    @property
    def metrics_names(self) -> list[str]:
        """Names of the values that `evaluate` returns, in order; empty before `compile`."""
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
        """Return the metric loss of each sample of a training batch. Override it to change the loss.

        Args:
            labels: integer tensor `(batch,)`. Class labels.
            embeddings: float tensor `(batch, dim)`.

        Returns:
            float tensor `(batch,)`; a scalar for a Keras loss that is not a `MetricLoss`.
        """
        terms = [self.metric_loss.against(labels, embeddings, layer()) for layer in self.references]
        if self.in_batch_weight:
            terms.append(self.in_batch_weight * self._in_batch_losses(labels, embeddings))
        return tf.add_n(terms)

    def _in_batch_losses(self, labels, embeddings, unseen=False):
        loss = self.metric_loss
        # `__call__` of a Keras loss casts labels to floats, which rounds large integers: ours are called without it.
        if isinstance(loss, losses.FunctionLoss):
            return loss.call(labels, embeddings)
        if not isinstance(loss, losses.MetricLoss):
            return loss(labels, embeddings)
        return loss.call_unseen(labels, embeddings) if unseen else loss.call(labels, embeddings)

    @property
    def memories(self) -> list[Any]:
        """The layers that remember the embeddings of each training batch."""
        return [layer for layer in self.references if hasattr(layer, "update")]

    def penalty(self) -> tf.Tensor | float:
        """Return the sum of the layers' regularization losses, which is added to the metric loss."""
        return tf.add_n(self.losses) if self.losses else 0.0

    def train_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None:
            raise ValueError(
                "Labels are missing. Received: batches of images only. Expected: batches of (images, labels), or "
                "arrays as in `fit(images, labels)`."
            )
        mixed = None
        if self.mixing is not None:
            check_images(self.embedder, images)
            mixed = self.mixing(images, tf.convert_to_tensor(self.steps))
            images = mixed.images
        sample_weight = None if sample_weight is None else ops.gather_batch(sample_weight)
        with tf.GradientTape() as tape:
            embeddings, labels, values = self._embed_and_compare(images, labels)
            loss = _weighted_mean(values, sample_weight)
            if mixed is not None:
                of_partners = self.sample_losses(tf.gather(labels, mixed.partners), embeddings)
                weights = None if sample_weight is None else tf.gather(sample_weight, mixed.partners)
                share = tf.cast(mixed.share, loss.dtype)
                loss = share * loss + (1.0 - share) * _weighted_mean(of_partners, weights)
            loss += tf.cast(self.penalty(), loss.dtype)
            objective = loss
            if self.weight_decay:
                decayed = training_step.decayed_variables(self.embedder)
                objective += tf.cast(training_step.weight_penalty(decayed, self.weight_decay), loss.dtype)
            # Every replica computes the loss of the whole batch, and the optimizers sum over replicas.
            scaled_objective = keras_compat.scale_loss(self.optimizer, objective / ops.replica_count())
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_objective, variables)
        if self.warmup_steps:
            is_over = tf.convert_to_tensor(self.steps) >= self.warmup_steps
            held = training_step.frozen_variables(self.embedder)
            gradients = training_step.mask_gradients(gradients, variables, held, factor=is_over)
        grouped = grouped_variables(self.embedder, self.parameter_groups)
        updates = ScaledUpdates(grouped, self.steps)
        # Follow the optimizer's count: steps that it skips or accumulates do not count.
        before = tf.convert_to_tensor(self.optimizer.iterations)
        training_step.apply_gradients(self.optimizer_groups(), gradients, variables)
        updates.apply()
        self.step_counter.advance(tf.convert_to_tensor(self.optimizer.iterations) - before)
        for layer in self.memories:
            layer.update(ops.check_labels(labels, embeddings, self.relation), embeddings)
        self.loss_tracker.update_state(loss)
        logs = {"loss": self.loss_tracker.result()}
        if self.in_batch_weight and (_names_classes(labels) or not self.relation.names_classes):
            alone = self._alone_tracker.value
            alone.update_state(_share_alone(ops.check_labels(labels, embeddings, self.relation), self.relation))
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
        """Train the embedder, as `keras.Model.fit` does.

        Labels are checked: those of an array immediately, those of a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
        generator when the batch is made.

        Args:
            x: Array of images `(n, height, width, channels)`; or a `tf.data.Dataset`, `keras.utils.PyDataset` or
                generator of batches (images, labels) or (images, labels, weights).
            y: Integer class labels `(n,)`, if `x` is an array. Default `None`.
            batch_size: int. Images per batch, if `x` is an array. `None` means 32. Default `None`.
            epochs: int. Number of the last epoch. Default 1.
            verbose: As for `keras.Model.fit`. Default `"auto"`.
            callbacks: List of `keras.callbacks.Callback`. Default `None`.
            validation_split: float. Share of the arrays to validate on. Prefer `validation_data` with classes that are
                not in the training data. Default 0.
            validation_data: Tuple (images, labels) of arrays, or finite batches. Passed to `evaluate` after each epoch.
                Default `None`.
            *args: Other arguments of `keras.Model.fit`.
            **kwargs: Other arguments of `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: If the model is not compiled, labels are not integers or have no proxy, or the validation
                dataset is endless and `validation_steps` is missing.
            TypeError: If the validation data is a generator, which could be read only once, and there are several
                epochs.

        Warns:
            UserWarning: If most samples have no positive in their batch and there are no references.
        """
        self._check_compiled("fit")
        check = self._label_check()
        if isinstance(x, np.ndarray):
            warn_of_bytes(self.embedder, x[:_BATCH])
        if check is not None:
            x, y = (check.data(x), y) if y is None else (x, check.array(y))
        validation_data = self._checked_validation(validation_data, kwargs.get("validation_steps"))
        if epochs > 1 + (kwargs.get("initial_epoch") or 0) and kwargs.get("validation_steps") is None:
            check_rereadable(validation_data, "Validation data of several epochs")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*tf.nest.flatten(callbacks if callbacks is not None else []), _PositivesWarning()]
        with data_errors():
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, *args, **kwargs
            )

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, return_dict: bool = False, **kwargs: Any) -> Any:
        """Train on one batch, as `keras.Model.train_on_batch` does; return the loss, or a dict of all logs."""
        self._check_compiled("train_on_batch")
        check = self._label_check()
        if check is not None and y is not None:
            y = check.array(y)
        with data_errors():
            logs = super().train_on_batch(x, y, *args, return_dict=True, **kwargs)
        return logs if return_dict else logs["loss"]

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of one batch, as `keras.Model.test_on_batch` does; use `evaluate` for retrieval metrics."""
        self._check_compiled("test_on_batch")
        if y is not None:
            y = self._checked_labels(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def _checked_validation(self, data, steps):
        """Return validation data with checked labels, so that errors do not wait until the end of an epoch."""
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
                "loss)` first. To evaluate without a loss, pass the result of `tfdml.models.embed` to "
                "`tfdml.metrics.retrieval_metrics`."
            )

    def _label_check(self):
        """Return the check of training labels, or `None` for other Keras losses, which may accept any labels."""
        if not self.relation.names_classes:
            return LabelCheck(relation=self.relation) if isinstance(self.metric_loss, losses.MetricLoss) else None
        limits = [
            LabelCheck(layer.num_classes, f"{type(layer).__name__}({layer.num_classes}, …)")
            for layer in [*self.references, self.zero_shot]
            if isinstance(layer, (AttributeRegression, ClassProxies, ZeroShotPrediction))
        ]
        classes = getattr(self.metric_loss, "label_classes", None)
        if classes is not None:
            limits.append(LabelCheck(classes, f"{type(self.metric_loss).__name__}(num_classes={classes}, …)"))
        if limits:
            return min(limits, key=operator.attrgetter("classes"))
        is_ours = isinstance(self.metric_loss, losses.MetricLoss) or self.references
        return LabelCheck() if is_ours else None

    def _embed_and_compare(self, images, labels):
        """Return the embeddings, labels and losses of a training batch, gathered over all replicas."""
        check_images(self.embedder, images)
        attributes, unnormalized = None, None
        if self.cross_batch is not None:
            embeddings, attributes, unnormalized = self._parts.value[0](images, training=True)
        elif self.zero_shot is not None:
            embeddings, attributes = self._attributed_embedder(images, training=True)
        elif self._training_forward is not None:
            embeddings = self._training_forward(images)
        else:
            embeddings = self.embedder(images, training=True)
        labels, embeddings = ops.gather_batch(labels), ops.gather_batch(embeddings)
        values = self.sample_losses(labels, embeddings)
        if attributes is None:
            return embeddings, labels, values
        attributes, own_weight, terms = ops.gather_batch(attributes), 1.0, []
        if self.zero_shot is not None:
            transfer = tf.cast(self.zero_shot(attributes, ops.check_labels(labels, attributes)), values.dtype)
            own_weight -= self.zero_shot_weight
            terms.append(self.zero_shot_weight * transfer)
        if self.cross_batch is not None:
            expressed = self._expressed_losses(attributes, ops.gather_batch(unnormalized), labels)
            own_weight -= self.cross_batch_weight
            terms.append(self.cross_batch_weight * tf.cast(expressed, values.dtype))
        return embeddings, labels, sum(terms, own_weight * values)

    def _expressed_losses(self, attributes, unnormalized, labels):
        """Return the losses of embeddings that are expressed by prototypes of other classes."""
        expressed, is_split = self.cross_batch(attributes, unnormalized, labels)
        normalization = self._parts.value[1]
        values = self.sample_losses(labels, expressed if normalization is None else normalization(expressed))
        return tf.where(is_split, values, tf.zeros_like(values))

    def test_step(self, data: Any) -> dict[str, Any]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        embeddings = ops.gather_batch(tf.cast(self.embedder(images, training=False), tf.float32))
        weight = None if sample_weight is None else ops.gather_batch(sample_weight)
        loss = self._score(embeddings, ops.gather_batch(labels), weight)
        self.loss_tracker.update_state(loss)
        return self.step_logs({"loss": self.loss_tracker.result()})

    def _score(self, embeddings, labels, sample_weight=None):
        # Classes unseen in training have no references, so only the loss within the batch is computed.
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
        """Embed a dataset and compute its loss and exact retrieval metrics.

        Args:
            x: Array of images `(n, height, width, channels)`; or a finite `tf.data.Dataset`, `keras.utils.PyDataset`
                or other iterable of batches (images, labels). To search queries in a separate gallery rather than among
                all other images, use labels that are a dict of `"label"` and `"is_query"`, a bool per image.
            y: Integer class labels `(n,)`, if `x` is an array. Default `None`.
            batch_size: int. Images per batch, if `x` is an array. `None` means 32. Default `None`.
            verbose: 0 for no progress bar. Default `"auto"`.
            sample_weight: float array `(n,)`. Weights of the samples in the loss, if `x` is an array; retrieval is not
                weighted. Default `None`.
            steps: int. Number of batches to evaluate; required for an endless dataset. `None` means all. Default
                `None`.
            callbacks: List of `keras.callbacks.Callback`. Default `None`.
            return_dict: bool. Return a dict instead of a list. Default `False`.
            **kwargs: Internal arguments of Keras' `fit`; all others are rejected.

        Returns:
            `loss` (the mean of the loss within each batch), the retrieval metrics `map_at_r`, `precision_at_1`,
            `r_precision`, `recall_at_1`, `recall_at_2`, `recall_at_4` and `recall_at_8` (or the `metrics` of
            `compile`), and geometry metrics if `compile(geometry=True)`: a dict, or a list in the order of
            `metrics_names`. Metrics are NaN if an embedding is not finite, for example after training diverged.

        Raises:
            ValueError: If the model is not compiled, the dataset is empty or endless, labels are missing or not
                integers (or not what the relation compares), or an image contains NaN or infinity.
        """
        self._check_compiled("evaluate")
        from_fit = keras_compat.pop_call_from_fit(kwargs)
        unknown = sorted(set(kwargs) - {"max_queue_size", "use_multiprocessing", "workers"})
        if unknown:
            raise TypeError(f"Unknown arguments of evaluate. Received: {unknown}.")
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
        """Embed and score this worker's share of the batches; return the whole dataset in its original order."""
        if self._evaluation_functions is None:
            # Separate from the graph of `embed_batch`: batches of other shapes would retrace it with relaxed shapes,
            # and a resumed training run, which has not seen them, would then round differently.
            score = self._score if self.run_eagerly else tf.function(self._score, reduce_retracing=True)
            self._evaluation_functions = inference_function(self.embedder, self.workers, self.run_eagerly), score
        embed_batch, score = self._evaluation_functions
        mine = itertools.takewhile(lambda numbered: steps is None or numbered[0] < steps, self.workers.share(batches))
        parts = []
        for number, batch in checked_batches(mine):
            if batch.labels is None:
                raise ValueError(
                    "Evaluation needs labels. Received: a dataset of images without labels. Expected: batches of "
                    "(images, labels)."
                )
            callbacks.on_test_batch_begin(number)
            labels = self._checked_labels(batch.labels)
            embeddings = embed_batch(batch.images)
            loss = score(embeddings, tf.convert_to_tensor(labels), batch.weights)
            labels = np.asarray(labels)
            labels = labels.reshape(-1) if self.relation.names_classes else labels
            parts.append(EmbeddedBatch(number, np.asarray(embeddings), labels, batch.is_query, float(loss)))
            callbacks.on_test_batch_end(number, {"loss": mean_loss(parts)})
        return collect(parts, self.workers)

    def _evaluation_logs(self, embedded):
        """Return the logs of an embedded dataset, identical on all workers."""
        embeddings, labels = embedded.embeddings, embedded.labels
        logs = {"loss": embedded.loss}
        relation = None if self.relation.names_classes else self.relation
        logs.update(
            retrieval_logs(embeddings, labels, embedded.is_query, self.workers, self._retrieval_names, relation)
        )
        if self.geometry:
            logs.update(self._geometry_logs(embeddings, labels))
        if self.workers.count > 1:
            # Workers must make the same decisions, so rounding differences between processors must not matter.
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
        if not self.relation.names_classes:
            return LabelCheck(relation=self.relation).array(labels)
        # Other Keras losses may accept other labels.
        return LabelCheck().array(labels) if isinstance(self.metric_loss, losses.MetricLoss) else labels

    def _geometry_logs(self, embeddings, labels):
        logs, complaint = geometry_logs(embeddings, labels, getattr(self.metric_loss, "margin_requirements", None))
        # At the start of training, embeddings have not spread yet: a single violation is not a problem.
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
            "cross_batch": None if self.cross_batch is None else keras.saving.serialize_keras_object(self.cross_batch),
            "cross_batch_weight": self.cross_batch_weight,
        }

    @classmethod
    def from_config(cls, config: Config) -> MetricModel:
        config = dict(config)
        for part in ("embedder", "zero_shot", "cross_batch"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        # Earlier versions stored a single layer instead of a list.
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
            "mixing": None if self.mixing is None else keras.saving.serialize_keras_object(self.mixing),
            "gradient_checkpointing": self.gradient_checkpointing,
            **self._relation_config(),
            **self._fit_options,
        }

    def _relation_config(self):
        if self.relation.names_classes:
            return {}
        return {"relation": keras.saving.serialize_keras_object(self.relation)}

    def compile_from_config(self, config: Config) -> None:
        config = dict(config)
        for part in ("optimizer", "loss", "reference_optimizer", "mixing", "relation"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        self.compile(**config)
        self.build_optimizers()


_PATIENCE_WITH_MARGINS = 3
# Images of an array that are looked at before training.
_BATCH = 32
# Log name of the share of samples that are the only one of their class in their batch.
_ALONE = "anchors_without_positive"
_FIT_OPTIONS = ("run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss")


def _as_tuple(references):
    """Return references, given as a layer, several layers or `None`, as a tuple."""
    if references is None:
        return ()
    return tuple(references) if isinstance(references, (list, tuple)) else (references,)


def _weighted_mean(values, sample_weight):
    values = tf.convert_to_tensor(values)
    if sample_weight is not None:
        values *= tf.reshape(tf.cast(sample_weight, values.dtype), (-1,))
    return tf.reduce_mean(values)


def _names_classes(labels):
    """Return whether labels are one class index per sample; other Keras losses may accept other labels."""
    labels = tf.convert_to_tensor(labels)
    is_column = labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[1] == 1)
    return is_column and labels.dtype.is_integer


def _share_alone(labels, relation):
    """Return the share of samples that have no positive in the batch."""
    if not relation.names_classes:
        positives, _ = related_masks(labels, relation)
        return 1.0 - tf.reduce_mean(tf.cast(tf.reduce_any(positives, axis=1), tf.float32))
    of_class = tf.reduce_sum(tf.cast(labels[:, None] == labels[None, :], tf.int32), axis=1)
    return tf.math.divide_no_nan(
        tf.cast(tf.math.count_nonzero(of_class == 1), tf.float32), tf.cast(tf.size(labels), tf.float32)
    )


class _Untracked:
    """Hides a metric from the model's saved state, because files of earlier versions do not contain it."""

    def __init__(self, value):
        self.value = value


class _PositivesWarning(keras.callbacks.Callback):
    """Warns once if most samples of the training batches have no positive."""

    def on_epoch_end(self, epoch, logs=None):
        share = (logs or {}).get(_ALONE, 0.0)
        if share <= 0.5 or self.model.references or self.model._has_warned_of_positives:
            return
        self.model._has_warned_of_positives = True
        if not self.model.relation.names_classes:
            warnings.warn(
                f"{share:.0%} of the samples have no positive in their batch and no references to compare with, so the "
                f"loss hardly trains on them. Received: batches drawn without regard to {self.model.relation!r}. "
                "Expected: batches with positives. Make them with `tfdml.data.related_batches`, or add a reference "
                "such as `CrossBatchMemory`.",
                stacklevel=2,
            )
            return
        warnings.warn(
            f"{share:.0%} of the samples have no other sample of their class in their batch and no references to "
            "compare with, so the loss hardly trains on them. Received: batches drawn without regard to classes. "
            "Expected: at least two samples per class in a batch. Make batches with `tfdml.data.balanced_batches`, or "
            "add references such as `ClassProxies` or `CrossBatchMemory`.",
            stacklevel=2,
        )
