import numpy as np
import pytest
from sklearn import metrics

from tfdml import plots
from tfdml.gallery import OperatingCurve

RNG = np.random.default_rng(0)
POSITIVE = np.arange(300) < 60
# Integers, so that there are ties.
VALUES = RNG.integers(0, 40, 300) - 8 * POSITIVE


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def marks(axes):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "None"]


def test_roc_curve_is_that_of_scikit_learn():
    figure = plots.roc_curve({"ours": (VALUES, POSITIVE), "other": (-VALUES, POSITIVE)}, thresholds={"ours": 9})
    (axes,) = figure.axes
    false, true, _ = metrics.roc_curve(POSITIVE, -VALUES, drop_intermediate=False)
    x, y = line(axes, "ours")
    assert metrics.auc(x, y) == pytest.approx(metrics.auc(false, true))
    drawn = set(zip(x.round(9), y.round(9)))
    assert {point for point in zip(false.round(9), true.round(9)) if point[0] in x.round(9)} <= drawn
    assert marks(axes) == [(np.mean(VALUES[~POSITIVE] <= 9), np.mean(VALUES[POSITIVE] <= 9))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "other"]


def test_logarithmic_roc_curve_shows_no_rate_below_one_pair():
    (axes,) = plots.roc_curve({"a": (VALUES, POSITIVE)}, thresholds={"a": -9}, log=True, title="T").axes
    assert axes.get_xscale() == "log"
    assert line(axes, "a")[0].min() == axes.get_xlim()[0] == 0.5 / 240
    assert marks(axes) == [(0.5 / 240, 0.0)]


def test_precision_recall_curve_is_that_of_scikit_learn():
    (axes,) = plots.precision_recall_curve({"a": (VALUES, POSITIVE)}, thresholds={"a": 9}).axes
    precision, recall, _ = metrics.precision_recall_curve(POSITIVE, -VALUES)
    x, y = line(axes, "a")
    expected = {(r, p) for r, p in zip(recall.round(9), precision.round(9))}
    assert set(zip(x.round(9), y.round(9))) <= expected and x[-1] == 1.0
    accepted = VALUES <= 9
    assert marks(axes) == [pytest.approx((np.mean(accepted[POSITIVE]), np.mean(POSITIVE[accepted])))]


def test_large_curves_have_few_vertices():
    values = np.random.default_rng(0).normal(size=20_000)
    positive = np.arange(20_000) % 2 == 0
    for figure in (plots.roc_curve({"a": (values, positive)}), plots.precision_recall_curve({"a": (values, positive)})):
        x, _ = line(figure.axes[0], "a")
        assert len(x) <= 2000 and x[-1] == 1.0


def test_histogram_shows_shares_and_the_threshold():
    figure = plots.distance_histogram(VALUES, POSITIVE, threshold=9.0, bins=10, names=("known", "unknown"))
    (axes,) = figure.axes
    edges = np.linspace(VALUES.min(), VALUES.max(), 11)
    filled = [patch for patch in axes.patches if patch.get_fill()]
    for patch, kind in zip(filled, (POSITIVE, ~POSITIVE)):
        np.testing.assert_allclose(patch.get_data().values, np.histogram(VALUES[kind], edges)[0] / kind.sum())
        np.testing.assert_allclose(patch.get_data().edges, edges)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    true, false = np.mean(VALUES[POSITIVE] <= 9), np.mean(VALUES[~POSITIVE] <= 9)
    assert texts == ["known", "unknown", f"threshold 9: accepts {true:.1%} and {false:.1%}"]
    assert axes.get_ylabel() == "share"
    plots.distance_histogram([1.0, 1.0], [True, False])


def test_operating_curve_shows_the_rates_that_are_defined():
    rates = np.array([[0.5, 0.7, 0.9], [0.0, 0.1, 0.2], [0.8, 0.9, 1.0], [np.nan, 0.9, 0.8]])
    figure = plots.operating_curve(OperatingCurve(*rates), threshold=0.7)
    (axes,) = figure.axes
    for name, values in zip(("false-accept rate", "true-accept rate", "precision"), rates[1:]):
        np.testing.assert_array_equal(line(axes, name), [rates[0], values])
    assert line(axes, "threshold 0.7")[0].size == 0
    figure = plots.operating_curve(OperatingCurve(*rates[:2], *np.full((2, 3), np.nan)))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["false-accept rate"]


BAD = {
    "rates": (lambda: plots.operating_curve(OperatingCurve(*np.zeros((3, 2)), np.zeros(3))), "do not match"),
    "nothing": (lambda: plots.roc_curve({}), "no curves"),
    "shape": (lambda: plots.roc_curve({"a": ([1.0], [True, False])}), "shape \\(1,\\)"),
    "NaN": (lambda: plots.precision_recall_curve({"a": ([1.0, np.nan], [True, False])}), "1 are not finite"),
    "one kind": (lambda: plots.distance_histogram([1.0, 2.0], [True, True]), "2 positives of 2"),
    "threshold": (lambda: plots.roc_curve({"a": (VALUES, POSITIVE)}, thresholds={"b": 1}), "'b'.*\\['a'\\]"),
    "bins": (lambda: plots.distance_histogram(VALUES, POSITIVE, bins=0), "bins=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
