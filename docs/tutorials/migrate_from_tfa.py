# %% [markdown]
# # Migrate from TensorFlow Addons
#
# This notebook converts a training script with a triplet loss of TensorFlow Addons (TFA), then adds what TFA does not
# have: batches with positives, exact retrieval metrics, and early stopping on them. The
# [migration page](../migrating-from-tfa.md) maps all losses.
#
# ## Before
#
# This is the usual TFA script. It does not run with Keras 3, which TFA does not support:
#
# ```python
# import tensorflow_addons as tfa
#
# model = tf.keras.Sequential([
#     tf.keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", input_shape=(28, 28, 1)),
#     tf.keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
#     tf.keras.layers.Flatten(),
#     tf.keras.layers.Dense(64),
#     tf.keras.layers.Lambda(lambda x: tf.math.l2_normalize(x, axis=1)),
# ])
# model.compile(optimizer="adam", loss=tfa.losses.TripletSemiHardLoss(margin=1.0))
# model.fit(train_images, train_labels, batch_size=32, epochs=5)
# ```
#
# ## After: two lines change
#
# The loss gets a new name, and `L2Normalization` replaces the lambda, which Keras refuses to load in safe mode. The
# images are Latin, Greek and Cyrillic characters in the typefaces of matplotlib. Each character is a class. Whole
# classes are held out for validation and test.

# %%
import keras
import numpy as np
import tensorflow as tf

from tfdml import callbacks, data, layers, losses, metrics, models

keras.utils.set_random_seed(0)
ranges = [("0", "9"), ("A", "Z"), ("a", "z"), ("Α", "ω"), ("А", "я")]
characters = "".join(chr(code) for first, last in ranges for code in range(ord(first), ord(last) + 1))
glyphs = data.load("glyphs", characters=characters, size=28)
train, validation, test = data.split_classes(glyphs, validation=0.2, test=0.3, seed=0)
train_images = train.images.astype("float32") / 255
test_images = test.images.astype("float32") / 255
print(f"train on {train.num_classes} classes, validate on {validation.num_classes}, test on {test.num_classes}")


def make_network():
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64),
        layers.L2Normalization(),
    ])


network = make_network()
network.compile(optimizer="adam", loss=losses.TripletLoss(margin=1.0, mining="semi_hard"))
history = network.fit(train_images, train.labels, batch_size=32, epochs=5, verbose=0)
print("loss by epoch:", np.round(history.history["loss"], 3))

# %% [markdown]
# ## The values are the same
#
# On a batch in which every sample has a positive and a negative, the loss has the value that TFA computes. Here it is
# written out: for each positive pair, the nearest negative that is farther away than the positive, or the farthest
# negative if there is none.

# %%
chosen = np.flatnonzero(test.labels < 6)[::3]
embeddings, labels = network.predict(test_images[chosen], verbose=0), test.labels[chosen]
distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=-1)
terms = []
for anchor in range(len(labels)):
    negatives = distances[anchor, labels != labels[anchor]]
    for positive in np.flatnonzero(labels == labels[anchor]):
        if positive != anchor:
            farther = negatives[negatives > distances[anchor, positive]]
            negative = farther.min() if len(farther) else negatives.max()
            terms.append(max(0.0, distances[anchor, positive] - negative + 1.0))

loss = losses.TripletLoss(margin=1.0, mining="semi_hard")
print(f"written out {np.mean(terms):.6f}, loss {float(loss(labels, embeddings)):.6f}")

# %% [markdown]
# A batch without a positive pair gives 0 instead of NaN, so one unlucky batch cannot ruin a training run:

# %%
print(float(loss(np.arange(8), network.predict(test_images[:8], verbose=0))))

# %% [markdown]
# ## Add exact retrieval metrics
#
# The loss value says little about how well the embeddings work. `retrieval_metrics` compares every test image with all
# others: `precision_at_1` is the share of images whose nearest neighbor has the right class, and `map_at_r` (MAP@R)
# also counts the order of the other neighbors.

# %%
scores = metrics.retrieval_metrics(network.predict(test_images, verbose=0), test.labels)
print({name: round(float(scores[name]), 3) for name in ("precision_at_1", "map_at_r")})

# %% [markdown]
# ## Use `MetricModel` for the rest
#
# `MetricModel` wraps the same network. It evaluates the validation classes after every epoch, and
# `RetrievalEarlyStopping` restores the weights with the best MAP@R. `balanced_batches` puts the same number of images
# of each class into a batch. The shuffled batches above held hardly any positive pair: 32 images of 73 classes.

# %%
preprocessing = data.Preprocessing(size=(28, 28), channels=1)
batches = data.balanced_batches(train, classes_per_batch=8, samples_per_class=4, seed=0, preprocessing=preprocessing)

model = models.MetricModel(make_network())
model.compile(optimizer="adam", loss=losses.TripletLoss(margin=1.0, mining="semi_hard"))
history = model.fit(
    batches,
    steps_per_epoch=40,
    epochs=10,
    validation_data=data.evaluation_batches(validation, 256, preprocessing),
    callbacks=[callbacks.RetrievalEarlyStopping(patience=4)],
    verbose=0,
)
print("validation MAP@R by epoch:", np.round(history.history["val_map_at_r"], 3))

scores = model.evaluate(data.evaluation_batches(test, 256, preprocessing), verbose=0, return_dict=True)
print({name: round(float(scores[name]), 3) for name in ("precision_at_1", "map_at_r")})

# %% [markdown]
# ## Save and load
#
# The network is a plain Keras model. It loads in safe mode, without `custom_objects`, wherever `tfdml` is imported:

# %%
model.embedder.save("embedder.keras")
loaded = keras.models.load_model("embedder.keras")
difference = tf.reduce_max(tf.abs(loaded(test_images) - model.embedder(test_images)))
print("largest difference:", float(difference))

# %% [markdown]
# ## Next steps
#
# - [Your own images, end to end](own_images.md): from a folder of images to a search.
# - [Choosing a loss, pooling, sampler](../choosing.md): semi-hard triplets are one of many losses.
