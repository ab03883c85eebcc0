"""CollaborativeModel: its loss by hand, recommendations by brute force, files and errors."""

import keras
import numpy as np
import pytest

from tests.ops.test_collaborative import hinge_by_loop, logistic_by_loop
from tfdml import data, models

USERS, ITEMS, DIM = 5, 8, 4


@pytest.fixture(scope="module")
def interactions():
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, [USERS, ITEMS], (20, 2)), axis=0)
    return data.Interactions(pairs[:, 0], pairs[:, 1], USERS, ITEMS, generator.normal(size=(ITEMS, 3)))


def make_model(**options):
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(DIM)])
    model = models.CollaborativeModel(USERS, ITEMS, DIM, item_encoder=encoder, **options)
    model.compile(keras.optimizers.SGD(0.5))
    return model


@pytest.fixture(scope="module")
def trained(interactions):
    model = make_model(max_norm=0.5)
    model.fit(interactions.batches(8, negatives=3), steps_per_epoch=2, epochs=2, verbose=0)
    return model


def loss_by_hand(model, batch):
    users, items = model.user_vectors()[batch["user"]], model.item_vectors()[batch["item"]]
    others = model.item_vectors()[batch["negatives"]]
    distances = np.sum((users - items) ** 2, axis=1), np.sum((users[:, None] - others) ** 2, axis=2)
    if model.objective == "logistic":
        of_pairs = logistic_by_loop(*distances, model.scale)
    else:
        of_pairs = hinge_by_loop(*distances, model.margin, ITEMS, model.impostors)
    covariance = np.cov(np.concatenate([users, items]), rowvar=False, bias=True)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    compared = np.concatenate([items[:, None], others], axis=1)
    return (
        of_pairs.mean()
        + model.covariance_weight * np.sum(off_diagonal**2) / (2 * len(users))
        + model.norm_weight * (np.sum(users**2, axis=1).mean() + np.sum(compared**2, axis=2).mean())
        + model.feature_weight * np.sum((model.encode_items(batch["features"]) - items) ** 2, axis=1).mean()
    )


@pytest.mark.parametrize(
    "options", [{"impostors": "closest"}, {"impostors": "all", "norm_weight": 0.2}, {"loss": "logistic", "scale": 3.0}]
)
def test_the_loss_is_that_by_hand(interactions, options):
    model = make_model(margin=0.7, covariance_weight=2.0, feature_weight=0.3, **options)
    batch = {name: value.numpy() for name, value in next(iter(interactions.batches(8, negatives=3))).items()}
    np.testing.assert_allclose(model.compute_loss(batch, None, model(batch)), loss_by_hand(model, batch), rtol=1e-5)


def test_the_logistic_loss_without_a_ball(interactions, tmp_path):
    model = make_model(loss="logistic", max_norm=None, norm_weight=0.1, initial_norm=2.0)
    batches = interactions.batches(8, negatives=3)
    expected = loss_by_hand(model, {name: value.numpy() for name, value in next(iter(batches)).items()})
    assert np.linalg.norm(model.item_vectors(), axis=1).max() > 2.0
    assert np.linalg.norm(model.encode_items(np.full((1, 3), 100.0))) > 10.0
    history = model.fit(batches, steps_per_epoch=1, verbose=0).history
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.recommend([0, 1], 3)[1], model.recommend([0, 1], 3)[1])
    names = ("loss", "scale", "max_norm", "norm_weight", "initial_norm")
    assert [loaded.get_config()[name] for name in names] == ["logistic", 1.0, None, 0.1, 2.0]


@pytest.mark.parametrize(("options", "norm"), [({}, 0.1), ({"initial_norm": 0.7, "max_norm": None}, 0.7)])
def test_norms_of_initial_vectors(options, norm):
    vectors = models.CollaborativeModel(2, 2000, 3, **options).item_vectors()
    assert np.mean(np.sum(vectors**2, axis=1)) ** 0.5 == pytest.approx(norm, rel=0.05)


def test_vectors_stay_in_the_ball(trained):
    for vectors in (trained.user_vectors(), trained.item_vectors(), trained.encode_items(np.ones((2, 3)))):
        assert np.linalg.norm(vectors, axis=1).max() <= 0.5 + 1e-5


def test_recommendations_are_the_nearest_unknown_items(trained, interactions):
    items, distances = trained.recommend(range(USERS), k=ITEMS, exclude=interactions)
    for user in range(USERS):
        known = interactions.items_of([user])[0]
        to_all = np.linalg.norm(trained.user_vectors()[user] - trained.item_vectors(), axis=1)
        expected = [item for item in np.argsort(to_all) if item not in known]
        assert items[user].tolist() == expected + [-1] * len(known)
        np.testing.assert_allclose(distances[user][: len(expected)], to_all[expected], rtol=1e-4, atol=1e-6)
    assert trained.recommend([], k=2)[0].shape == (0, 2)


def test_saved_and_loaded(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.recommend([0, 1], 3)[1], trained.recommend([0, 1], 3)[1])
    np.testing.assert_array_equal(loaded.encode_items(np.ones((1, 3))), trained.encode_items(np.ones((1, 3))))
    configs = [{**model.get_config(), "item_encoder": None} for model in (loaded, trained)]
    assert configs[0] == configs[1] and configs[0]["max_norm"] == 0.5


def test_weights_of_pairs(interactions):
    batch = next(iter(interactions.batches(8, negatives=3)))
    model = make_model(covariance_weight=0.0, feature_weight=0.0)
    distances = model(batch)
    assert float(model.compute_loss(batch, None, distances, np.zeros(8))) == 0.0


def test_errors(trained, interactions):
    with pytest.raises(ValueError, match=r"The encoder has another output. Received: shape \(None, 4\)"):
        models.CollaborativeModel(USERS, ITEMS, 5, item_encoder=trained.item_encoder)
    with pytest.raises(ValueError, match="margin > 0"):
        models.CollaborativeModel(USERS, ITEMS, margin=0)
    with pytest.raises(ValueError, match="Users are out of range"):
        trained.recommend([USERS])
    with pytest.raises(ValueError, match="There are too few items. Received: k=9"):
        trained.recommend([0], k=9)
    with pytest.raises(ValueError, match=r"wrong shape. Received: \(3, 4\). Expected: \(8, 4\)"):
        trained.recommend([0], k=2, exclude=interactions, item_vectors=np.ones((3, DIM)))
    with pytest.raises(ValueError, match=r"wrong shape. Received: \(3, 5\). Expected: \(n, 4\)"):
        trained.recommend([0], k=2, item_vectors=np.ones((3, DIM + 1)))
    with pytest.raises(ValueError, match="impostors='some'"):
        models.CollaborativeModel(USERS, ITEMS, impostors="some")
    with pytest.raises(ValueError, match="loss='bpr'. Expected: one of .*logistic"):
        models.CollaborativeModel(USERS, ITEMS, loss="bpr")
    for name in ("scale", "max_norm", "initial_norm"):
        with pytest.raises(ValueError, match=f"Received: {name}=0. Expected: {name} > 0"):
            models.CollaborativeModel(USERS, ITEMS, **{name: 0})
    with pytest.raises(ValueError, match="Received: norm_weight=-1. Expected: norm_weight >= 0"):
        models.CollaborativeModel(USERS, ITEMS, norm_weight=-1)
    with pytest.raises(ValueError, match="The model has no encoder"):
        models.CollaborativeModel(USERS, ITEMS).encode_items(np.ones((1, 3)))
    batch = {name: value for name, value in next(iter(interactions.batches(8))).items() if name != "features"}
    with pytest.raises(ValueError, match="The encoder needs features of items"):
        trained.compute_loss(batch, None, trained(batch))
