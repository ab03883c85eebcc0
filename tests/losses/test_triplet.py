"""The triplet loss against loops over triplets and TensorFlow Addons."""

import itertools

import keras
import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_unknown_batch_size, check_values, cosine, l2

from tfdml import losses

FORMS = {
    "-".join(map(str, form)): dict(zip(("mining", "margin", "distance", "average"), form))
    for form in [
        *itertools.product(("all", "semi_hard", "hard"), (0.3, "soft"), ("l2",), ("all",)),
        *itertools.product(("all", "semi_hard", "hard"), (0.3,), ("cosine",), ("all",)),
        ("all", 0.1, "squared_l2", "nonzero"),
        ("semi_hard", 0.1, "l2", "nonzero"),
        ("hard", 0.0, "l2", "nonzero"),
        ("all", 0.0, "l2", "all"),
    ]
}


def loop_of(name):
    form = FORMS[name]

    def distances(x, others):
        return 1.0 - cosine(x, others) if form["distance"] == "cosine" else (
            l2(x, others) ** (2 if form["distance"] == "squared_l2" else 1)
        )  # fmt: skip

    def phi(excess):
        return np.logaddexp(0.0, excess) if form["margin"] == "soft" else np.maximum(excess + form["margin"], 0.0)

    def loop(*batch):
        terms = []
        for anchor in anchors(*batch):
            to_positives, to_negatives = distances(anchor.x, anchor.positives), distances(anchor.x, anchor.negatives)
            if not len(to_positives) or not len(to_negatives):
                continue
            if form["mining"] == "hard":
                terms.append(phi(max(to_positives) - min(to_negatives)))
            for d in to_positives:
                if form["mining"] == "all":
                    terms.append(phi(d - to_negatives))
                elif form["mining"] == "semi_hard":
                    farther = to_negatives[to_negatives > d]
                    terms.append(phi(d - (min(farther) if len(farther) else max(to_negatives))))
        terms = np.concatenate([np.atleast_1d(term) for term in terms]) if terms else np.zeros(0)
        count = len(terms) if form["average"] == "all" else np.count_nonzero(terms)
        return np.sum(terms) / max(count, 1)

    return loop


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_loop(name):
    check_values(losses.TripletLoss(**FORMS[name]), loop_of(name))
    check_gradients(losses.TripletLoss(**FORMS[name]), loop_of(name))


def test_best_and_worst_batch():
    """Values computed by hand."""
    loss = losses.TripletLoss(margin=0.5, mining="all")
    assert float(loss([0, 0, 1, 1], [[0.0], [0.0], [3.0], [3.0]])) == 0.0
    # Each sample has one positive at 3 and two negatives, at 0 and at 3: terms 3.5 and 0.5.
    assert float(loss([0, 1, 0, 1], [[0.0], [0.0], [3.0], [3.0]])) == pytest.approx(2.0)


@pytest.mark.parametrize("mining", ["semi_hard", "hard"])
@pytest.mark.parametrize("distance", ["l2", "squared_l2"])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_tensorflow_addons(mining, distance, soft):
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    if soft and mining == "semi_hard":
        pytest.skip("Addons has no soft margin there.")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(24, 5)).astype("float32"), np.repeat(np.arange(6), 4)
    metric = {"l2": "L2", "squared_l2": "squared-L2"}[distance]
    if mining == "hard":
        theirs = addons.TripletHardLoss(margin=0.7, soft=soft, distance_metric=metric)
    else:
        theirs = addons.TripletSemiHardLoss(margin=0.7, distance_metric=metric)
    ours = losses.TripletLoss("soft" if soft else 0.7, mining=mining, distance=distance)
    np.testing.assert_allclose(ours(labels, x), theirs(labels, x), rtol=1e-5)


def test_where_addons_gives_nan_ours_gives_0():
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    x, labels = np.random.default_rng(0).normal(size=(4, 3)).astype("float32"), np.arange(4)
    assert np.isnan(addons.TripletSemiHardLoss()(labels, x))
    assert float(losses.TripletLoss()(labels, x)) == 0.0


@pytest.mark.parametrize("mining", ["all", "semi_hard"])
def test_unknown_batch_size(mining):
    check_unknown_batch_size(losses.TripletLoss(0.2, mining=mining))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-0.1), "margin=-0.1. Expected: margin >= 0. Or pass margin='soft'"),
        (dict(margin="hard"), "margin='hard'"),
        (dict(mining="easy"), "mining='easy'. Expected: one of \\('all', 'semi_hard', 'hard'\\)"),
        (dict(distance="l1"), "distance='l1'"),
        (dict(average="some"), "average='some'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        losses.TripletLoss(**options)


def test_round_trip():
    loss = losses.TripletLoss("soft", mining="hard", miner="hard")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    assert type(again.miner).__name__ == "HardMiner"
