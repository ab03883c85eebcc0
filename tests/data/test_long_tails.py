"""Classes with one image, sampling by instance, and batches of few super-classes."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml.data import BalancedSampler, LabeledImages, balanced_batches
from tfdml.data.class_plans import InProportion

TAIL = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8])  # Classes 1, 3, 4, 5, 6 and 8 have one image.


def epochs(sampler, number=6):
    return np.concatenate([sampler.epoch(epoch) for epoch in range(number)])


def test_single_images_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"fewer: '1' \(1\).*small_classes='skip', 'negatives' or 'repeat'"):
        BalancedSampler(TAIL, 2, 2, seed=0, class_names=[str(label) for label in range(9)])


def test_single_images_are_skipped_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = BalancedSampler(TAIL, 2, 2, seed=0, small_classes="skip")
    assert "6 classes with fewer than two images are left out: 1 (1), 3 (1)" in caplog.text
    assert set(TAIL[epochs(sampler).ravel()]) == {0, 2, 7}
    # What is left are the batches of a dataset without them.
    kept = np.flatnonzero(np.isin(TAIL, [0, 2, 7]))
    alone = BalancedSampler(np.searchsorted([0, 2, 7], TAIL[kept]), 2, 2, seed=0)
    np.testing.assert_array_equal(epochs(sampler), kept[epochs(alone)])
    assert sampler.num_classes == 9 and sampler.steps_per_epoch == 2


def test_single_images_are_repeated():
    sampler = BalancedSampler(TAIL, 3, 2, seed=0, small_classes="repeat")
    for batch in epochs(sampler):
        places = batch.reshape(3, 2)
        assert (TAIL[places[:, 0]] == TAIL[places[:, 1]]).all() and len(set(TAIL[places[:, 0]])) == 3
    assert set(TAIL[sampler.epoch(0).ravel()]) == set(range(9))


def test_single_images_are_negatives(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = BalancedSampler(TAIL, 2, 3, seed=1, small_classes="negatives")
    assert "6 classes with fewer than two images serve as negatives" in caplog.text
    singles = set(np.flatnonzero(np.bincount(TAIL) == 1))
    for batch in epochs(sampler):
        for place in batch.reshape(2, 3):
            labels = TAIL[place]
            # One class, or images of classes that have no other.
            assert len(set(labels)) == 1 or (len(set(labels)) == 3 and set(labels) <= singles)
    assert set(TAIL[epochs(sampler).ravel()]) == set(range(9))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 40), min_size=3, max_size=8), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_instances_are_used_equally_often(counts, per_batch, per_class, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler = BalancedSampler(labels, per_batch, per_class, seed, sampling="instance")
    assert sampler.steps_per_epoch == math.ceil(len(labels) / (per_batch * per_class))
    number = 12
    batches = epochs(sampler, number)
    for batch in batches:
        places = labels[batch.reshape(per_batch, per_class)]
        assert (places == places[:, :1]).all() and len(set(places[:, 0])) == per_batch
    visits = np.bincount(labels[batches.ravel()], minlength=len(counts)) / per_class
    uses = np.bincount(batches.ravel(), minlength=len(labels))
    shares = shares_by_hand(counts, per_batch)
    for label, share in enumerate(shares):
        of_class = uses[labels == label]
        assert of_class.max() - of_class.min() <= 1
        # Each epoch rounds up or down.
        assert abs(visits[label] - share * len(batches)) < number
    # Batches are those of the same sampler asked in another order.
    other = BalancedSampler(labels, per_batch, per_class, seed, sampling="instance")
    np.testing.assert_array_equal(other.epoch(5), sampler.epoch(5))
    np.testing.assert_array_equal(other.epoch(2), sampler.epoch(2))


def shares_by_hand(counts, per_batch):
    """Chance that a class is in a batch: proportional, but at most 1."""
    shares = np.zeros(len(counts))
    left, places = dict(enumerate(counts)), per_batch
    while True:
        total = sum(left.values())
        full = [label for label, count in left.items() if places * count > total]
        for label in full:
            shares[label] = 1
            del left[label]
        if not full:
            for label, count in left.items():
                shares[label] = places * count / total
            return shares
        places = per_batch - int(shares.sum())


def test_draws_have_the_expected_frequencies():
    weights = np.array([50, 1, 9, 20, 7])
    plan = InProportion(weights, per_batch=2, seed=3, steps=7)
    drawn = np.concatenate([plan.epoch(epoch) for epoch in range(600)])
    frequencies = np.bincount(drawn.ravel()) / len(drawn)
    np.testing.assert_allclose(frequencies, shares_by_hand(weights, 2), atol=0.01)
    assert all(len(set(batch)) == 2 for batch in drawn.tolist())


def test_classes_meet_at_random():
    # 16 classes with 12 visits each per epoch: each pair should be in a batch about equally often in every epoch.
    plan = InProportion(np.full(16, 24), per_batch=4, seed=0, steps=48)
    meetings = np.zeros((16, 16))
    for epoch in range(40):
        batches = plan.epoch(epoch)
        assert len({frozenset(batch) for batch in batches.tolist()}) > 30
        for batch in batches:
            meetings[np.ix_(batch, batch)] += 1
    pairs = meetings[~np.eye(16, dtype=bool)]
    assert pairs.mean() == 40 * 48 * 4 * 3 / (16 * 15) and np.abs(pairs / pairs.mean() - 1).max() < 0.5


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(3, 7), min_size=2, max_size=5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_batches_of_few_super_classes(classes, per_super, supers, seed):
    superclasses = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(classes)), classes))
    labels = np.repeat(np.arange(len(superclasses)), 2)
    sampler = BalancedSampler(
        labels, per_super * supers, 2, seed, superclasses=[f"kind {kind}" for kind in superclasses],
        superclasses_per_batch=supers,
    )  # fmt: skip
    batches = epochs(sampler, 10)
    for batch in batches:
        of_batch = labels[batch.reshape(-1, 2)]
        assert (of_batch[:, 0] == of_batch[:, 1]).all() and len(set(of_batch[:, 0])) == per_super * supers
        _, numbers = np.unique(superclasses[of_batch[:, 0]], return_counts=True)
        assert numbers.tolist() == [per_super] * supers
    visits = np.bincount(labels[batches.ravel()], minlength=len(superclasses))
    for kind in range(len(classes)):
        of_kind = visits[superclasses == kind] // 2
        assert of_kind.max() - of_kind.min() <= 1


def images(superclasses=None, counts=(2, 2, 2, 2)):
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.broadcast_to(labels[:, None, None, None], (len(labels), 4, 4, 1)).astype(np.uint8)
    return LabeledImages(pixels, labels, [str(label) for label in range(len(counts))], superclasses=superclasses)


def test_superclasses_by_dict():
    labels, names, kinds = np.repeat(np.arange(4), 2), ("ant", "bee", "cat", "dog"), ["x", "y", "x", "y"]
    expected, *others = (
        BalancedSampler(labels, 2, 2, 0, names, superclasses=superclasses, superclasses_per_batch=1)
        for superclasses in (kinds, dict(enumerate(kinds)), dict(zip(names, kinds)))
    )
    for sampler in others:
        np.testing.assert_array_equal(epochs(sampler), epochs(expected))
    with pytest.raises(ValueError, match="Classes have no super-class. Received: no super-class of 'bee', 'dog'"):
        superclasses = {"ant": "x", "cat": "y"}
        BalancedSampler(labels, 2, 2, 0, names, superclasses=superclasses, superclasses_per_batch=1)
    with pytest.raises(ValueError, match="no super-class of 2, 3"):
        BalancedSampler(labels, 2, 2, 0, superclasses={0: "x", 1: "y"}, superclasses_per_batch=1)


def test_batches_of_images_of_one_super_class():
    train = images(["a", "b", "a", "b"])
    assert train.subset([3, 0]).superclasses.tolist() == ["b", "a"]
    batches = balanced_batches(train, 2, 2, seed=0, superclasses_per_batch=1)
    for pixels, labels in batches.take(6):
        assert set(labels.numpy()) in ({0, 2}, {1, 3})
        np.testing.assert_allclose(255 * pixels[:, 0, 0, 0], labels, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"superclasses_per_batch": 2}, "Super-classes need their number"),
        ({"superclasses": [0, 0, 1, 1]}, "Super-classes need their number"),
        ({"superclasses": [0, 0, 1], "superclasses_per_batch": 2}, r"shape \(3,\). Expected: \(4,\)"),
        ({"superclasses": [0, 0, 1, 1], "superclasses_per_batch": 3}, "superclasses_per_batch=3 with 2 classes"),
        ({"superclasses": [0, 0, 0, 1], "superclasses_per_batch": 1}, r"super-classes \[1\] with \[1\] classes"),
        ({"superclasses": ["cat", "cat", "cat", "dog"], "superclasses_per_batch": 1}, r"super-classes \['dog'\] with"),
        ({"superclasses": [0, 0, 1, 1], "superclasses_per_batch": 1, "sampling": "instance"}, "sampling='instance'"),
        ({"small_classes": "drop"}, "small_classes"),
        (
            {"small_classes": "negatives", "superclasses": [0, 0, 1, 1], "superclasses_per_batch": 1},
            "small_classes='negatives' with superclasses",
        ),
        ({"sampling": "image"}, "sampling"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        BalancedSampler(np.repeat(np.arange(4), 2), 2, 2, seed=0, **options)


def test_bad_datasets():
    with pytest.raises(ValueError, match="has no superclasses"):
        balanced_batches(images(), 2, 2, seed=0, superclasses_per_batch=1)
    with pytest.raises(ValueError, match=r"superclasses of shape \(3,\). Expected: \(4,\)"):
        images(["a", "b", "c"])
    with pytest.raises(ValueError, match="more classes than the dataset"):
        balanced_batches(images(counts=(1, 1, 2, 1)), 2, 2, seed=0, small_classes="skip")


def test_single_images_take_at_most_half_of_the_places():
    labels = np.concatenate([np.repeat(np.arange(10), 5), np.arange(10, 210)])
    sampler = BalancedSampler(labels, 8, 4, seed=0, small_classes="negatives")
    places = labels[epochs(sampler, 100)].reshape(-1, 8, 4)
    is_class = (places == places[:, :, :1]).all(axis=2)
    assert is_class.mean() >= 0.5 and (is_class.sum(axis=1) > 0).mean() > 0.99
    assert set(places[~is_class].ravel()) == set(range(10, 210))
