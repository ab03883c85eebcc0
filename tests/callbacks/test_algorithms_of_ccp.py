"""Algorithms 1 and 2 of the thesis, whole, against a second writing of them in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import callbacks, layers, models

RATE, BATCH, PER_CLASS, POOL, MARGIN, STEPS_PER_VALIDATION = 0.1, 32, 3, 7, 0.5, 5
# With a patience of 1 problems end after validations 2 and 4: 25 steps in three problems, of ten, ten and five.
VALIDATIONS = [0.5, 0.4, 0.6, 0.3, 0.7]


class Numpy:
    """CCP of a linear embedder x = zW with C2: the gradient of every pair written out."""

    def __init__(self, kernel, points, labels, strength, in_batch_weight, decay):
        self.kernel, self.anchor = kernel.astype(np.float64), kernel.astype(np.float64)
        self.points, self.labels = points.astype(np.float64), labels
        self.strength, self.in_batch_weight, self.decay = strength, in_batch_weight, decay
        self.problem = 0
        self.proxies = None

    def choose(self, given):
        """Algorithm 2 for every class."""
        chosen = []
        for label in range(4):
            pool = (self.points @ self.kernel)[self.labels == label][:POOL]
            centres, taken = ([] if given is None else list(given[label])), []
            for _ in range(PER_CLASS):
                far = [
                    -1 if i in taken else min((np.linalg.norm(p - c) for c in centres), default=np.inf)
                    for i, p in enumerate(pool)
                ]
                taken.append(int(np.argmax(far)))
                centres.append(pool[taken[-1]])
            chosen.append(pool[taken])
        self.proxies = np.array(chosen)

    def pair_gradients(self, x, labels, references, reference_labels, skip_itself):
        """Gradients by both sides of the C2 loss: means over the violating pairs of [d]+ and of [m - d]+."""
        of_x, of_references = np.zeros_like(x), np.zeros_like(references)
        for positive in (True, False):
            pairs = []
            for i in range(len(x)):
                for j in range(len(references)):
                    if (labels[i] == reference_labels[j]) != positive or (skip_itself and i == j):
                        continue
                    distance = np.linalg.norm(x[i] - references[j])
                    if (distance if positive else MARGIN - distance) > 0:
                        pairs.append((i, j, (x[i] - references[j]) / distance * (1 if positive else -1)))
            for i, j, direction in pairs:
                of_x[i] += direction / len(pairs)
                of_references[j] -= direction / len(pairs)
        return of_x, of_references

    def step(self, batch):
        z, labels = self.points[batch], self.labels[batch]
        x = z @ self.kernel
        flat, flat_labels = self.proxies.reshape(-1, 2), np.repeat(np.arange(4), PER_CLASS)
        of_x, of_proxies = self.pair_gradients(x, labels, flat, flat_labels, skip_itself=False)
        if self.in_batch_weight:
            as_samples, as_references = self.pair_gradients(x, labels, x, labels, skip_itself=True)
            of_x = of_x + self.in_batch_weight * (as_samples + as_references)
        gradient = z.T @ of_x
        if self.problem:
            gradient += self.strength * self.decay ** (self.problem - 1) * (self.kernel - self.anchor)
        self.kernel = self.kernel - RATE * gradient
        self.proxies = self.proxies - RATE * of_proxies.reshape(self.proxies.shape)

    def train(self, validations, patience=1):
        """Algorithm 1. Gives the weights and the proxies at every validation, and the proxies of every problem."""
        self.choose(given=None)
        trace, chosen, best, best_value, wait, number = [], [self.proxies], None, -np.inf, 0, 0
        for value in validations:
            for _ in range(STEPS_PER_VALIDATION):
                self.step(np.arange(number * BATCH, (number + 1) * BATCH) % len(self.points))
                number += 1
            trace.append((self.kernel, self.proxies))
            if value > best_value:
                best, best_value, wait = (self.kernel, self.proxies), value, 0
                continue
            wait += 1
            if wait == patience:
                self.kernel, solved = best
                self.anchor = self.kernel
                self.choose(given=solved)
                chosen.append(self.proxies)
                self.problem += 1
                best_value, wait = -np.inf, 0
        return trace, chosen


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.trace, self.chosen = [], []

    def on_epoch_begin(self, epoch, logs=None):
        if int(self.model.projection) == len(self.chosen):
            self.chosen.append(np.asarray(self.model.proxies.proxies).copy())

    def on_epoch_end(self, epoch, logs=None):
        self.trace.append((self.model.embedder.get_weights()[0].copy(), np.asarray(self.model.proxies.proxies).copy()))
        logs["val_map_at_r"] = VALIDATIONS[epoch]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("strength", "in_batch_weight", "decay", "jit_compile"),
    [
        (0.5, 0.0, 1.0, False),
        (0.5, 0.3, 0.5, True),
        (0.0, 0.0, 1.0, False),
    ],
)
def test_weights_and_proxies_of_25_steps_in_three_problems(
    blobs, linear_embedder, strength, in_batch_weight, decay, jit_compile
):
    points, labels = blobs
    proxies = layers.ClassProxies(4, PER_CLASS, embedding_size=2)
    model = models.CCPModel(linear_embedder(), proxies, strength, in_batch_weight, projection_decay=decay)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss="c2", jit_compile=jit_compile)
    watch = Watch()
    projections = callbacks.AlternatingProjections(
        tf.data.Dataset.from_tensor_slices((points, labels)).batch(10), pool_size=POOL, patience=1
    )
    batches = tf.data.Dataset.from_tensor_slices((points, labels)).repeat().batch(BATCH)
    model.fit(batches, steps_per_epoch=STEPS_PER_VALIDATION, epochs=5, verbose=0, callbacks=[watch, projections])

    reference = Numpy(linear_embedder().get_weights()[0], points, labels, strength, in_batch_weight, decay)
    trace, chosen = reference.train(VALIDATIONS)
    assert len(chosen) == len(watch.chosen) == 3
    for ours, theirs in zip(watch.chosen, chosen):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    for (kernel, of_classes), (expected, expected_proxies) in zip(watch.trace, trace):
        np.testing.assert_allclose(kernel, expected, atol=2e-4)
        np.testing.assert_allclose(of_classes, expected_proxies, atol=2e-4)
    assert np.abs(trace[-1][0] - trace[0][0]).max() > 0.02


@pytest.mark.parametrize(
    "how", [{"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=pytest.mark.integration)]
)
def test_one_problem_of_fixed_proxies_is_plain_proxy_training(blobs, linear_embedder, how):
    """Exactly, with the callback and with any pull: the first problem has none."""
    everything = tf.data.Dataset.from_tensor_slices(blobs).batch(32)
    first = Numpy(linear_embedder().get_weights()[0], *blobs, 0.0, 0.0, 1.0)
    first.choose(given=None)
    ends = []
    for strength in (None, 0.0, 10.0):
        proxies = layers.ClassProxies(4, PER_CLASS, embedding_size=2)
        if strength is None:
            model = models.MetricModel(linear_embedder(), proxies)
            projections = []
        else:
            model = models.CCPModel(linear_embedder(), proxies, strength)
            projections = [callbacks.AlternatingProjections(everything, pool_size=POOL, patience=100)]
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss="c2", **how)
        start = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs, proxies=proxies: proxies.assign(first.proxies.astype("float32"))
        )
        history = model.fit(
            everything, epochs=3, verbose=0, validation_data=everything, callbacks=[*projections, start]
        ).history
        ends.append([*model.embedder.get_weights(), np.asarray(proxies.proxies), history["loss"]])
    for other in ends[1:]:
        for ours, theirs in zip(ends[0], other):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.integration
def test_the_stronger_the_pull_the_nearer_to_the_last_solution(blobs, linear_embedder):
    changes = []
    everything = tf.data.Dataset.from_tensors(blobs).repeat()
    for strength in (0.0, 1.0, 10.0, 100.0, 1000.0):
        model = models.CCPModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2), strength)
        model.proxies.assign(np.random.default_rng(0).normal(size=(4, 1, 2)).astype("float32"))
        model.compile(optimizer=keras.optimizers.SGD(1e-3), loss="c2", jit_compile=False)
        model.begin_projection(np.asarray(model.proxies.proxies))
        model.fit(everything, steps_per_epoch=75, verbose=0)
        changes.append(model.weight_change())
    assert all(after < before for before, after in zip(changes, changes[1:]))
    # Where the pull rules, the distance goes as 1/λ: at λ → ∞ the weights stay at θ*.
    assert changes[-1] == pytest.approx(changes[-2] / 10, rel=0.2)
    assert changes[-1] < 0.02 * changes[0]
