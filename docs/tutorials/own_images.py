# %% [markdown]
# # Your own images, end to end
#
# From a folder of images to a search: load, split, train, evaluate, export, and search a collection of classes that
# were not in training. The page [Your own images](../your-images.md) explains every choice in more detail.
#
# ## A folder of images
#
# Your images are in one folder with a subfolder per class. This notebook has to run without a download, so it draws
# its own: characters in the typefaces of matplotlib, in random colors. Replace `folder` by your own path and skip this
# cell.

# %%
# %matplotlib inline
import pathlib

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import tfdml
from tfdml import callbacks, data, metrics, models, plots

folder = pathlib.Path("photos")
glyphs = data.load("glyphs", characters="ABCDEFGHJKLMNPQRSTUVWXYZabdefghijkmnqrtuy23456789&?@%")
rng = np.random.default_rng(0)
for number, (image, label) in enumerate(zip(glyphs.images, glyphs.labels)):
    ink = image[..., 0] / 255.0
    background, color = rng.integers(0, 110, 3), rng.integers(145, 256, 3)
    pixels = background + ink[..., None] * (color - background) + rng.normal(scale=8, size=(*ink.shape, 3))
    path = folder / f"class{label:02d}" / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(path)
print(len(list(folder.glob("*/*.png"))), "images in", len(list(folder.iterdir())), "folders")

# %% [markdown]
# ## Load and split
#
# `data.folder` checks every file. `split_classes` holds out whole classes, since the search has to work for classes
# that are not in the training data.

# %%
images = data.folder(folder)
train, validation, test = data.split_classes(images, validation=0.2, test=0.3, seed=0)
for name, part in {"train": train, "validation": validation, "test": test}.items():
    print(f"{name}: {len(part)} images of {part.num_classes} classes")

# %% [markdown]
# ## Build and train
#
# A small network from random weights is enough for images of 32×32 pixels. For photos, start from ImageNet weights, as
# [Your own images](../your-images.md#4-build-and-train) does, and use their size.
#
# Validation before training gives the value to beat: how well the untrained network retrieves.

# %%
keras.utils.set_random_seed(0)
preprocessing = data.Preprocessing(size=(32, 32), channels=3)
batches = data.balanced_batches(
    train,
    classes_per_batch=8,
    samples_per_class=4,
    seed=0,
    preprocessing=preprocessing,
    augmentation=data.Augmentation(rotation=10, scale=0.1, translation=0.05),
)
validation_batches = data.evaluation_batches(validation, 128, preprocessing)

embedder = models.build_embedder("resnet20", pooling="gap", embedding_size=64, input_shape=(32, 32, 3))
model = models.MetricModel(embedder)
model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="multi_similarity")
untrained = model.evaluate(validation_batches, verbose=0, return_dict=True)
history = model.fit(
    batches,
    steps_per_epoch=20,
    epochs=7,
    validation_data=validation_batches,
    callbacks=[callbacks.RetrievalEarlyStopping(patience=4)],
    verbose=0,
)
print(f"MAP@R before training: {untrained['map_at_r']:.3f}")
print("MAP@R by epoch:", np.round(history.history["val_map_at_r"], 3))

# %%
plots.training_curve(history.history)

# %% [markdown]
# ## Evaluate
#
# The test classes were used neither for training nor for choosing the weights. Report this value, once.

# %%
scores = model.evaluate(data.evaluation_batches(test, 128, preprocessing), verbose=0, return_dict=True)
print({name: round(float(scores[name]), 3) for name in ("precision_at_1", "map_at_r")})

# %% [markdown]
# ## Search a collection
#
# The collection holds the test classes except one image of each, which become queries. `nearest_neighbors` is an exact
# search. The contact sheet shows queries on the left and their neighbors on the right, with a green frame for the right
# class and a dashed red frame for a wrong one.

# %%
is_query = np.zeros(len(test), bool)
is_query[[np.flatnonzero(test.labels == label)[0] for label in range(test.num_classes)]] = True
embeddings, labels = models.embed(embedder, data.evaluation_batches(test, 128, preprocessing))
collection, collection_labels = embeddings[~is_query], labels[~is_query]
indices, distances = metrics.nearest_neighbors(embeddings[is_query], k=6, reference_embeddings=collection)
correct = collection_labels[indices] == labels[is_query][:, None]
print(f"the nearest neighbor has the right class for {correct[:, 0].mean():.0%} of the queries")

# %%
pixels = np.concatenate([batch for batch, _ in data.evaluation_batches(test, 128, preprocessing)])
some = slice(0, 6)
plots.nearest_neighbors(pixels[is_query][some], pixels[~is_query][indices[some]], correct[some])

# %% [markdown]
# ## Export and search elsewhere
#
# The SavedModel reads encoded files and includes the preprocessing. The process that serves it needs only TensorFlow.

# %%
tfdml.export_saved_model(embedder, "embedder", preprocessing)
np.savez("collection.npz", embeddings=collection, labels=collection_labels)

served = tf.saved_model.load("embedder").signatures["serving_encoded"]
query = pathlib.Path(np.asarray(test.images)[is_query][0])
vector = served(encoded=tf.constant([query.read_bytes()]))["embedding"].numpy()
stored = np.load("collection.npz")
order = np.argsort(np.linalg.norm(stored["embeddings"] - vector, axis=1))[:6]
print("query of class", query.parent.name)
print("found", [test.class_names[label] for label in stored["labels"][order]])

# %% [markdown]
# ## Next steps
#
# - [Serving](../serving.md): TensorFlow Serving and the formats of requests.
# - [Evaluation done right](../evaluation.md): what to report, and what not to.
# - [A custom loss in a recipe](custom_loss.md): compare variants with several seeds.
