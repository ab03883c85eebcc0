"""The margin requirements of each loss, compared with the loss of points on a line."""

import numpy as np
import pytest

from tfdml import losses

OF_MARGINS = [
    losses.get("contrastive", positive_margin=0.2, negative_margin=0.7),
    losses.get("contrastive", distance="squared_l2"),
    losses.get("triplet", margin=0.3, mining="hard"),
    losses.get("triplet_all", margin=0.3),
    losses.get("triplet", margin=0.3, distance="squared_l2"),
    losses.get("margin", margin=0.1, beta=0.6),
    losses.get("ranked_list", margin=0.4, negative_boundary=1.2),
]


def value(loss, within, between):
    """Two classes of two points on a line, with given smallest distances within and between classes."""
    points = np.cumsum([0.0, within, between, within])[:, None]
    return float(np.mean(loss.call(np.array([0, 0, 1, 1]), points)))


@pytest.mark.parametrize("loss", OF_MARGINS, ids=lambda loss: f"{loss.name}-{loss.margin_requirements.distance}")
def test_the_loss_is_zero_from_there_on(loss):
    of_distance = np.sqrt if loss.margin_requirements.distance == "squared_l2" else float
    reach, gap = of_distance(loss.margin_requirements.reach), of_distance(loss.margin_requirements.gap)
    assert value(loss, 0.0, reach + 1e-3) == pytest.approx(0.0, abs=1e-9)
    assert value(loss, 0.0, reach - 1e-2) > 0
    if loss.margin_requirements.distance == "l2":
        # With positives as far apart as allowed, negatives must be farther away by the gap.
        within = max(0.05, reach - gap)
        assert value(loss, within, within + gap + 1e-3) == pytest.approx(0.0, abs=1e-9)
        assert value(loss, within, within + gap - 1e-2) > 0


def test_losses_without_margins_of_distances_ask_for_none():
    of_each = {name: getattr(losses.get(name), "margin_requirements", None) for name in losses.names()}
    asking = {name for name, required in of_each.items() if required is not None}
    assert "triplet" in asking and "multi_similarity" not in asking and "proxy_anchor" not in asking
    assert losses.get("triplet", margin="soft").margin_requirements is None
    # A learned boundary can have any value above the margin.
    assert losses.get("margin", margin=0.2, learn_beta=True).margin_requirements.reach == 0.4
