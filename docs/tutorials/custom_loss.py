# %% [markdown]
# # A custom loss in a recipe
#
# Write a loss, register it, use its name in a recipe, train it with three seeds, and put the runs into a table next to
# a loss of the package. [Your own parts](../your-parts.md) explains the registries.
#
# ## The loss
#
# A subclass of `MetricLoss` states its formula once, in `compare`, and works in a batch, against class proxies and
# against a memory. This one compares the mean distance $\bar d_{i+}$ of a sample to its positives with the mean
# distance $\bar d_{i-}$ to its negatives:
#
# $$\ell_i = \log \big( 1 + e^{s (\bar d_{i+} - \bar d_{i-})} \big)$$
#
# A recipe names its parts, so they are in a file that can be imported. The file also registers a small backbone, with
# which this notebook runs in a minute.

# %%
import importlib
import pathlib
import sys

import yaml

from tfdml import losses
from tfdml.experiments import load_recipe
from tfdml.experiments.queue import run_all, with_seeds
from tfdml.experiments.tables import tables_main

pathlib.Path("my_parts.py").write_text('''
import keras
import tensorflow as tf

from tfdml import backbones, losses, ops


@losses.register("mean_gap")
class MeanGapLoss(losses.MetricLoss):
    """Softplus of the difference between the mean distances to positives and to negatives."""

    def __init__(self, scale=4.0, name="mean_gap", **kwargs):
        super().__init__(name, **kwargs)
        self.scale = scale

    def compare(self, pairs):
        distances = ops.pairwise_distances(pairs.embeddings, pairs.references.embeddings)
        positive = ops.masked_mean(distances, pairs.positives)
        negative = ops.masked_mean(distances, pairs.negatives)
        has_both = tf.reduce_any(pairs.positives, 1) & tf.reduce_any(pairs.negatives, 1)
        return tf.where(has_both, tf.nn.softplus(self.scale * (positive - negative)), 0.0)


@backbones.register("three_convolutions")
def three_convolutions(input_shape, filters=32):
    layers = [keras.layers.Conv2D(filters, 3, strides=2, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input(input_shape), *layers])
''')

sys.path.insert(0, ".")
importlib.import_module("my_parts")
print(float(losses.get("mean_gap", scale=1.0)([0, 0, 1, 1], [[0.0], [0.5], [2.0], [3.0]])))

# %% [markdown]
# ## The recipes
#
# A recipe is a YAML file that changes what its `base` says. `gap` trains on images of characters, with average pooling
# and the loss inside the batch. These recipes use fewer characters, the small backbone and few steps. The two files
# differ only in the loss.

# %%
ranges = [("0", "9"), ("A", "Z"), ("a", "z"), ("Α", "ω"), ("А", "я")]
characters = "".join(chr(code) for first, last in ranges for code in range(ord(first), ord(last) + 1))
recipe = {
    "base": "gap",
    "data": {"size": 28, "options": {"characters": characters}},
    "model": {"backbone": "three_convolutions", "normalization": "l2"},
    "training": {"steps_per_validation": 30, "max_validations": 5},
    "evaluation": {"figures": False},
}
for loss in ("mean_gap", "triplet"):
    pathlib.Path(f"{loss}.yaml").write_text(yaml.safe_dump({**recipe, "loss": {"name": loss}}))

# %% [markdown]
# ## Three seeds
#
# One run says little about a difference: runs that differ only in the seed often lie as far apart as two methods.
# `with_seeds` copies a recipe for each seed, and `run_all` trains all of them. On the command line this is
# `tfdml-train mean_gap.yaml --import my_parts.py --seeds 0,1,2 --out runs/mean_gap`.

# %%
for loss in ("mean_gap", "triplet"):
    results, errors = run_all(with_seeds(load_recipe(f"{loss}.yaml"), [0, 1, 2]), f"runs/{loss}", verbose=0)
    assert not errors, errors
    print(loss, {seed: round(result.test["map_at_r"], 3) for seed, result in results.items()})

# %% [markdown]
# ## The table
#
# `tfdml-table` puts runs that differ only in their seeds into one row, as mean ± standard deviation over the seeds:

# %%
exit_code = tables_main(["runs"])

# %% [markdown]
# Compare the difference of the means with the deviations before you call one loss better. Note that a comparison of
# losses with one learning rate is also a comparison of how well that learning rate suits them.
#
# ## Next steps
#
# - [Losses](../losses.md): the losses of the package with their defaults.
# - [Run folders](../runs.md): what a run leaves, and how to resume and prolong it.
