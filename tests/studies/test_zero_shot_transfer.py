"""Zero-shot transfer: regression over many splits, split of the images, attributes, and the whole study."""

import numpy as np
import pytest
import tiny_backbone
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from studies import zero_shot_transfer as study
from studies.zero_shot_transfer import attribute_transfer, random_splits, split_images, summarize
from tfdml import data, models
from tfdml.experiments import TrainingResult
from tfdml.layers import GeneralizedSumPooling

RESULT = TrainingResult("folder", {}, {}, {}, {}, embedder="trained")
TINY = {
    key: value
    for key, value in tiny_backbone.CHANGES.items()
    if key.partition(".")[0] in ("model", "augmentation") and key != "model.gsp.prototypes"
}


def sample(seed=0, classes=12, dim=5):
    """Attributes, embeddings and labels with classes of unequal size."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), generator.integers(2, 6, classes)))
    attributes = generator.dirichlet(np.ones(8), classes)[labels] + 0.05 * generator.random((len(labels), 8))
    return attributes, generator.normal(size=(classes, dim))[labels] + generator.normal(size=(len(labels), dim)), labels


def naive_transfer(attributes, embeddings, labels, splits, fit):
    """Transfer split by split and class by class; `fit` returns a function from attributes to predictions."""
    results = []
    for fitted, others in splits:
        centres = {label: embeddings[labels == label].mean(axis=0) for label in [*fitted, *others]}
        chosen = np.isin(labels, fitted)
        predict = fit(attributes[chosen], np.array([centres[label] for label in labels[chosen]]))
        predicted = predict(np.array([attributes[labels == label].mean(axis=0) for label in others]))
        of_split = []
        for candidates in (list(others), [*others, *fitted]):
            for metric in ("euclidean", "cosine"):
                nearest = cdist(predicted, [centres[label] for label in candidates], metric).argmin(axis=1)
                of_split.append(np.mean([candidates[place] == label for place, label in zip(nearest, others)]))
        results.append(of_split)
    l2, cosine, l2_of_all, cosine_of_all = np.array(results).T
    return study.Transfer(l2, cosine, l2_of_all, cosine_of_all)


@pytest.mark.parametrize("seed", [0, 1])
def test_transfer_equals_a_loop_over_ridge_regressions(seed):
    attributes, embeddings, labels = sample(seed)
    splits = random_splits(12, 40, seed=seed)
    found = attribute_transfer(attributes, embeddings, labels, splits, ridge=0.05)
    naive = naive_transfer(
        attributes, embeddings, labels, splits, lambda z, x: Ridge(0.05, fit_intercept=False).fit(z, x).predict
    )
    for values, expected in zip(found, naive):
        np.testing.assert_allclose(values, expected)
    # Neither all right nor all wrong, so that the comparison is informative.
    assert 0.1 < found.l2.mean() < 0.9 and (found.l2 != found.cosine).any()


def test_transfer_of_a_small_ridge_equals_least_squares():
    attributes, embeddings, labels = sample(2)
    splits = random_splits(12, 20, seed=1)
    found = attribute_transfer(attributes, embeddings, labels, splits, ridge=1e-9)

    def least_squares(z, x):
        solution = np.linalg.lstsq(z, x, rcond=None)[0]
        return lambda others: others @ solution

    naive = naive_transfer(attributes, embeddings, labels, splits, least_squares)
    np.testing.assert_allclose(found.l2, naive.l2)
    np.testing.assert_allclose(found.cosine_of_all, naive.cosine_of_all)


def test_linear_embeddings_are_predicted_and_equal_attributes_are_not():
    attributes, _, labels = sample()
    splits = random_splits(12, 30)
    embeddings = attributes @ np.random.default_rng(3).normal(size=(8, 6))
    # The fit targets class means, so the attributes must not vary within a class.
    means = np.array([attributes[labels == label].mean(axis=0) for label in range(12)])[labels]
    few = random_splits(12, 30, per_half=6)
    assert attribute_transfer(means[:, :4], means[:, :4] @ np.eye(4, 6), labels, few, 1e-9).l2.mean() == 1.0
    same = attribute_transfer(np.full_like(attributes, 1 / 8), embeddings, labels, splits)
    # All predictions are the same point, which is nearest to one class.
    np.testing.assert_allclose(same.l2, 0.2)
    np.testing.assert_allclose(same.cosine, 0.2)


def test_transfer_errors():
    attributes, embeddings, labels = sample()
    splits = random_splits(12, 3)
    with pytest.raises(ValueError, match="labels of shape"):
        attribute_transfer(attributes, embeddings[:-1], labels, splits)
    with pytest.raises(ValueError, match=r"splits of shape \(3, 10\)"):
        attribute_transfer(attributes, embeddings, labels, splits.reshape(3, 10))
    with pytest.raises(ValueError, match=r"splits with classes \[12\]"):
        attribute_transfer(attributes, embeddings, labels, np.where(splits == 0, 12, splits))
    with pytest.raises(ValueError, match="ridge"):
        attribute_transfer(attributes, embeddings, labels, splits, ridge=0.0)


def test_random_splits():
    splits = random_splits(197, 500, seed=3)
    assert splits.shape == (500, 2, 5)
    assert all(len(set(split.ravel())) == 10 for split in splits)
    np.testing.assert_array_equal(splits, random_splits(197, 500, seed=3))
    # Each of ten classes is in each half about equally often.
    shares = np.bincount(random_splits(10, 2000)[:, 0].ravel()) / 2000
    np.testing.assert_allclose(shares, 0.5, atol=0.05)
    assert random_splits(7, 2).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="3 classes. Expected: at least 4"):
        random_splits(3, 1)


def test_summary():
    labels = np.repeat(np.arange(4), 6)
    attributes = np.eye(4)[labels]
    outcome = summarize(attributes, 2.0 * attributes, labels, splits=5, ridge=0.05)
    assert outcome.map_at_r == 1.0 and outcome.between == pytest.approx(1.0) and outcome.in_use == pytest.approx(4.0)
    np.testing.assert_allclose(outcome.means, np.eye(4))
    np.testing.assert_allclose(outcome.deviations, 0.0)
    shuffled = np.eye(4)[np.tile(np.arange(4), 6)]
    within = summarize(shuffled, attributes, labels, splits=5, ridge=0.05)
    expected = np.array([shuffled[labels == label].std(axis=0) for label in range(4)])
    np.testing.assert_allclose(within.deviations, expected)
    # Law of total variance: the variance that is not within the classes is between them.
    assert within.between == pytest.approx(1.0 - np.sum(expected**2 * 6) / np.sum((shuffled - 0.25) ** 2))


def test_images_are_split_class_by_class(tmp_path):
    # About 30 images per class.
    digits = data.load("digits")
    digits = data.LabeledImages(digits.images[:300], digits.labels[:300], digits.class_names)
    folder = tmp_path / "data" / "digits"
    split_images(digits, folder)
    parts = data.split_classes(data.load("folder", path=str(folder)), validation=1 / 3, test=1 / 3)
    assert [[name.split("-")[1] for name in part.class_names] for part in parts] == [
        [name] * 10 for name in ("train", "validation", "test")
    ]
    names = [set(path.rpartition("/")[2] for path in part.images) for part in parts]
    assert sum(map(len, names)) == len(set().union(*names)) == len(digits)
    for part, share in zip(parts, (0.6, 0.2, 0.2)):
        np.testing.assert_allclose(part.class_counts, share * digits.class_counts, atol=1)
        index = int(part.images[-1].rpartition("/")[2][:-4])
        assert digits.labels[index] == part.labels[-1] == 9
    before = sorted(folder.rglob("*"))
    split_images(digits, folder)
    assert sorted(folder.rglob("*")) == before and not list(folder.parent.glob("*.unfinished"))


def test_images_that_cannot_be_split(tmp_path):
    few = data.LabeledImages(np.zeros((4, 8, 8, 1), np.uint8), [0, 0, 0, 0], ("only",))
    with pytest.raises(ValueError, match="4 images of 'only'. Expected: at least 10"):
        split_images(few, tmp_path / "few")
    paths = data.LabeledImages(["a.png"], [0], ("only",))
    with pytest.raises(ValueError, match="Expected: images in memory"):
        split_images(paths, tmp_path / "paths")
    assert not (tmp_path / "few").exists()


@pytest.mark.integration
@pytest.mark.parametrize("return_attributes", [False, True])
def test_transport_of_an_embedder(return_attributes):
    pooling = GeneralizedSumPooling(6, 0.4, 8.0, return_attributes=return_attributes, name="pooling")
    embedder = models.build_embedder(tiny_backbone.build((13, 11, 1)), pooling, 7)
    images = np.random.default_rng(0).uniform(size=(3, 13, 11, 1)).astype("float32")
    embeddings, attributes, shares, nearest = study.with_transport(embedder)(images)
    np.testing.assert_allclose(embeddings, embedder(images), atol=1e-6)
    features = np.asarray(models.local_features(embedder)(images))
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), 0.4 * 6 * 5, rtol=1e-5)
    np.testing.assert_allclose(shares, 0.4 * 30 * np.asarray(pooling.pooling_weights(features)), rtol=1e-5)

    def clip(vectors):
        return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))

    costs = cdist(clip(features.reshape(-1, 7)), clip(np.asarray(pooling.prototype_embeddings)))
    np.testing.assert_array_equal(nearest.ravel(), costs.argmin(axis=1))
    assignment = np.exp(-8.0 * costs) / np.exp(-8.0 * costs).sum(axis=1, keepdims=True)
    weights = (shares / 30 / 0.4).reshape(3, 30, 1)
    np.testing.assert_allclose(attributes, (weights * assignment.reshape(3, 30, 6)).sum(axis=1), rtol=1e-4)
    if return_attributes:
        np.testing.assert_allclose(attributes, models.with_attributes(embedder)(images)[1], rtol=1e-4)


def test_transport_needs_prototypes():
    embedder = models.build_embedder(tiny_backbone.build((13, 11, 1)), "gap", 7)
    with pytest.raises(ValueError, match="Expected: GeneralizedSumPooling"):
        study.with_transport(embedder)


def untrained(recipe, images):
    return study.builders.make_embedder(recipe, images.preprocessing)


@pytest.mark.integration
def test_seen_classes(tmp_path, monkeypatch):
    asked = []

    def untrained_result(recipe, folder):
        asked.append((folder.name, recipe))
        return TrainingResult(folder, {}, {}, {}, {}, untrained(recipe, study.builders.load_data(recipe)))

    monkeypatch.setattr(study, "result_of", untrained_result)
    monkeypatch.setattr(study, "_untrained", untrained)
    monkeypatch.setattr(study, "IMAGES_PER_CLASS", 12)
    arguments = dict(tasks=["seen"], seen_data="digits", steps=4, splits=20, seeds=[0], overrides=TINY)
    with tiny_backbone.registered():
        results = study.zero_shot_transfer(str(tmp_path), **arguments)
    (_, without), (_, with_loss) = asked
    assert [name for name, _ in asked] == ["seen-without-0", "seen-with-0"]
    assert without.data == with_loss.data and without.model == with_loss.model and without.loss == with_loss.loss
    assert (without.zero_shot.enabled, with_loss.zero_shot.enabled, with_loss.zero_shot.weight) == (False, True, 0.5)
    assert without.model.gsp.prototypes == 8 and without.loss.name == "proxy_nca_plus_plus"
    assert without.training.steps_per_validation == 2
    assert list(results) == [("seen", "untrained"), ("seen", "without"), ("seen", "with")]
    for (outcome,) in results.values():
        assert outcome.means.shape == (10, 8) and len(outcome.transfer.l2) == 20
        np.testing.assert_allclose(outcome.means.sum(axis=1), 1.0, rtol=1e-4)
    table = (tmp_path / "transfer.md").read_text()
    assert "(by chance 20%)" in table and "| seen classes | with the loss    |" in table
    assert len((tmp_path / "seeds.csv").read_text().splitlines()) == 4
    for image in ("attributes-seen.png", "maps-seen.png", "transfer.png"):
        assert (tmp_path / image).stat().st_size > 1000


@pytest.mark.slow
def test_a_training_with_the_loss_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "IMAGES_PER_CLASS", 40)
    changes = {**study._PNCA, **study._seen_changes("digits", tmp_path / "digits"), **TINY}
    changes |= {"model.pooling": "gsp", "zero_shot.enabled": True, "training.max_validations": 1}
    with tiny_backbone.registered():
        recipe = study.load_recipe("tournament", {**changes, "training.steps_per_validation": 4})
        trained, loaded = (study._trained(recipe, tmp_path / "run") for _ in range(2))
        images = study.builders.load_data(recipe)
    assert images.train.num_classes == images.test.num_classes == 10
    first, second = (study._evaluate(study.with_transport(each), images, 20, 0.05, 64) for each in (trained, loaded))
    np.testing.assert_allclose(first.means, second.means, atol=1e-5)
    assert trained is not loaded


@pytest.mark.integration
def test_unseen_classes_are_those_of_the_recipe(tmp_path, monkeypatch):
    asked, generator = [], np.random.default_rng(0)

    def transport(_):
        """Random numbers instead of a network."""
        return lambda images: (
            generator.normal(size=(len(images), 4)),
            generator.dirichlet(np.ones(8), len(images)),
            generator.random((len(images), 3, 3)),
            generator.integers(0, 8, (len(images), 3, 3)),
        )

    monkeypatch.setattr(study, "result_of", lambda recipe, folder: asked.append((folder.name, recipe)) or RESULT)
    monkeypatch.setattr(study, "_untrained", lambda recipe, images: None)
    monkeypatch.setattr(study, "with_transport", transport)
    digits = {"data.name": "digits", "data.size": 12, "data.test_classes": 0.4, "batches.classes": 4}
    results = study.zero_shot_transfer(
        str(tmp_path), ["unseen"], unseen_steps=8, splits=10, seeds=[3, 4], overrides=digits
    )  # fmt: skip
    assert {recipe.training.steps_per_validation for _, recipe in asked} == {4}
    expected = [f"unseen-{training}-{seed}" for training in ("without", "with") for seed in (3, 4)]
    assert [name for name, _ in asked] == expected
    assert all(outcome.means.shape == (4, 8) for outcomes in results.values() for outcome in outcomes)
    assert "(by chance 50%)" in (tmp_path / "transfer.md").read_text()
