"""Sampled bags, and a short run of the study."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from studies.synthetic import BAG_SIZE, CLASSES, LIMIT, TOKENS, Box, sample_bags, synthetic


def test_bags_hold_own_and_shared_tokens():
    labels = np.repeat(np.arange(CLASSES), 200)
    bags = sample_bags(labels, np.random.default_rng(0))
    assert bags.shape == (len(labels), BAG_SIZE) and bags.dtype == np.int32
    own = bags // 4 == labels[:, None]
    assert (own | (bags >= 64)).all() and bags.max() == TOKENS - 1
    shares = own.mean(axis=1)
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.std() == pytest.approx(0.1, abs=0.01)
    # Every token is as likely as the others of its kind.
    np.testing.assert_allclose(np.bincount(bags[own]) / own.sum(), 1 / 64, rtol=0.2)
    np.testing.assert_allclose(np.bincount(bags[~own] - 64) / (~own).sum(), 1 / 4, rtol=0.05)


def test_tokens_stay_in_the_box():
    box = keras.constraints.deserialize(keras.constraints.serialize(Box(LIMIT)))
    np.testing.assert_allclose(box(tf.constant([-1.0, 0.1, 1.0])), [-LIMIT, 0.1, LIMIT])


def test_bad_options_fail_before_training(tmp_path):
    for options, received in [
        ({"margins": [0.2, -0.1]}, "negative_margin=-0.1"),
        ({"margins": []}, r"margins=\[\]"),
        ({"seeds": []}, r"seeds=\[\]"),
        ({"prototypes": 69}, "prototypes=69"),
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"smoothing": -1.0}, "smoothing=-1.0"),
    ]:
        with pytest.raises(ValueError, match=received):
            synthetic(str(tmp_path / "study"), **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.integration
def test_quick(tmp_path):
    results = synthetic(str(tmp_path), margins=[0.2, 0.5], steps_per_epoch=10, epochs=8, quick=True)
    assert set(results) == {("gap", 0.2), ("gsp", 0.2)}
    (gap,), (gsp,) = results.values()
    for outcome in (gap, gsp):
        assert outcome.embeddings.shape == (16 * 64, 2) and np.abs(outcome.tokens).max() <= np.float32(LIMIT)
        assert 0.0 <= outcome.common_area <= outcome.overlapping_pairs <= 1.0
    # Average pooling gives all tokens the same weight.
    assert gap.own_weight == pytest.approx(0.5, abs=0.02)
    assert gsp.own_weight > 0.7
    assert gsp.map_at_r > gap.map_at_r + 0.1
    assert (tmp_path / "synthetic.csv").read_text().count("\n") == 3
    assert (tmp_path / "hulls-margin-0.2.png").stat().st_size > 1000


@pytest.mark.slow
def test_hulls_overlap_under_average_pooling_and_separate_under_gsp(tmp_path):
    results = synthetic(str(tmp_path), margins=[0.3, 0.1], seeds=[0])
    (gap,), (gsp,) = results["gap", 0.3], results["gsp", 0.3]
    assert gap.overlapping_pairs > 0.05 and gsp.overlapping_pairs <= 0.01
    assert gsp.map_at_r > 0.9 and gsp.map_at_r > gap.map_at_r + 0.4
    assert gsp.own_weight > 0.9
    # A margin that average pooling can meet separates its hulls, too.
    (gap,), (gsp,) = results["gap", 0.1], results["gsp", 0.1]
    assert gap.overlapping_pairs <= 0.01 and gap.map_at_r > 0.8
    assert gsp.overlapping_pairs <= 0.01 and gsp.map_at_r > gap.map_at_r + 0.05
