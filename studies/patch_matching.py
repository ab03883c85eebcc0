"""Do learned descriptors match patches better than pixels and SIFT?

python -m studies.patch_matching --out DIR
"""

import itertools
import pathlib
from typing import Optional

import keras
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from sklearn.datasets import load_sample_images

from studies.report import Report, append_rows, command, mean_and_deviation, paired_interval, read_rows
from tfdml import data, losses, metrics, models

RESULTS = pathlib.Path(__file__).parent / "results" / "patch_matching.csv"
SIDE = 32
PHOTOS = ("china", "flower")
LEARNED = ("contrastive", "triplet", "multi_similarity")
NAMES = {
    "ssd": "SSD of pixels", "ncc": "NCC", "sift": "SIFT", "untrained": "network, untrained",
    "contrastive": "network, contrastive", "triplet": "network, triplet",
    "multi_similarity": "network, multi-similarity",
}  # fmt: skip
COLUMNS = ("method", "photo", "seed", "fpr95", "matched")


def patch_matching(
    out: str,
    seeds: list[int] = (0, 1, 2),
    points: int = 1000,
    steps: int = 600,
    results: Optional[str] = None,
    quick: bool = False,
):
    """Compare descriptors of patches under known warps and changes of light.

    Patches are cut around points of scikit-learn's two photographs. Networks are trained on one photograph and tested
    on the other one. Each point has two test views; a view is a random similarity with shear, and a change of
    brightness, contrast, gamma, blur and noise. The false-positive rate at 95 % recall is that of as many pairs of
    different points as there are pairs of the same one. The matching accuracy is the share of first views whose
    nearest second view is that of the same point.

    Args:
        out: Folder for tables and figures.
        seeds: Seeds of points, views and networks.
        points: Number of test points.
        steps: Training steps.
        results: CSV file of the results; by default that of the repository. Results that are there are not repeated.
        quick: 60 points, five steps, one seed, one photograph.

    Returns:
        dict from the method to the results of all photographs and seeds, dicts by `COLUMNS`.
    """
    results = pathlib.Path(results or RESULTS).expanduser()
    photos = PHOTOS
    if quick:
        seeds, points, steps, photos = seeds[:1], 60, 5, PHOTOS[:1]
    known = {_key(row): row for row in read_rows(results)}
    network = None
    for photo, seed in itertools.product(photos, seeds):
        missing = [name for name in NAMES if (name, photo, str(seed)) not in known]
        if missing:
            views, labels = view_patches(photo, points, 2, [seed, 1])
            for name in missing:
                network = _trained(name, photo, steps, seed) if name in (*LEARNED, "untrained") else None
                descriptors = network.predict(_as_input(views), verbose=0) if network else FIXED[name](views)
                row = {"method": name, "photo": photo, "seed": str(seed), **compare(descriptors, labels)}
                append_rows(results, COLUMNS, [row])
                print(", ".join(row.values()), flush=True)
                known[_key(row)] = row
    report = Report(out)
    found = {name: [known[name, photo, str(seed)] for photo in photos for seed in seeds] for name in NAMES}
    _report(report, found)
    network = _trained("triplet", PHOTOS[1], steps, 0)
    report.figure("correspondences", _correspondences(PHOTOS[1], network, 12))
    return found


def view_patches(photo, points, views, seed):
    """Cut views of patches around random points with texture.

    Args:
        photo: `"china"` or `"flower"`.
        points: int. Number of points.
        views: int. Views of each point.
        seed: int or list of ints.

    Returns:
        Tuple of float32 patches `(points * views, 32, 32)` with values in 0–1, and integers, their points.
    """
    generator = np.random.default_rng(seed)
    image = _photo(photo)
    margin = SIDE
    contrast = ndimage.generic_gradient_magnitude(ndimage.gaussian_filter(image, 2), ndimage.sobel)
    inner = contrast[margin:-margin, margin:-margin]
    candidates = np.argwhere(inner > np.quantile(inner, 0.5)) + margin
    chosen = candidates[generator.permutation(len(candidates))[:points]]
    patches = [_view(image, point, generator) for point in chosen for _ in range(views)]
    return np.array(patches, np.float32), np.repeat(np.arange(len(chosen)), views)


def _photo(name):
    images = load_sample_images()
    (index,) = [i for i, file in enumerate(images.filenames) if name in str(file)]
    return np.asarray(images.images[index], np.float32).mean(axis=-1) / 255


def _view(image, center, generator):
    """One patch around a point: an affine map around it, then a change of light."""
    angle, scale = generator.uniform(-0.35, 0.35), np.exp(generator.uniform(-0.25, 0.25))
    shear = np.array([[1, generator.uniform(-0.15, 0.15)], [0, 1]])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * rotation @ shear
    middle = (SIDE - 1) / 2
    offset = center + generator.uniform(-1.5, 1.5, 2) - matrix @ [middle, middle]
    patch = ndimage.affine_transform(image, matrix, offset, (SIDE, SIDE), order=1, mode="reflect")
    patch = ndimage.gaussian_filter(patch, generator.uniform(0, 1))
    patch = generator.uniform(0.6, 1.4) * patch ** np.exp(generator.uniform(-0.4, 0.4)) + generator.uniform(-0.2, 0.2)
    return np.clip(patch + 0.03 * generator.normal(size=patch.shape), 0, 1)


def compare(descriptors, labels):
    """Return FPR at 95 % recall and matching accuracy of descriptors of two views of each point, as text.

    Args:
        descriptors: float array `(2 * points, dim)`. The views of a point follow each other.
        labels: Integers `(2 * points,)`.

    Example:
        >>> compare(np.array([[0.0], [0.1], [1.0], [1.1], [2.0], [2.1]]), np.array([0, 0, 1, 1, 2, 2]))
        {'fpr95': '0.00000', 'matched': '1.00000'}
    """
    first, second = descriptors[::2], descriptors[1::2]
    assert (labels[::2] == labels[1::2]).all()
    same = np.linalg.norm(first - second, axis=1)
    # Each point with the next one in random order, so that no pair is of one point.
    order = np.random.default_rng(0).permutation(len(first))
    other = np.linalg.norm(first[order] - second[np.roll(order, 1)], axis=1)
    threshold = np.quantile(same, 0.95, method="inverted_cdf")
    nearest, _ = metrics.nearest_neighbors(first, 1, second)
    matched = np.mean(nearest[:, 0] == np.arange(len(first)))
    return {"fpr95": f"{np.mean(other <= threshold):.5f}", "matched": f"{matched:.5f}"}


def _pixels(patches):
    return patches.reshape(len(patches), -1)


def _ncc(patches):
    """Patches without mean, of unit norm: their squared distance is 2 − 2 NCC."""
    centered = _pixels(patches) - _pixels(patches).mean(axis=1, keepdims=True)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6)


def _sift(patches):
    try:
        import cv2
    except ImportError as error:
        raise ImportError("SIFT needs OpenCV. Install opencv-python-headless.") from error
    sift = cv2.SIFT_create()
    # SIFT describes a window of about 12 times the radius; 32 pixels fit after upsampling.
    middle = SIDE - 0.5
    described = []
    for patch in patches:
        large = cv2.resize((255 * patch).astype(np.uint8), (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)
        _, descriptors = sift.compute(large, [cv2.KeyPoint(middle, middle, 2 * SIDE / 6, 0)])
        described.append(descriptors[0])
    return np.array(described) / 512


FIXED = {"ssd": _pixels, "ncc": _ncc, "sift": _sift}


def _as_input(patches):
    """Patches without mean, of unit deviation, as networks for patches take them."""
    flat = _pixels(patches)
    normalized = (flat - flat.mean(axis=1, keepdims=True)) / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
    return normalized.reshape(*patches.shape, 1).astype(np.float32)


def _network(seed):
    keras.utils.set_random_seed(seed)
    parts = [keras.Input((SIDE, SIDE, 1))]
    for filters, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 2)):
        parts += [keras.layers.Conv2D(filters, 3, stride, "same", activation="relu", data_format="channels_last")]
    parts += [keras.layers.Flatten(data_format="channels_last"), keras.layers.Dense(64)]
    parts += [keras.layers.UnitNormalization(axis=-1)]
    return keras.Sequential(parts)


def _trained(name, photo, steps, seed):
    """A network trained on the other photograph than `photo`."""
    network = _network(seed)
    if name == "untrained":
        return network
    (other,) = set(PHOTOS) - {photo}
    views, labels = view_patches(other, 1500, 6, [seed, 2])
    # Margins that suit unit vectors.
    options = {"triplet": {"margin": 0.2}}.get(name, {})
    model = models.MetricModel(network)
    model.compile(keras.optimizers.Adam(1e-3), loss=losses.get(name, **options))
    sampler = data.BalancedSampler(labels, classes_per_batch=32, samples_per_class=2, seed=seed)
    inputs = _as_input(views)

    def batches():
        for number in itertools.count():
            batch = sampler.batch(number)
            yield inputs[batch], labels[batch]

    model.fit(batches(), steps_per_epoch=steps, epochs=1, verbose=0)
    return network


def _correspondences(photo, network, step):
    """Draw nearest neighbors of local features between a photograph and a warped one, and where they belong."""
    image = _photo(photo)[60:380, 100:580]
    angle = 0.15
    matrix = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array(image.shape) / 2
    # `affine_transform` maps places of the result to places of the image.
    offset = middle - matrix @ middle
    warped = np.clip(0.8 * ndimage.affine_transform(image, matrix, offset, order=1, mode="reflect") ** 1.3 + 0.1, 0, 1)
    grids = [_grid(view, step) for view in (image, warped)]
    described = [
        network.predict(_as_input(np.array([_cut(view, place) for place in places])), verbose=0)
        for view, places in zip((image, warped), grids)
    ]
    there, _ = metrics.nearest_neighbors(described[1], 1, described[0])
    back, _ = metrics.nearest_neighbors(described[0], 1, described[1])
    mutual = np.flatnonzero(back[there[:, 0], 0] == np.arange(len(there)))
    found, wanted = grids[0][there[mutual, 0]], grids[1][mutual] @ matrix.T + offset
    is_right = np.linalg.norm(found - wanted, axis=1) <= step
    figure, axes = plt.subplots(figsize=(10, 3.6))
    axes.imshow(np.concatenate([image, warped], axis=1), cmap="gray")
    for index, right in zip(mutual, is_right):
        row, column = grids[0][there[index, 0]]
        other_row, other_column = grids[1][index]
        color = "tab:green" if right else "tab:red"
        axes.plot([column, other_column + image.shape[1]], [row, other_row], color=color, lw=0.4, alpha=0.6)
    axes.set_axis_off()
    axes.set_title(f"{len(mutual)} mutual nearest neighbors, {np.mean(is_right):.0%} within {step} pixels")
    figure.tight_layout()
    return figure


def _grid(image, step):
    rows, columns = (np.arange(SIDE // 2, size - SIDE // 2, step) for size in image.shape)
    return np.array(list(itertools.product(rows, columns)), float)


def _cut(image, place):
    row, column = (int(value) - SIDE // 2 for value in place)
    return image[row : row + SIDE, column : column + SIDE]


def _key(row):
    return row["method"], row["photo"], row["seed"]


def _report(report, found):
    values = {
        name: {column: np.array([float(row[column]) for row in rows]) for column in ("fpr95", "matched")}
        for name, rows in found.items()
    }
    rows = [
        [
            NAMES[name],
            *(mean_and_deviation(of_method[column], ddof=1) for column in ("fpr95", "matched")),
            "" if name == "sift" else paired_interval(of_method["matched"] - values["sift"]["matched"]),
        ]
        for name, of_method in values.items()
    ]
    header = ["descriptor", "FPR at 95% recall", "matched", "matched minus SIFT"]
    report.table("patch_matching", header, rows, "Networks are tested on the photograph that they were not trained on.")


if __name__ == "__main__":
    command(patch_matching)
