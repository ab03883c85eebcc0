import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml.data import BalancedSampler, LabeledImages, steps_per_epoch


@st.composite
def samplers(draw):
    counts = draw(st.lists(st.integers(2, 9), min_size=1, max_size=9))
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)
    options = {
        "labels": labels,
        "classes_per_batch": draw(st.integers(1, len(counts))),
        "samples_per_class": draw(st.integers(1, 7)),
        "seed": draw(st.integers(0, 2**40)),
    }
    return options


@settings(deadline=None, max_examples=80)
@given(samplers())
def test_batches_hold_distinct_classes_and_distinct_images(options):
    labels, per_class = options["labels"], options["samples_per_class"]
    counts = np.bincount(labels)
    sampler = BalancedSampler(**options)
    for epoch in range(12):
        batches = sampler.epoch(epoch)
        assert batches.shape == (math.ceil(len(counts) / options["classes_per_batch"]), sampler.batch_size)
        for batch in batches:
            groups = batch.reshape(-1, per_class)
            classes = labels[groups]
            assert (classes == classes[:, :1]).all()
            assert len(set(classes[:, 0])) == options["classes_per_batch"]
            for label, group in zip(classes[:, 0], groups):
                times = np.bincount(np.searchsorted(np.flatnonzero(labels == label), group))
                # Distinct where there are enough, else as even as can be.
                assert times.max() == math.ceil(per_class / counts[label])
                assert np.count_nonzero(times) == min(per_class, counts[label])
        assert set(labels[batches.ravel()]) == set(range(len(counts)))


@settings(deadline=None, max_examples=60)
@given(samplers(), st.integers(1, 25))
def test_classes_and_images_are_used_evenly(options, epochs):
    labels = options["labels"]
    counts = np.bincount(labels)
    sampler = BalancedSampler(**options)
    used = np.concatenate([sampler.epoch(epoch).ravel() for epoch in range(epochs)])
    visits = np.bincount(labels[used], minlength=len(counts)) // options["samples_per_class"]
    assert visits.max() - visits.min() <= 1
    uses = np.bincount(used, minlength=len(labels))
    for label in range(len(counts)):
        of_class = uses[labels == label]
        assert of_class.max() - of_class.min() <= 1


@settings(deadline=None, max_examples=30)
@given(samplers(), st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_a_batch_follows_from_seed_and_number_alone(options, numbers):
    sampler = BalancedSampler(**options)
    for number in numbers:
        np.testing.assert_array_equal(sampler.batch(number), BalancedSampler(**options).batch(number))
        epoch, step = divmod(number, sampler.steps_per_epoch)
        np.testing.assert_array_equal(sampler.batch(number), sampler.epoch(epoch)[step])
    # Another process gets a copy.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sampler)).epoch(1), sampler.epoch(1))


def passes_of_one_class(count, visit, generator):
    """What the visits of a period are, one pass after the other."""
    number = visit // math.gcd(count, visit)
    order = generator.permuted(np.tile(np.arange(count), (number, 1)), axis=1).tolist()
    for index in range(1, number):
        behind = index * count % visit
        if behind:
            taken = order[index - 1][count - behind :]
            head = [one for one in order[index] if one not in taken][: visit - behind]
            order[index] = head + [one for one in order[index] if one not in head]
    return np.reshape(order, (-1, visit))


@settings(deadline=None, max_examples=30)
@given(samplers(), st.integers(0, 40))
def test_visits_are_drawn_for_each_class_and_period_by_itself(options, epoch):
    labels, per_class = options["labels"], options["samples_per_class"]
    sampler = BalancedSampler(**options)
    visits = np.zeros(len(np.bincount(labels)), int)
    for number in range(epoch + 1):
        for group in sampler.epoch(number).reshape(-1, per_class):
            label = labels[group[0]]
            members = np.flatnonzero(labels == label)
            copies, rest = divmod(per_class, len(members))
            period, place = divmod(visits[label], len(members) // math.gcd(len(members), per_class))
            visits[label] += 1
            if number < epoch:
                continue
            np.testing.assert_array_equal(group[: copies * len(members)], np.tile(members, copies))
            if rest:
                generator = np.random.default_rng([options["seed"], 1, int(label), int(period)])
                drawn = members[passes_of_one_class(len(members), rest, generator)[place]]
                np.testing.assert_array_equal(group[copies * len(members) :], drawn)


def test_order_is_random_and_depends_on_the_seed():
    labels = np.repeat(np.arange(20), 10)
    first, second = (BalancedSampler(labels, 4, 2, seed) for seed in (0, 1))
    assert (first.epoch(0) != second.epoch(0)).any()
    assert (labels[first.epoch(0)] != labels[first.epoch(1)]).any()
    # Every pair of images of a class should meet at some time.
    met = set()
    for epoch in range(400):
        met |= {tuple(sorted(pair)) for pair in first.epoch(epoch).reshape(-1, 2)}
    assert len(met) == 20 * math.comb(10, 2)


def test_straddling_visits_do_not_bind_images_together():
    # Seven images in visits of three: each pair should meet about equally often.
    sampler = BalancedSampler(np.zeros(7, int), 1, 3, seed=0)
    meetings = np.zeros((7, 7))
    for epoch in range(4000):
        group = sampler.epoch(epoch).ravel()
        meetings[np.ix_(group, group)] += 1
    pairs = meetings[np.triu_indices(7, 1)]
    assert pairs.sum() == 4000 * 3
    assert np.abs(pairs / pairs.mean() - 1).max() < 0.2


def test_many_classes_stay_cheap():
    # Rows are made for an epoch at a time: no memory or work beyond the number of images.
    labels = np.repeat(np.arange(11_318), 5)
    sampler = BalancedSampler(labels, 8, 4, seed=0)
    assert sampler.epoch(0).shape == (1415, 32)
    assert set(labels[sampler.epoch(3).ravel()]) == set(range(11_318))


def test_names_the_classes_with_too_few_images():
    with pytest.raises(ValueError, match=r"'cat' \(1\), 'emu' \(0\)"):
        BalancedSampler([0, 0, 1, 2, 2], 2, 2, 0, class_names=("ant", "cat", "dog", "emu"))
    with pytest.raises(ValueError, match="and 5 more"):
        BalancedSampler(np.arange(15), 2, 2, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes_per_batch": 4}, "classes_per_batch=4. Expected: at most 3"),
        ({"classes_per_batch": 0}, "classes_per_batch=0"),
        ({"samples_per_class": 0}, "samples_per_class=0"),
        ({"samples_per_class": 1.5}, "samples_per_class=1.5"),
        ({"samples_per_class": float("nan")}, "samples_per_class=nan"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_refuses(options, message):
    arguments = {"classes_per_batch": 2, "samples_per_class": 2, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        BalancedSampler([0, 0, 1, 1, 2, 2], **arguments)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint64", "int64", object])
def test_labels_of_any_integer_type(dtype):
    labels = np.repeat(np.arange(6), 4)
    expected = BalancedSampler(labels, 3, 2, 0).epoch(5)
    for same in (labels.astype(dtype), labels.astype(dtype)[:, None], labels.astype(dtype).tolist()):
        sampler = BalancedSampler(same, 3, 2, 0)
        assert sampler.num_classes == 6
        np.testing.assert_array_equal(sampler.epoch(5), expected)


def test_labels_of_uint8_do_not_overflow():
    labels = np.repeat(np.arange(256, dtype=np.uint8), 2)
    sampler = BalancedSampler(labels, 8, 2, 0)
    assert sampler.num_classes == 256
    assert set(labels[sampler.epoch(0).ravel()]) == set(range(256))
    empty = np.zeros(0, np.uint8)
    with pytest.raises(ValueError, match="at most 0"):
        BalancedSampler(empty, 1, 2, 0)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        (["cat", "cat", "dog", "dog"], TypeError, "such as .*cat.*encode_labels"),
        ([0.0, 0.0, 1.0, 1.0], TypeError, "type float64.*encode_labels"),
        ([-1, -1, 0, 0], ValueError, "labels from -1 to 0 of 4 samples.*encode_labels"),
        ([0, 0, 10**12, 10**12], ValueError, "labels from 0 to 1000000000000 of 4 samples.*encode_labels"),
        (np.array([0, 0, 2**64 - 1], np.uint64), ValueError, "18446744073709551615.*encode_labels"),
        ([[0, 1], [0, 1]], ValueError, r"shape \(2, 2\)"),
        ([0, 0, 2, 2], ValueError, r"classes with fewer: 1 \(0\)"),
    ],
)
def test_labels_that_do_not_number_classes(labels, error, message):
    with pytest.raises(error, match=message):
        BalancedSampler(labels, 1, 2, 0)


def test_steps_per_epoch():
    dataset = LabeledImages(np.zeros((10, 2, 2, 1), np.uint8), np.repeat(np.arange(5), 2), tuple("abcde"))
    assert [steps_per_epoch(dataset, classes) for classes in (1, 2, 4, 5)] == [5, 3, 2, 1]
    with pytest.raises(ValueError, match="at most 5"):
        steps_per_epoch(dataset, 6)
