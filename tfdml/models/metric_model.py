"""Training an embedder by a metric-learning loss, judged by exact retrieval metrics."""

import keras
import numpy as np
import tensorflow as tf

from tfdml import losses
from tfdml.metrics import retrieval_metrics


@keras.saving.register_keras_serializable(package="tfdml")
class MetricModel(keras.Model):
    """Trains an embedder with `fit` and judges it by exact retrieval metrics.

    A training step embeds the batch and scores it by the loss against the references: the batch itself, or what
    `references` gives. Labels stay the integers they are.

    `evaluate`, and with it `fit(validation_data=…)`, embeds the whole set and compares every sample with every
    other: `val_map_at_r` and its like are in the logs of every Keras callback.

    Args:
        embedder: A model from images to embeddings `(batch, dim)`, as `build_embedder` gives.
        references: A layer that gives `References` when called, such as `ClassProxies`; `None` compares each batch
            with itself.

    Example:
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile(optimizer="adam", loss="c2")
        >>> data = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.array([0, 0, 1, 1, 2, 2, 3, 3])
        >>> history = model.fit(*data, validation_data=data, verbose=0)
        >>> sorted(history.history)[:3]
        ['loss', 'val_loss', 'val_map_at_r']
    """

    def __init__(self, embedder, references=None, **kwargs):
        super().__init__(**kwargs)
        self.embedder = embedder
        self.references = references
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def compile(self, optimizer="adam", loss="c2", **kwargs):
        """Prepares training.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: A name of `tfdml.losses.loss_names()`, a `MetricLoss`, or any Keras loss of (labels, embeddings), such
                as those of TensorFlow Addons; the latter only without `references`.
            **kwargs: As for `keras.Model.compile`: `jit_compile`, `run_eagerly`, `steps_per_execution`, …

        Raises:
            ValueError: If the loss cannot be scored against references, or metrics are given: `evaluate` has its own.
        """
        if kwargs.get("metrics") or kwargs.get("weighted_metrics"):
            raise ValueError(
                "MetricModel judges embeddings by its own retrieval metrics. Received: metrics; expected none."
            )
        loss = losses.get(loss)
        if self.references is not None and not isinstance(loss, losses.MetricLoss):
            raise ValueError(
                f"Only losses of tfdml can be scored against references. Received: {type(loss).__name__} with "
                f"references {type(self.references).__name__}; leave out the references or use a tfdml loss."
            )
        super().compile(optimizer=optimizer, **kwargs)
        self.metric_loss = loss
        self._evaluation_function = None

    @property
    def metrics(self):
        return [self.loss_tracker]

    def call(self, inputs, training=False):
        return self.embedder(inputs, training=training)

    def sample_losses(self, labels, embeddings):
        """The metric loss of each sample of a training batch.

        Args:
            labels: Integer class labels, `(batch,)`.
            embeddings: `(batch, dim)`.

        Returns:
            `(batch,)`; a scalar for a Keras loss that is none of this package.
        """
        if self.references is None:
            return self._in_batch_losses(labels, embeddings)
        return self.metric_loss.against(embeddings, labels, self.references())

    def _in_batch_losses(self, labels, embeddings):
        loss = self.metric_loss
        # Other losses of Keras reduce for themselves when they are called; ours would lose digits of the labels.
        return loss.call(labels, embeddings) if isinstance(loss, losses.MetricLoss) else loss(labels, embeddings)

    def penalty(self):
        """What is added to the metric loss: the regularisation losses of the layers."""
        return tf.add_n(self.losses) if self.losses else 0.0

    def train_step(self, data):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            embeddings = self.embedder(images, training=True)
            loss = _weighted_mean(self.sample_losses(labels, embeddings), sample_weight)
            loss += tf.cast(self.penalty(), loss.dtype)
            scaled_loss = _scale_loss(self.optimizer, loss)
        variables = self.trainable_variables
        gradients = _unscale_gradients(self.optimizer, tape.gradient(scaled_loss, variables))
        self.optimizer.apply_gradients(zip(gradients, variables))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _, loss = self._embed_and_score(images, labels, sample_weight)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def _embed_and_score(self, images, labels, sample_weight=None):
        # Other classes than those of the training have no references: what is judged is the batch by itself.
        embeddings = tf.cast(self.embedder(images, training=False), tf.float32)
        return embeddings, _weighted_mean(self._in_batch_losses(labels, embeddings), sample_weight)

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Embeds a set and gives its loss and its exact retrieval metrics.

        Args:
            x: Images, or a finite `tf.data.Dataset` (or another iterable) of batches (images, labels).
            y: Integer class labels, for images in an array.
            batch_size: For an array; 32 by default.
            verbose: 0 for no progress bar.
            sample_weight: Weights of the samples in the loss, for an array; retrieval is not weighted.
            steps: How many batches to take; all by default.
            callbacks: Keras callbacks.
            return_dict: Whether to return a dict rather than a list.
            **kwargs: Only what Keras' `fit` passes.

        Returns:
            `loss` (each batch scored by itself), `map_at_r`, `precision_at_1`, `r_precision`, `recall_at_1`,
            `recall_at_2`, `recall_at_4`, `recall_at_8`: as a dict, or as a list in this order. Embeddings that are
            not finite have metrics NaN.
        """
        from_fit = kwargs.pop("_use_cached_eval_dataset", False)
        unknown = sorted(set(kwargs) - {"max_queue_size", "use_multiprocessing", "workers"})
        if unknown:
            raise TypeError(f"evaluate does not take these arguments. Received: {unknown}.")
        batches = _as_batches(x, y, sample_weight, batch_size or 32)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            show = verbose not in (0, "0") and not from_fit
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=show, verbose=1 if verbose == "auto" else verbose, epochs=1,
                steps=steps or _cardinality(batches), model=self,
            )  # fmt: skip
        if self._evaluation_function is None:
            step = self._embed_and_score
            self._evaluation_function = step if self.run_eagerly else tf.function(step, reduce_retracing=True)
        embeddings, all_labels, mean_loss = [], [], keras.metrics.Mean()
        callbacks.on_test_begin()
        for index, batch in enumerate(batches):
            if steps is not None and index >= steps:
                break
            callbacks.on_test_batch_begin(index)
            images, labels, weight = keras.utils.unpack_x_y_sample_weight(batch)
            if labels is None:
                raise ValueError("Retrieval is judged by labels. Received: a data set of images without labels.")
            batch_embeddings, loss = self._evaluation_function(images, tf.convert_to_tensor(labels), weight)
            mean_loss.update_state(loss, sample_weight=len(batch_embeddings))
            embeddings.append(np.asarray(batch_embeddings))
            all_labels.append(np.asarray(labels).reshape(-1))
            callbacks.on_test_batch_end(index, {"loss": float(mean_loss.result())})
        if not embeddings:
            raise ValueError("There is nothing to evaluate. Received: a data set without a batch.")
        logs = {"loss": float(mean_loss.result())}
        logs.update(_retrieval_logs(np.concatenate(embeddings), np.concatenate(all_labels)))
        callbacks.on_test_end(logs)
        return logs if return_dict else list(logs.values())

    def get_config(self):
        return {
            "name": self.name,
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "references": keras.saving.serialize_keras_object(self.references) if self.references is not None else None,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for part in ("embedder", "references"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part])
        return cls(**config)

    def get_compile_config(self):
        if not hasattr(self, "metric_loss"):
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "loss": keras.saving.serialize_keras_object(self.metric_loss),
        }

    def compile_from_config(self, config):
        self.compile(
            optimizer=keras.saving.deserialize_keras_object(config["optimizer"]),
            loss=keras.saving.deserialize_keras_object(config["loss"]),
        )
        self.optimizer.build(self.trainable_variables)


RECALLS = (1, 2, 4, 8)
RETRIEVAL_LOGS = ("map_at_r", "precision_at_1", "r_precision", *(f"recall_at_{k}" for k in RECALLS))


def _retrieval_logs(embeddings, labels):
    if not np.isfinite(embeddings).all():
        return dict.fromkeys(RETRIEVAL_LOGS, float("nan"))
    values = retrieval_metrics(embeddings, labels, ks=RECALLS)
    return {name: float(values[name]) for name in RETRIEVAL_LOGS}


def _weighted_mean(values, sample_weight):
    values = tf.convert_to_tensor(values)
    if sample_weight is not None:
        values *= tf.reshape(tf.cast(sample_weight, values.dtype), (-1,))
    return tf.reduce_mean(values)


def _as_batches(x, y, sample_weight, batch_size):
    if y is None:
        return x
    arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)


def _cardinality(batches):
    try:
        return len(batches)
    except TypeError:
        return None


def _scale_loss(optimizer, loss):
    """Loss scaling under mixed_float16: Keras 3 spells it scale_loss, Keras 2 get_scaled_loss."""
    if hasattr(optimizer, "scale_loss"):
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss


def _unscale_gradients(optimizer, gradients):
    """Keras 3 unscales while it applies the gradients, Keras 2 wants it done before."""
    return optimizer.get_unscaled_gradients(gradients) if hasattr(optimizer, "get_unscaled_gradients") else gradients
