# %% [markdown]
# # GSP instead of average pooling
#
# `GeneralizedSumPooling` (GSP) replaces `GlobalAveragePooling2D` in any Keras model: same input, same output shape.
# This notebook swaps the layer in a small classifier, and draws which parts of an image it pools.
# [Generalized sum pooling](../gsp.md) explains the method and its options.
#
# ## Images with something to ignore
#
# Each image is a collage of four tiles. One tile is a digit, which gives the class; three are letters, which mean
# nothing. Average pooling gives all four the same weight.

# %%
# %matplotlib inline
import keras
import numpy as np
import tensorflow as tf

from tfdml import data, layers, models, plots

keras.utils.set_random_seed(0)
letters = data.load("glyphs", characters="abdefghknrt", min_typefaces=12)
collages = data.Collages(data.load("digits"), letters, tile=16, per_target=2, seed=0)
images, labels = collages.images.astype("float32") / 255, collages.labels
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:2800], order[2800:]
print(images.shape, "test images:", len(test))

# %% [markdown]
# ## The model, twice
#
# The two models differ in one layer.

# %%


def make_classifier(pooling):
    inputs = keras.Input((32, 32, 1))
    x = inputs
    for filters, strides in ((32, 2), (64, 1), (64, 2)):
        x = keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    features = keras.layers.Conv2D(64, 1, name="features")(x)
    outputs = keras.layers.Dense(10)(pooling(features))
    return keras.Model(inputs, outputs)


average = make_classifier(keras.layers.GlobalAveragePooling2D())
gsp = make_classifier(layers.GeneralizedSumPooling(prototypes=16, ratio=0.3, smoothing=10.0, name="pooling"))
print("feature map:", gsp.get_layer("features").output.shape, "pooled:", gsp.get_layer("pooling").output.shape)

# %% [markdown]
# ## Let the prototypes start from real features
#
# The prototypes of GSP start at random directions, which may be far from every feature. `adapt` chooses them from local
# features of the data, so that they cover these. The network starts from random weights, so the statistics of its batch
# normalization are set first.

# %%
some = tf.data.Dataset.from_tensor_slices(images[train[:512]]).batch(64)
models.calibrate_batch_norm(gsp, some)
extract = keras.Model(gsp.input, gsp.get_layer("features").output)
gsp.get_layer("pooling").adapt(extract.predict(images[train[:256]], verbose=0))

# %% [markdown]
# ## Train both

# %%
accuracies = {}
for name, model in {"average pooling": average, "GSP": gsp}.items():
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images[train], labels[train], batch_size=64, epochs=5, verbose=0)
    accuracies[name] = model.evaluate(images[test], labels[test], verbose=0, return_dict=True)["accuracy"]
    print(f"{name}: test accuracy {accuracies[name]:.3f}")

# %% [markdown]
# This is one run of each on a small task, so do not read a ranking out of it. The
# [study on collages](../studies/collage.md) compares the poolings on unseen classes, with several seeds.
#
# ## What is pooled
#
# `pooling_weights` gives the weight of each location of the feature map. They sum to 1; with average pooling each has
# the weight 1 / (h · w). The figure shows the ratio to that weight: more than 1 is pooled more strongly, 0 is ignored.

# %%
shown = test[:8]
weights = gsp.get_layer("pooling").pooling_weights(extract.predict(images[shown], verbose=0))
plots.pooling_maps(images[shown], np.asarray(weights), names=[collages.class_names[label] for label in labels[shown]])

# %% [markdown]
# The share of the weight on the tile of the digit, over all test images; average pooling has 0.25:

# %%
weights = np.asarray(gsp.get_layer("pooling").pooling_weights(extract.predict(images[test], verbose=0)))
side = weights.shape[1] // 2
tiles = weights.reshape(len(test), 2, side, 2, side).sum(axis=(2, 4)).reshape(len(test), 4)
print(f"weight on the digit: {tiles[np.arange(len(test)), collages.places[test]].mean():.2f}")

# %% [markdown]
# ## In an embedder
#
# `build_embedder` takes the pooling by name, and `adapt_pooling` does what the cells above do by hand:

# %%
embedder = models.build_embedder(
    "resnet20", pooling="gsp", pooling_options={"prototypes": 16}, embedding_size=64, input_shape=(32, 32, 1)
)
models.calibrate_batch_norm(embedder, some.take(2))
models.adapt_pooling(embedder, some.take(2))
print(models.pooling_maps(embedder, images[:4]).shape)

# %% [markdown]
# ## Next steps
#
# - [Generalized sum pooling](../gsp.md): options, the zero-shot loss, and what the layer costs.
# - [Poolings](../poolings.md): 18 poolings, each of them a drop-in.
