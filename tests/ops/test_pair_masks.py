"""Masks of positive and negative pairs against a double loop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import ops

LABELS = st.lists(st.sampled_from([0, 1, 2, 2**31 - 1, 2**24, 2**24 + 1]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=30)
@given(labels=LABELS, others=st.none() | LABELS, data=st.data())
def test_equals_double_loop(labels, others, data):
    references = labels if others is None else others
    valid = data.draw(st.none() | st.lists(st.booleans(), min_size=len(references), max_size=len(references)))
    masks = ops.pair_masks(np.array(labels), None if others is None else np.array(others), valid)
    for i, label in enumerate(labels):
        for j, other in enumerate(references):
            counts = valid is None or valid[j]
            assert masks.positives[i, j] == (counts and label == other and not (others is None and i == j))
            assert masks.negatives[i, j] == (counts and label != other)
