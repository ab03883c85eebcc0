import numpy as np
import pytest

from tfdml.plots import training_curve


def boundaries(axes):
    """x of the vertical lines across the whole panel."""
    return [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


HISTORY = {
    "loss": [1.0, 0.8, 0.9, 0.5, 0.6, 0.4],
    "val_map_at_r": [0.1, 0.2, 0.25, 0.4, 0.3, 0.35],
    "projection": [0, 0, 1, 1, 1, 2],
}


def test_draws_the_columns_as_they_are():
    loss, metric = training_curve(HISTORY).axes
    np.testing.assert_array_equal(line(loss, "loss").get_ydata(), HISTORY["loss"])
    np.testing.assert_array_equal(line(metric, "MAP@R (validation)").get_ydata(), HISTORY["val_map_at_r"])
    np.testing.assert_array_equal(line(metric, "MAP@R (validation)").get_xdata(), [1, 2, 3, 4, 5, 6])
    assert loss.get_ylabel() == "loss"
    assert metric.get_ylabel() == "MAP@R (validation)"
    assert metric.get_xlabel() == "epoch"


def test_marks_the_best_value():
    _, metric = training_curve(HISTORY).axes
    best = line(metric, "best")
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([4.0], [0.4])
    assert "0.4 at epoch 4" in [text.get_text() for text in metric.texts]


def test_a_boundary_wherever_the_projection_changes():
    loss, metric = training_curve(HISTORY).axes
    assert boundaries(loss) == boundaries(metric) == [2.5, 5.5]
    assert [text.get_text() for text in loss.texts] == ["0", "1", "2", "projection"]


@pytest.mark.parametrize("projection", [[0] * 6, [np.nan, 3, 3, np.nan, 3, None], [None] * 6])
def test_one_projection_has_no_boundary(projection):
    assert boundaries(training_curve({**HISTORY, "projection": projection}).axes[0]) == []


def test_a_missing_projection_number_belongs_to_the_row_before():
    assert boundaries(training_curve({**HISTORY, "projection": [0, "", 0, None, 1, np.nan]}).axes[0]) == [4.5]


def test_steps_go_before_epochs_and_a_named_column_before_both():
    history = {**HISTORY, "epoch": range(6), "step": range(0, 600, 100), "seconds": np.arange(6) * 2.5}
    for x, name, values in ((None, "step", history["step"]), ("seconds", "seconds", history["seconds"])):
        axes = training_curve(history, x=x).axes[-1]
        assert axes.get_xlabel() == name
        np.testing.assert_array_equal(line(axes, "MAP@R (validation)").get_xdata(), values)
    del history["step"]
    axes = training_curve(history).axes[-1]
    np.testing.assert_array_equal(line(axes, "MAP@R (validation)").get_xdata(), range(6))


def test_rows_without_a_number_are_left_out():
    figure = training_curve({"loss": [1.0, 2.0, 3.0], "val_map_at_r": [None, float("nan"), "0.5"]})
    metric = figure.axes[1]
    np.testing.assert_array_equal(line(metric, "MAP@R (validation)").get_xdata(), [3])
    np.testing.assert_array_equal(line(metric, "best").get_ydata(), [0.5])


def test_a_metric_without_any_number_has_no_best():
    metric = training_curve({"loss": [1.0, 2.0], "val_map_at_r": [np.nan, np.nan]}).axes[1]
    assert [line.get_label() for line in metric.lines] == ["MAP@R (validation)"]


@pytest.mark.parametrize("missing", ["loss", "val_map_at_r"])
def test_one_column_is_enough(missing):
    history = {name: column for name, column in HISTORY.items() if name != missing}
    (axes,) = training_curve(history).axes
    assert axes.get_ylabel() == ("loss" if missing == "val_map_at_r" else "MAP@R (validation)")
    assert axes.get_xlabel() == "epoch"


def test_a_single_row_and_another_monitor():
    figure = training_curve({"loss": [1.0], "val_recall_at_1": [0.5]}, monitor="val_recall_at_1", title="one")
    assert figure.axes[1].get_ylabel() == "R@1 (validation)"
    assert figure.get_suptitle() == "one"


def test_errors():
    with pytest.raises(ValueError, match=r"columns \['accuracy'\]. Expected: 'loss' or 'val_map_at_r'"):
        training_curve({"accuracy": [1.0]})
    with pytest.raises(ValueError, match="history is empty"):
        training_curve({"loss": []})
    with pytest.raises(ValueError, match=r"Unknown column. Received: x='hours'"):
        training_curve(HISTORY, x="hours")
    with pytest.raises(ValueError, match=r"differ in length.*'loss': 6.*'projection': 2"):
        training_curve({**HISTORY, "projection": [0, 1]})
