"""The transfer study: geometry, weights of each problem, and reports."""

import csv
import shutil

import keras
import numpy as np
import pytest
import tiny_backbone
from matplotlib import figure
from scipy.spatial.distance import cdist

from studies import ccp_transfer as study
from studies.ccp_transfer import Geometry, ProblemWeights, Solution, best_validations, geometry
from studies.report import Report
from tfdml import models
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import result_of

TINY = {**tiny_backbone.CHANGES, "data.name": "glyphs", "data.options.characters": "ABCDEFGHKLMN"}


def naive_geometry(points, labels):
    """Query by query, pair by pair and class by class."""
    precisions, first = [], []
    for query in range(len(points)):
        distances = np.linalg.norm(points - points[query], axis=1)
        order = [other for other in np.argsort(distances) if other != query]
        right = [labels[other] == labels[query] for other in order][: sum(labels == labels[query]) - 1]
        first.append(right[0])
        precisions.append(np.mean([right[k] * np.mean(right[: k + 1]) for k in range(len(right))]))
    between, radii, spreads = [], [], []
    for label in np.unique(labels):
        members, others = points[labels == label], points[labels > label]
        between += cdist(members, others).ravel().tolist()
        spreads.append(np.linalg.norm(members - members.mean(axis=0), axis=1).mean())
        within = cdist(members, members)
        chosen = [within.max(axis=1).argmin()]
        of_class = [within[chosen].min(axis=0).max()]
        while len(chosen) < len(members):
            chosen.append(within[chosen].min(axis=0).argmax())
            of_class.append(within[chosen].min(axis=0).max())
        radii.append(np.mean(of_class))
    radius, distance = np.mean(radii), np.mean(between)
    return Geometry(np.mean(precisions), np.mean(first), radius, distance, np.mean(spreads), radius / distance)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_geometry_equals_loops(scale):
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(5), [2, 3, 5, 6, 8]))
    points = scale * (generator.normal(size=(5, 4))[labels] + 0.6 * generator.normal(size=(24, 4)))
    found, expected = geometry(points, labels), naive_geometry(points, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0.2 < found.map_at_r < 0.9


def test_best_validations(tmp_path):
    rows = [(50, 0, 0.9), (100, 0, 0.1), (150, 0, 0.3), (200, 0, 0.3), (250, 1, 0.2), (300, 1, 0.4), (350, 2, 0.1)]
    with open(tmp_path / "history.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "projection", "val_map_at_r"), *rows])
    assert best_validations(tmp_path / "history.csv") == [(50, 0.9), (300, 0.4), (350, 0.1)]
    # The first of two equal ones, as in training, without the warm-up.
    assert best_validations(tmp_path / "history.csv", passed_over=1) == [(150, 0.3), (300, 0.4), (350, 0.1)]


class Recorder(keras.callbacks.Callback):
    """Callback that keeps the weights of the embedder at each validation."""

    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_train_batch_end(self, batch, logs=None):
        # The last of an epoch is kept: a validation precedes changes by callbacks.
        self.weights[int(self.model.optimizer.iterations)] = self.model.embedder.get_weights()


class Stop(keras.callbacks.Callback):
    """Ends a run like Ctrl-C: after the backup of the first epoch, before the following callbacks."""

    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def small():
    """Register the tiny backbone, and skip the export of networks, which takes longer than the training."""
    with tiny_backbone.registered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfdml.experiments.runner.export_saved_model", lambda *arguments, **options: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    """A whole study of tiny runs: its folder, its result, and the weights at each validation."""
    folder = tmp_path_factory.mktemp("study")
    recorders = {}

    def recorded(recipe, path, extra_callbacks):
        recorders[path.name] = Recorder()
        return result_of(recipe, path, extra_callbacks=[*extra_callbacks, recorders[path.name]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "result_of", recorded)
        given = study.ccp_transfer(folder, [0], "digits-quick", TINY, shown_classes=3)
    return folder, given, {name: recorder.weights for name, recorder in recorders.items()}


def weights_of(file):
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.integration
@pytest.mark.parametrize("run", ["ccp-0", "fixed-0"])
def test_the_weights_of_each_problem_are_its_best(finished, run):
    folder, _, trained = finished
    path = folder / "runs" / run
    best = best_validations(path / "history.csv")
    files = sorted((path / "problems").iterdir())
    assert [file.name for file in files] == [f"{number + 1}.npz" for number in range(len(best))]
    assert len(best) == 1 if run == "fixed-0" else len(best) > 1
    for file, (step, _) in zip(files, best):
        for found, expected in zip(weights_of(file), trained[run][step]):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.integration
def test_what_a_study_leaves(finished):
    folder, given, _ = finished
    for name in ("ccp_transfer.md", "ccp_transfer.csv", "changes.csv", "seeds.csv", "embeddings.png"):
        assert (folder / name).stat().st_size > 0
    (of_seed,) = given
    assert {"problem 1", "problem 2", "CCP, best of all", "fixed proxies"} <= set(of_seed)
    # The result of the run is that of its best problem, computed in another way.
    for name, kind in (("CCP, best of all", "ccp"), ("fixed proxies", "fixed")):
        run = RunFolder.open(folder / "runs" / f"{kind}-0")
        result = result_of(run.load_recipe(), run.path)
        if result.validation["epoch"] == 0:  # Nothing beat the untrained network, whose weights the run keeps.
            continue
        test = result.test
        assert of_seed[name].map_at_r == pytest.approx(test["map_at_r"], rel=1e-6)
        assert of_seed[name].precision_at_1 == pytest.approx(test["precision_at_1"], rel=1e-6)


@pytest.mark.integration
def test_a_second_call_trains_nothing_and_gives_the_same(finished, monkeypatch):
    folder, given, _ = finished

    def fail(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(models.MetricModel, "fit", fail)
    monkeypatch.setattr(study, "_figure", lambda *arguments: figure.Figure())
    assert study.ccp_transfer(folder, [0], "digits-quick", TINY, shown_classes=3) == given


@pytest.mark.integration
def test_a_stopped_run_ends_with_the_same_weights(finished, tmp_path):
    """Stop when the first epoch is saved, but its weights, the best so far, are not yet written."""
    whole = finished[0] / "runs" / "ccp-0"
    path = tmp_path / "ccp-0"
    recipe = load_recipe("digits-quick", {**study.SETTING, **TINY, "seed": 0})
    with pytest.raises(KeyboardInterrupt):
        result_of(recipe, path, extra_callbacks=[Stop(), ProblemWeights(path / "problems")])
    assert not (path / "problems").exists()
    result_of(recipe, path, extra_callbacks=[ProblemWeights(path / "problems")])
    assert (path / "history.csv").read_text() == (whole / "history.csv").read_text()
    files = sorted((whole / "problems").iterdir())
    assert [file.name for file in files] == sorted(file.name for file in (path / "problems").iterdir())
    for file in files:
        for found, expected in zip(weights_of(path / "problems" / file.name), weights_of(file)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.integration
def test_a_run_without_its_problems_weights(finished, tmp_path):
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "ccp-0" / "problems" / "2.npz").unlink()
    with pytest.raises(InputError, match="has no weights of problem 2"):
        study.ccp_transfer(tmp_path, [0], "digits-quick", TINY)


def solution(step, value, labels=None, validation=0.5):
    embeddings = None if labels is None else np.random.default_rng(step).normal(size=(len(labels), 2))
    return Solution(step, validation, embeddings, Geometry(value, value, 1 - value, 1.0, 0.5, 1 - value))


def test_the_best_of_all_is_the_best_by_validation(monkeypatch):
    problems = {"ccp": [solution(50, 0.5), solution(100, 0.6, validation=0.7), solution(150, 0.8)]}
    problems["fixed"] = [solution(150, 0.55)]
    monkeypatch.setattr(study, "_solved", lambda path, images: problems[path])
    found = study._solutions({"ccp": "ccp", "fixed": "fixed"}, None)
    assert list(found) == ["problem 1", "problem 2", "problem 3", "CCP, best of all", "fixed proxies"]
    assert found["CCP, best of all"] is found["problem 2"]
    # If no problem ended, there is only the first one.
    problems["ccp"] = problems["ccp"][:1]
    found = study._solutions({"ccp": "ccp", "fixed": "fixed"}, None)
    assert list(found) == ["problem 1", "CCP, best of all", "fixed proxies"]


def test_tables_of_seeds_with_more_and_fewer_problems(tmp_path):
    def of_seed(values, fixed):
        problems = [solution(100 * (place + 1), value) for place, value in enumerate(values)]
        named = {f"problem {place + 1}": found for place, found in enumerate(problems)}
        return {**named, "CCP, best of all": problems[-1], "fixed proxies": solution(900, fixed)}

    study._tables(Report(tmp_path), [of_seed([0.5, 0.6], 0.4), of_seed([0.6, 0.7, 0.8], 0.7)], [3, 4])
    tables = {
        name: list(csv.reader((tmp_path / f"{name}.csv").read_text().splitlines()))
        for name in ("ccp_transfer", "changes", "seeds")
    }
    rows = {row[0]: row[1:4] for row in tables["ccp_transfer"][1:]}
    assert rows["problem 1"] == ["2", "100 ± 0", f"0.550 ± {np.std([0.5, 0.6], ddof=1):.3f}"]
    assert rows["problem 3"] == ["1", "300", "0.800"]
    assert rows["CCP, best of all"][:2] == ["2", f"250 ± {np.std([200, 300], ddof=1):.0f}"]
    changes = {row[0]: row[1:] for row in tables["changes"][1:]}
    deviation = np.std([0.1, 0.2], ddof=1)
    assert changes["CCP, best of all, minus problem 1"][0] == f"0.150 ± {deviation:.3f}"
    assert changes["CCP, best of all, minus problem 1"][2] == f"-0.150 ± {deviation:.3f}"
    assert changes["fixed proxies, minus problem 1"][0] == f"0.000 ± {np.std([-0.1, 0.1], ddof=1):.3f}"
    assert changes["CCP, best of all, minus fixed proxies"][0] == f"0.150 ± {np.std([0.2, 0.1], ddof=1):.3f}"
    assert [row[:3] for row in tables["seeds"][1:3]] == [["3", "problem 1", "100"], ["3", "problem 2", "200"]]
    assert len(tables["seeds"]) == 1 + 4 + 5


def test_the_image_shows_some_classes_and_some_problems():
    labels = np.repeat(np.arange(9), 3)
    test = type("Images", (), {"labels": labels, "num_classes": 9, "class_names": list("abcdefghi")})
    solutions = {f"problem {number}": solution(number, 0.5, labels) for number in range(1, 9)}
    solutions |= {"CCP, best of all": solution(8, 0.5, labels), "fixed proxies": solution(99, 0.6, labels)}
    panels = study._figure(solutions, test, shown_classes=4).axes
    headings = [axes.get_title().split("\n") for axes in panels]
    assert [heading[0] for heading in headings] == [
        "problem 1, 1 steps", "problem 2, 2 steps", "problem 4, 4 steps", "problem 6, 6 steps", "problem 8, 8 steps",
        "fixed proxies, 99 steps",
    ]  # fmt: skip
    assert headings[-1][1:] == ["MAP@R 0.600", "radius 0.400, distance 1.000"]
    for axes in panels:
        assert [text.get_text() for text in axes.texts] == list("acfi")


def test_too_few_classes_to_draw(tmp_path):
    with pytest.raises(InputError, match="shown_classes=1. Expected: at least 2"):
        study.ccp_transfer(tmp_path, shown_classes=1)
    assert not list(tmp_path.iterdir())
