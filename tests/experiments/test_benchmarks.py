"""Every benchmark dataset, as a miniature in its original layout, from prepare to evaluation."""

import json

import miniatures
import pytest
import tiny_backbone

from tfdml.data.prepare import prepare
from tfdml.experiments import evaluate_main, train_main

# A recipe of the tables for each dataset, with changes for miniatures of few classes. Half of the eight classes are for
# training, so there are two folds.
_RECIPES = {
    "cub": "table-5.1/cub/c2-gsp",
    "cars196": "table-5.1/cars196/ms",
    "sop": "table-3.1/sop/c2-ccp-l",
    "in_shop": "table-3.1/in-shop/c1-xbm-l",
    "cifar10": "conventional/cifar10/c2-gsp",
    "cifar100": "fair/cifar100/c2-ccp",
    "cifar_collage": "fair/cifar-collage/c2-gsp",
}
_SMALL = {
    **{key: tiny_backbone.CHANGES[key] for key in ("model.backbone", "model.embedding_size", "model.gsp.prototypes")},
    "batches.classes": 2,
    "batches.samples_per_class": 2,
    "references.per_class": 2,
    "references.memory_size": 8,
    "references.memory_warmup": 1,
    "protocol.repeats": 1,
    "model.gsp.start": "k_center",
    "training.max_validations": 1,
    "training.steps_per_validation": 2,
}
_FOLDED = ("fair", "cross_validation", "fixed_validation")
# The other combinations are slow.
_CHOSEN = {("cars196", "fixed_validation"), ("in_shop", "conventional")}
_CASES = [
    pytest.param(name, protocol, marks=pytest.mark.integration if (name, protocol) in _CHOSEN else pytest.mark.slow)
    for name in _RECIPES
    for protocol in ("conventional", *_FOLDED)
]


@pytest.mark.parametrize(("name", "protocol"), _CASES)
def test_from_prepare_to_evaluate(name, protocol, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = miniatures.make(name, tmp_path / "data")
    prepare(name, path, counts="any")
    changes = {**_SMALL, "data.options.path": str(path), "protocol.name": protocol}
    changes["protocol.folds"] = 2 if protocol in _FOLDED else "null"
    if not name.startswith("cifar"):
        # Keeps random and center crops, at a smaller size.
        changes.update({"data.size": 24, "data.short_side": 28, "data.options.counts": "any"})
    arguments = [_RECIPES[name], "--out", "row", "--verbose", "0"]
    for key, value in changes.items():
        arguments += [f"--{key}", str(value)]
    assert train_main(arguments) == 0
    assert f"Protocol {protocol}" in capsys.readouterr().out
    summary = json.loads((tmp_path / "row" / "summary.json").read_text())
    runs = sorted((tmp_path / "row" / "runs").iterdir())
    assert summary["data"] == name and summary["protocol"] == protocol
    assert len(runs) == (2 if protocol in ("fair", "cross_validation") else 1)
    ensemble = ["--ensemble"] if protocol == "fair" else []
    assert evaluate_main([*map(str, runs[:2]), *ensemble, "--no-figures"]) == 0
    assert "test classes: " in capsys.readouterr().out
    kept = list((tmp_path).rglob("evaluations/*/metrics.json"))
    assert len(kept) == (1 if ensemble else len(runs[:2]))
    if name == "in_shop":
        # Half of the four images of each of the four test classes are queries.
        assert json.loads(kept[0].read_text())["metrics"]["queries"] == 8
    if summary["evaluations"] == 1:
        kind = "ensemble" if ensemble else "separate"
        expected = summary["metrics"][kind]["map_at_r"]["mean"]
        assert json.loads(kept[0].read_text())["metrics"]["map_at_r"] == pytest.approx(expected, abs=1e-6)
