"""Every loss trains. The whole table is a slow test."""

import numpy as np
import pytest

from studies.losses_on_digits import MARGIN_OVER_UNTRAINED, PAIRED, losses_on_digits
from tfdml import losses


@pytest.mark.integration
def test_some_losses_with_all_references(tmp_path):
    names = ["c1", "margin", "in_batch_negatives", "pair_contrastive"]
    results = losses_on_digits(str(tmp_path), names=names, steps=60)
    expected = {(name, kind) for name in names[:2] for kind in ("batch", "memory", "proxies")}
    assert set(results) == expected | {(name, "batch") for name in names[2:]} | {("untrained", "batch")}
    untrained = np.mean(results["untrained", "batch"])
    assert all(np.mean(results[name, "batch"]) > untrained + MARGIN_OVER_UNTRAINED for name in names)
    table = (tmp_path / "losses_on_digits.md").read_text().splitlines()
    assert len(table) == 2 + 2 + len(names)
    assert table[-1].count("–") == 2


@pytest.mark.slow
def test_every_loss_in_a_plain_compile(tmp_path):
    results = losses_on_digits(str(tmp_path), references=["batch"])
    untrained = np.mean(results["untrained", "batch"])
    assert {name for name, _ in results} == {*losses.names(), "untrained"}
    not_learnt = [
        name for (name, _), values in results.items()
        if name != "untrained" and np.mean(values) <= untrained + MARGIN_OVER_UNTRAINED
    ]  # fmt: skip
    assert not not_learnt
    assert set(PAIRED) <= set(losses.names())
