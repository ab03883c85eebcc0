"""Why proxy losses collapse: in a deep network that changes fast, nothing keeps the embeddings of a batch apart.

python -m pytest tests/callbacks/test_proxy_losses_collapse.py -m integration -s
"""

import keras
import numpy as np
import pytest

from tfdml import layers, models
from tfdml.metrics import interclass_distance

CLASSES, UNSEEN, STEPS = 400, 60, 200


def train(multiplier=100.0, in_batch_weight=None, backbone=1.0, learning_rate=1e-3, clipnorm=10.0, warmup_steps=0):
    """Return distance between unseen classes and MAP@R after Proxy-Anchor with 400 classes, 8 of them in a batch."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES + UNSEEN, 64))

    def draw(labels):
        return (centers[labels] + 0.7 * rng.normal(size=(len(labels), 64))).astype("float32")

    inputs = features = keras.Input((64,))
    for _ in range(6):
        features = keras.layers.Dense(256, activation="relu", kernel_initializer="he_normal")(features)
    outputs = layers.L2Normalization()(keras.layers.Dense(64, name="embedding")(features))
    proxies = layers.ClassProxies(CLASSES, embedding_size=64)
    model = models.MetricModel(keras.Model(inputs, outputs), proxies, in_batch_weight=in_batch_weight)
    model.compile(
        keras.optimizers.Adam(learning_rate, global_clipnorm=clipnorm), "proxy_anchor",
        reference_optimizer=keras.optimizers.Adam(multiplier * learning_rate, global_clipnorm=clipnorm),
        parameter_groups=None if backbone == 1.0 else [models.ParameterGroup("backbone", backbone)],
        warmup_steps=warmup_steps, jit_compile=False,
    )  # fmt: skip
    batches = [np.repeat(rng.choice(CLASSES, 8, replace=False), 4) for _ in range(STEPS)]
    labels = np.concatenate(batches)
    unseen = np.repeat(np.arange(CLASSES, CLASSES + UNSEEN), 6)
    model.fit(draw(labels), labels, batch_size=32, shuffle=False, verbose=0)
    samples = draw(unseen)
    distance = float(interclass_distance(models.embed(model.embedder, samples), unseen))
    return distance, model.evaluate(samples, unseen, verbose=0, return_dict=True)["map_at_r"]


@pytest.mark.slow
def test_what_prevents_the_collapse():
    variants = {
        "learning rate 1e-3, proxies x100": {},
        "proxies x10": {"multiplier": 10.0},
        "no clipping": {"clipnorm": None},
        "backbone frozen for 100 steps": {"warmup_steps": 100},
        "backbone x0.1": {"backbone": 0.1},
        "backbone x0.01": {"backbone": 0.01},
        "learning rate 1e-4": {"learning_rate": 1e-4},
        "with the loss inside the batch": {"in_batch_weight": 1.0},
    }
    found = {name: train(**options) for name, options in variants.items()}
    for name, (distance, map_at_r) in found.items():
        print(f"{name:34} distance {distance:.3f}  MAP@R {map_at_r:.3f}")
    collapsed = ["learning rate 1e-3, proxies x100", "proxies x10", "no clipping", "backbone frozen for 100 steps"]
    assert all(found[name][0] < 0.1 for name in collapsed)
    assert min(found[name][0] for name in found if name not in collapsed) > 0.1
    assert max(found, key=lambda name: found[name][1]) == "with the loss inside the batch"
    assert min(found["backbone x0.01"][1], found["learning rate 1e-4"][1]) > max(found[name][1] for name in collapsed)
