"""The lines that a training run prints."""

import io
import types

import pytest

from tfdml.experiments import progress
from tfdml.experiments.progress import ProgressBar, ProgressLines


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown_by(kind, clock, first=0, best=1, seconds=61.0, validations=60):
    stream = io.StringIO()
    early_stopping = types.SimpleNamespace(best_epoch=None)
    callback = kind(100, validations, early_stopping, stream)
    callback.on_train_begin()
    for epoch, value in enumerate((0.25, 0.5), start=first):
        callback.on_epoch_begin(epoch)
        if kind is ProgressBar:
            for batch in range(100):
                clock[0] += seconds / 100
                callback.on_train_batch_end(batch, {"loss": 0.75})
        else:
            clock[0] += seconds
        early_stopping.best_epoch = first + best if epoch == first + best else early_stopping.best_epoch
        logs = {"loss": 1.5, "val_map_at_r": value, "val_precision_at_1": 0.75, "gradient_norm": 3.0, "projection": 2}
        callback.on_epoch_end(epoch, logs)
    return stream.getvalue()


def test_a_line_for_each_validation(clock):
    assert shown_by(ProgressLines, clock).splitlines() == [
        "validation     step      loss    MAP@R      P@1   elapsed   left, at most   (* the best so far)",
        "      1/60      100   1.5000     0.2500     0.7500      1:01           59:59",
        "      2/60      200   1.5000     0.5000 *   0.7500      2:02           58:58",
    ]


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_pace(clock):
    lines = shown_by(ProgressLines, clock, first=10, seconds=600.0).splitlines()
    # 11 of 60 validations are done after the first, which took ten minutes.
    assert lines[1].split()[:2] == ["11/60", "1100"] and lines[1].split()[-2:] == ["10:00", "8:10:00"]


def test_lines_fit_a_terminal_whatever_the_numbers(clock):
    stream = io.StringIO()
    callback = ProgressLines(10**9, 10**5, types.SimpleNamespace(best_epoch=99_998), stream)
    callback.on_train_begin()
    callback.on_epoch_begin(99_998)
    clock[0] = 1e6
    callback.on_epoch_end(99_998, {"loss": float("nan"), "val_map_at_r": None})
    callback.on_epoch_end(99_998, {"loss": -123456789.0})
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) < 100 and "nan" in text and "-1.2e+08" in text and "–" in text


def test_the_bar_writes_over_itself(clock):
    text = shown_by(ProgressBar, clock)
    lines = text.split("\n")
    assert len(lines) == 4 and lines[0].startswith("\rvalidation")
    parts = lines[1].split("\r")
    assert "[====================]" in parts[-2] and parts[-1].startswith("      1/60      100   1.5000     0.2500")
    assert all(len(part) < 100 for line in lines for part in line.split("\r"))
    # The last part covers the bar.
    assert len(parts[-1]) >= max(map(len, parts[:-1]))
    # With at least 0.2 seconds between updates, 100 steps of 10 ms each make 5 updates.
    assert shown_by(ProgressBar, clock, seconds=1.0).count("\r") < 20
