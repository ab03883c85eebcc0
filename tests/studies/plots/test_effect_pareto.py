import numpy as np
import pytest

from studies.plots import EffectPanel, effect_pareto

PANEL = EffectPanel("C2", ["m", "μ", "ε"], [0.5, -1.0, -3.0], limit=0.8)


def test_bars_in_order_of_size():
    figure = effect_pareto([PANEL, EffectPanel("other", ["a"], [0.0])], "effect (points)", title="title")
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["ε", "μ", "m"]
    np.testing.assert_allclose([bar.get_width() for bar in first.patches], [3.0, 1.0, 0.5])
    assert [text.get_text() for text in first.texts] == ["-3.00", "-1.00", "+0.50"]
    colors = [bar.get_facecolor() for bar in first.patches]
    assert colors[0] == colors[1] != colors[2]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the greatest at the top
    assert list(first.lines[0].get_xdata()) == [0.8, 0.8] and not second.lines
    assert (first.get_title(), first.get_xlabel()) == ("C2", "effect (points)")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["raises", "lowers", "significance limit (95%)"]
    assert figure.get_suptitle() == "title"


def test_without_limit():
    figure = effect_pareto([PANEL._replace(limit=None)], "effect")
    assert len(figure.legends[0].get_texts()) == 2 and not figure.axes[0].lines


def test_errors():
    with pytest.raises(ValueError, match="no panel"):
        effect_pareto([], "x")
    with pytest.raises(ValueError, match=r"3 names and values of shape \(2,\)"):
        effect_pareto([PANEL._replace(values=[1.0, 2.0])], "x")
    with pytest.raises(ValueError, match="0 names"):
        effect_pareto([EffectPanel("", [], [])], "x")
