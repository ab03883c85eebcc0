"""The package metric-learn, made to work with current scikit-learn."""

import functools

import pytest


def import_metric_learn(monkeypatch):
    """Import metric-learn, whose release 0.7 uses an argument that scikit-learn has renamed since; skip without it."""
    metric_learn = pytest.importorskip("metric_learn")
    from metric_learn import _util

    def renaming(function):
        @functools.wraps(function)
        def renamed(*args, force_all_finite=True, **options):
            return function(*args, ensure_all_finite=force_all_finite, **options)

        return renamed

    for name in ("check_array", "check_X_y"):
        monkeypatch.setattr(_util, name, renaming(getattr(_util, name)))
    return metric_learn
