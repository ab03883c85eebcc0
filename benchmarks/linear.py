"""Time and memory of LMNN, compared with metric-learn in the same run.

    python benchmarks/linear.py                                             # scikit-learn's digits, 1,797 x 64
    python benchmarks/linear.py --samples 60000 --dim 128 --alone --max-iter 30    # memory of a large fit

Other work on the machine lengthens wall times; CPU times are less affected by it. They include the waiting of the
threads of BLAS for each other: compare them with OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from benchmarks import children  # noqa: E402

CLASSES = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="size of generated data; without it, scikit-learn's digits")
    parser.add_argument("--dim", type=int, default=128, help="features of generated data (default: %(default)s)")
    parser.add_argument(
        "--spread", type=float, default=1.0, help="deviation of the means of generated classes (default: %(default)s)"
    )
    parser.add_argument("--alone", action="store_true", help="do not run metric-learn")
    parser.add_argument("--max-iter", type=int, default=1000, help="iterations of both (default: %(default)s)")
    parser.add_argument("--tol", type=float, default=1e-4, help="tolerance of tfdml (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="fits of each, alternating (default: %(default)s)")
    parser.add_argument("--child", choices=["tfdml", "metric-learn"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(fit(options)))
        return
    passed = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("dim", "spread", "max_iter", "tol")]
    passed += [] if options.samples is None else [f"--samples={options.samples}"]
    names = ["tfdml"] if options.alone else ["tfdml", "metric-learn"]
    results = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            results[name].append(children.result_of(__file__, "--child", name, *passed))
    first = results["tfdml"][0]
    print(f"LMNN on {first['samples']} samples x {first['features']}, {os.cpu_count()} cores")
    for name, runs in results.items():
        print(
            f"{name:14s} {np.median([run['seconds'] for run in runs]):8.1f} s, "
            f"{np.median([run['cpu'] for run in runs]):.1f} s of CPU, {runs[0]['iterations']} iterations, peak memory "
            f"{max(run['peak'] for run in runs):.0f} MiB ({max(run['added'] for run in runs):.0f} MiB more than before "
            f"the fit), objective {runs[0]['objective']:.2f}"
        )
    if not options.alone:
        added = [max(run["added"] for run in results[name]) for name in names]
        for title, key in (("time", "seconds"), ("CPU time", "cpu")):
            times = [np.array([run[key] for run in results[name]]) for name in names]
            ratios = times[1] / times[0]
            print(
                f"metric-learn takes {np.median(ratios):.2f} x the {title} (each round: "
                f"{', '.join(f'{ratio:.2f}' for ratio in ratios)})"
            )
        print(f"and {added[1] / max(added[0], 1):.1f} x the memory")


def fit(options):
    """Fit in this process, and evaluate the objective with the same code for both."""
    from tfdml.linear.lmnn import LMNN, Triplets

    if options.samples is None:
        X, y = load_digits(return_X_y=True)
        X = X / 16.0
    else:
        generator = np.random.default_rng(0)
        y = np.arange(options.samples) % CLASSES
        X = generator.normal(size=(options.samples, options.dim))
        X += options.spread * generator.normal(size=(CLASSES, options.dim))[y]
    if options.child == "tfdml":
        estimator = LMNN(max_iter=options.max_iter, tol=options.tol)
    else:
        estimator = _metric_learn().LMNN(init="identity", learn_rate=1e-4, max_iter=options.max_iter)
    before = children.high_water_mark()
    start, start_cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = children.high_water_mark()
    order = np.argsort(y, kind="stable")
    if options.child == "tfdml":
        objective = estimator.objective_
    else:
        objective = Triplets(X[order], y[order], 3, 0.5, 2**29).objective(estimator.components_)[0]
    return {
        "samples": len(X), "features": X.shape[1], "seconds": seconds, "cpu": cpu, "peak": peak,
        "added": peak - before, "iterations": int(estimator.n_iter_), "objective": float(objective),
    }  # fmt: skip


def _metric_learn():
    """Import metric-learn. Its release 0.7 uses an argument that scikit-learn has renamed since."""
    import metric_learn
    from metric_learn import _util

    for name in ("check_array", "check_X_y"):
        setattr(_util, name, _renaming(getattr(_util, name)))
    return metric_learn


def _renaming(function):
    return lambda *args, force_all_finite=True, **options: function(
        *args, ensure_all_finite=force_all_finite, **options
    )


if __name__ == "__main__":
    main()
