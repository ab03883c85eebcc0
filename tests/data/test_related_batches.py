"""Batches for relations: anchors with their positives, balanced by groups; annotations of datasets and tables."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from tfdml import ops, relations
from tfdml.data import (
    LabeledFeatures,
    LabeledImages,
    RelatedSampler,
    csv,
    encode_tags,
    evaluation_batches,
    position_cells,
    related_batches,
)

RNG = np.random.default_rng(0)
PLACES = RNG.uniform(0, 4, (40, 2))
NEAR = relations.Within(0.9, 2.0)


def near(i, j):
    return np.linalg.norm(PLACES[i] - PLACES[j]) <= 0.9


@pytest.mark.parametrize(("anchors", "size"), [(4, 3), (7, 2), (1, 5)])
def test_anchors_are_followed_by_distinct_positives(anchors, size):
    sampler = RelatedSampler(PLACES, NEAR, anchors, size, seed=0)
    with_positive = {i for i in range(40) if any(near(i, j) for j in range(40) if j != i)}
    seen = []
    for batch in sampler.epoch(1):
        groups = batch.reshape(anchors, size)
        assert len(set(groups[:, 0])) == anchors
        seen += groups[:, 0].tolist()
        for anchor, *partners in groups:
            positives = [j for j in range(40) if j != anchor and near(anchor, j)]
            assert all(near(anchor, partner) and partner != anchor for partner in partners)
            assert len(set(partners)) == min(size - 1, len(positives))
    assert set(seen) == with_positive and len(seen) == sampler.steps_per_epoch * anchors
    assert len(seen) - len(with_positive) < anchors


def test_batches_are_determined_by_the_seed():
    sampler = RelatedSampler(PLACES, NEAR, 4, 3, seed=5)
    again = RelatedSampler(PLACES, NEAR, 4, 3, seed=5)
    later = again.batch(17)
    np.testing.assert_array_equal(sampler.batch(17), later)
    np.testing.assert_array_equal(
        sampler.epoch(2), np.stack([again.batch(2 * again.steps_per_epoch + i) for i in range(again.steps_per_epoch)])
    )
    assert not np.array_equal(sampler.batch(0), RelatedSampler(PLACES, NEAR, 4, 3, seed=6).batch(0))
    assert sampler._anchors_of(2) is sampler._anchors_of(2)


def test_groups_are_visited_equally_often():
    """A crowded place has as many anchors as a lonely one."""
    places = np.concatenate([RNG.uniform(0, 1, 30), [10.0, 10.1, 20.0, 20.1]])
    cells = position_cells(places, 5.0)
    sampler = RelatedSampler(places, relations.Within(1.0, 2.0), 2, 2, 0, groups=cells)
    assert sampler.steps_per_epoch == 2
    anchors = np.concatenate([sampler.epoch(epoch).reshape(-1, 2)[:, 0] for epoch in range(30)])
    counts = np.bincount(cells[anchors])
    assert len(counts) == 3 and counts.sum() == 120 and counts.min() >= 30
    assert len(set(anchors[cells[anchors] == 0])) > 15


def test_tags_are_visited_equally_often():
    tags, names = encode_tags([["sky"]] * 20 + [["sky", "sea"], ["sea"], ["sea", "dog"], ["dog"]])
    assert names == ("dog", "sea", "sky")
    sampler = RelatedSampler(tags, "overlap", 3, 2, 0, groups=tags)
    for batch in sampler.epoch(0):
        anchors, partners = batch.reshape(3, 2).T
        assert len(set(anchors)) == 3 and (tags[anchors].sum(axis=0) >= 1).all()
        assert ((tags[anchors] & tags[partners]).sum(axis=1) >= 1).all()


def test_given_pairs_are_batches():
    pairs = [(i, i + 20) for i in range(20)]
    sampler = RelatedSampler(np.arange(40), relations.Pairs.from_pairs(pairs), 5, 2, 0)
    for batch in sampler.epoch(0):
        assert all(abs(first - second) == 20 for first, second in batch.reshape(-1, 2))


def test_too_few_positives_are_repeated(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = RelatedSampler([0.0, 0.1, 9.0], NEAR, 1, 4, 0)
    assert "1 of 3 samples have no positive" in caplog.text
    assert sorted(sampler.batch(0).tolist()) in ([0, 1, 1, 1], [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.0, 5.0], {}, "empty: no sample has a positive"),
        ([0.0, np.nan], {}, "Labels must be finite"),
        ([0.0, 0.1], {"anchors_per_batch": 3}, "more anchors.*at most 2"),
        ([0.0, 0.1], {"anchors_per_batch": 2, "groups": [0, 0]}, "more groups.*at most 1"),
        ([0.0, 0.1], {"samples_per_anchor": 1}, "samples_per_anchor=1"),
        ([0.0, 0.1], {"groups": [0, 1, 2]}, "Groups must be one for each"),
        ([0.0, 0.1], {"groups": [0.5, 1]}, "Groups must be one for each"),
    ],
)
def test_wrong_samplers(labels, options, message):
    with pytest.raises(ValueError, match=message):
        RelatedSampler(labels, NEAR, **{"anchors_per_batch": 1, "samples_per_anchor": 2, "seed": 0, **options})


def test_cells_of_a_grid():
    cells = position_cells([[0.0, 0.0], [-0.1, 0.0], [0.49, 0.3], [0.0, 0.5]], 0.5)
    assert cells.tolist() == [1, 0, 1, 2] and position_cells([0.1, 7.0, 0.2], 1).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="not finite"):
        position_cells([np.nan], 1.0)
    with pytest.raises(ValueError, match="size > 0"):
        position_cells([0.0], 0.0)


def test_wrong_tags():
    assert encode_tags([["b"]], names=("a", "b"))[0].tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="no tags.*sample 1"):
        encode_tags([["a"], []])
    with pytest.raises(ValueError, match="'c'.*one of 2 names"):
        encode_tags([["c"]], names=("a", "b"))
    with pytest.raises(TypeError, match="Expected: \\['sky'\\]"):
        encode_tags(["sky"])


def images_of(count):
    """Images whose first pixel is their index."""
    images = np.zeros((count, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


@pytest.mark.parametrize("kind", ["images", "features"])
def test_batches_of_a_dataset(kind):
    if kind == "images":
        dataset = LabeledImages.from_arrays(images_of(40), annotations=PLACES)
    else:
        features = np.repeat(np.arange(40.0)[:, None], 3, axis=1)
        dataset = LabeledFeatures(features, np.zeros(40, int), ("all",), annotations=PLACES)
    options = (dataset, NEAR, 4, 3, 0)
    batches = list(related_batches(*options).take(3))
    assert related_batches(*options).cardinality() == tf.data.INFINITE_CARDINALITY
    sampler = RelatedSampler(PLACES, NEAR, 4, 3, 0)
    for number, (images, annotations) in enumerate(batches):
        indices = np.rint(images.numpy().reshape(12, -1)[:, 0] * (255 if kind == "images" else 1)).astype(int)
        np.testing.assert_array_equal(indices, sampler.batch(number))
        np.testing.assert_array_equal(annotations, PLACES[indices])
    resumed = next(iter(related_batches(*options, start_batch=2)))
    np.testing.assert_array_equal(resumed[1], batches[2][1])
    evaluated = np.concatenate([annotations for _, annotations in evaluation_batches(dataset, 16, annotations=True)])
    np.testing.assert_array_equal(evaluated, PLACES)
    assert next(iter(evaluation_batches(dataset, 16)))[1].dtype == tf.int64


def test_annotations_follow_the_samples():
    dataset = LabeledFeatures(np.eye(4, dtype="float32"), [0, 1, 2, 1], ("a", "b", "c"), annotations=[5, 6, 7, 8])
    assert dataset.subset([1]).annotations.tolist() == [6, 8]
    chosen = dataset.select([3, 0])
    assert chosen.annotations.tolist() == [8, 5] and chosen.labels.tolist() == [1, 0] and chosen.num_classes == 3
    assert dataset.select(np.array([True, False, True, False])).annotations.tolist() == [5, 7]
    assert dataset.select([]).annotations.tolist() == []
    np.testing.assert_array_equal(chosen.read([0]), [[0, 0, 0, 1]])


@pytest.mark.parametrize("indices", [[4], [-1], [0.5], [[0]], [True], None])
def test_wrong_indices(indices):
    dataset = LabeledFeatures(np.eye(4, dtype="float32"), [0, 1, 2, 1], ("a", "b", "c"))
    with pytest.raises(ValueError, match="Indices do not select"):
        dataset.select(indices)


def test_wrong_annotations():
    for annotations in ([1.0], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="Annotations must be one for each"):
            LabeledImages.from_arrays(images_of(2), annotations=annotations)
    with pytest.raises(TypeError, match="Annotations must be numbers"):
        LabeledImages.from_arrays(images_of(2), annotations=["x", "y"])
    with pytest.raises(ValueError, match="neither labels nor annotations"):
        LabeledImages.from_arrays(images_of(2))
    dataset = LabeledImages.from_arrays(images_of(2), [0, 1])
    for call in (
        lambda: related_batches(dataset, NEAR, 1, 2, 0),
        lambda: evaluation_batches(dataset, 1, annotations=True),
    ):
        with pytest.raises(ValueError, match="has no annotations"):
            call()


@pytest.fixture
def table(tmp_path):
    for index in range(4):
        tf.io.write_file(str(tmp_path / f"{index}.png"), tf.io.encode_png(np.full((4, 4, 3), 60 * index, np.uint8)))

    def write(rows, header="path,x,y,shelf"):
        (tmp_path / "poses.csv").write_text("\n".join([header, *rows]) + "\n")
        return tmp_path / "poses.csv"

    return write


ROWS = ["0.png,0.5,-1e1,a", "1.png,0.75,0,a", "2.png,7,1,b", "3.png,7.5,1,b"]


def test_a_table_of_positions(table):
    dataset = LabeledImages.from_csv(table(ROWS), label_column=None, annotation_columns=("x", "y"))
    expected = np.array([[0.5, -10], [0.75, 0], [7, 1], [7.5, 1]])
    np.testing.assert_array_equal(dataset.annotations, expected)
    assert dataset.num_classes == 1 and dataset.name == "poses"
    both = LabeledImages.from_csv(table(ROWS), label_column="shelf", annotation_columns="x")
    assert both.class_names == ("a", "b") and both.annotations[:, 0].tolist() == [0.5, 0.75, 7, 7.5]
    from tfdml.data import Preprocessing

    batches = related_batches(dataset, relations.Within(1.0, 3.0), 1, 2, 0, Preprocessing((4, 4), 3))
    images, annotations = next(iter(batches))
    values = np.rint(images.numpy()[:, 0, 0, 0] * 255 / 60).astype(int)
    np.testing.assert_array_equal(annotations, expected[values])


def test_a_relation_that_contradicts_itself_is_refused():
    class Everything(relations.Relation):
        def masks(self, labels, others):
            every = tf.ones((len(labels), len(others)), tf.bool)
            return ops.PairMasks(every, every)

    with pytest.raises(ValueError, match="Pairs contradict each other. Received: 9 pairs"):
        RelatedSampler([0, 1, 2], Everything(), 1, 2, seed=0)


def test_a_table_of_tags(table):
    rows = ["0.png,sky|sea", "1.png, dog ||sky", "2.png,sea|sea"]
    dataset = LabeledImages.from_csv(table(rows, "path,tags"), label_column=None, tag_column="tags")
    assert dataset.annotations.tolist() == [[0, 1, 1], [1, 0, 1], [0, 1, 0]]  # dog, sea, sky
    rows = ["0.png,a red car; a house", "1.png,a house"]
    dataset = csv(table(rows, "path,tags"), label_column=None, tag_column="tags", tag_separator=";")
    assert dataset.annotations.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"tag_column": "shelf"}, "numbers or tags.*annotation_columns=.*tag_column='shelf'"),
        (ROWS, {"annotation_columns": (), "tag_column": "tag"}, "lacks a column. Received: 'tag'"),
        (["0.png,1,0,|"], {"annotation_columns": (), "tag_column": "shelf"}, r"1 images have no tags.*row 1.*'\|'"),
        (ROWS, {"annotation_columns": (), "tag_column": "shelf", "tag_separator": ""}, "separator of tags"),
        (["0.png,nan,0,a"], {}, "1 annotations are not numbers.*row 1.*'nan' as 'x'"),
        (["0.png,1,0,a", "1.png,1,north,a"], {}, "row 2.*'north' as 'y'"),
        (["0.png,,0,a"], {}, "incomplete.*no x"),
        (ROWS, {"annotation_columns": ("x", "z")}, "lacks a column. Received: 'z'"),
        (ROWS, {"annotation_columns": ()}, "neither labels nor annotations"),
    ],
)
def test_wrong_tables(table, rows, options, message):
    with pytest.raises(ValueError, match=message):
        LabeledImages.from_csv(table(rows), label_column=None, **{"annotation_columns": ("x", "y"), **options})


def test_unreadable_images_are_left_out_with_their_annotations(table, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    dataset = LabeledImages.from_csv(table(ROWS), label_column=None, annotation_columns=("x",), on_unreadable="skip")
    assert dataset.annotations[:, 0].tolist() == [0.5, 7, 7.5] and len(dataset) == 3
