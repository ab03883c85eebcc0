"""Train the recipes that README compares, and rewrite their tables.

Runs `train.py RECIPE --seed SEED` for each recipe and seed in a separate process. Finished runs are skipped and
interrupted ones resumed, so the same command continues after an interruption. Then prints the tables, or, with
`--write`, puts them between their markers in README.md and docs/thesis.md.

    python benchmarks/release_figures.py runs/release --write
    python benchmarks/release_figures.py /tmp/tiny --recipes gap gsp --seeds 0 1 \\
        --train-options "--training.max_validations 1"          # a trial, which is not written into the pages
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from studies.report import paired_interval  # noqa: E402

BASELINE = "gap"
TITLES = {
    "gap": "average pooling, loss in the batch (`gap`)",
    "gap-ccp": "average pooling, CCP (`gap-ccp`)",
    "gsp": "GSP, loss in the batch (`gsp`)",
    "default": "GSP, CCP (`default`)",
}
METRICS = {"map_at_r": "MAP@R", "precision_at_1": "P@1"}
# The file with a table, the name in its markers, and the function that makes the table.
PAGES = {
    "README.md": ("release figures, short", lambda runs, environment: short_table(runs, environment)),
    "docs/thesis.md": ("release figures", lambda runs, environment: full_table(runs, environment)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--recipes", nargs="+", choices=tuple(TITLES), default=list(TITLES), metavar="RECIPE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-options", default="", help="further options of train.py, in one string, for a trial")
    parser.add_argument("--write", action="store_true", help="rewrite README.md and docs/thesis.md")
    options = parser.parse_args()
    if BASELINE not in options.recipes or len(set(options.seeds)) < 2:
        parser.error(f"The recipe {BASELINE!r} and two different seeds are needed for the differences.")
    if options.write and (options.train_options or set(options.recipes) != set(TITLES)):
        parser.error("--write needs all recipes, without --train-options.")
    folders = {
        (recipe, seed): options.out / f"{recipe}-{seed}" for recipe in options.recipes for seed in options.seeds
    }
    for (recipe, seed), folder in folders.items():
        train(recipe, seed, folder, shlex.split(options.train_options))
    if not options.train_options:
        for (recipe, seed), folder in folders.items():
            check_recipe(recipe, seed, folder)
    runs = {key: json.loads((folder / "test_metrics.json").read_text()) for key, folder in folders.items()}
    environment = read_environment(options.out, folders.values())
    for page, (name, table) in PAGES.items():
        text = table(runs, environment)
        if options.write:
            path = ROOT / page
            path.write_text(between_markers(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
            print(f"Rewrote {page}.")
        else:
            print(f"\n{page}\n\n{text}")


def train(recipe, seed, folder, options):
    """Run a recipe in a folder, unless it is finished."""
    machine = folder.parent / "machine.json"
    if not machine.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        machine.write_text(json.dumps({"cpu": cpu_model()}))
    if (folder / "test_metrics.json").exists():
        return
    if (folder / "recipe.yaml").exists():
        arguments = ["--resume", folder]
    else:
        arguments = [recipe, "--seed", seed, "--out", folder, *options]
    command = [sys.executable, ROOT / "train.py", *arguments]
    print(shlex.join(map(str, command)), flush=True)
    # A test may run this from a folder that does not have the package.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


def check_recipe(recipe, seed, folder):
    """Exit if a folder holds a run of another recipe, such as a trial with fewer steps."""
    from tfdml._utils.typed_values import to_mapping
    from tfdml.experiments.recipe_files import load_recipe

    found, expected = (
        {key: value for key, value in to_mapping(each).items() if key not in ("name", "description")}
        for each in (load_recipe((folder / "recipe.yaml").resolve()), load_recipe(recipe, {"seed": seed}))
    )
    if found != expected:
        changed = sorted(key for key in expected if found.get(key) != expected[key])
        sys.exit(f"{folder} is not a run of {recipe} with seed {seed}: {', '.join(changed)} differ. Remove it.")


def cpu_model():
    """Name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def read_environment(out, folders):
    """Describe the environment of the runs in one sentence. Exit if versions or CPUs differ between runs."""
    found = [json.loads((folder / "environment.json").read_text()) for folder in folders]
    described = {
        f"TensorFlow {each['packages']['tensorflow']}, Keras {each['packages']['keras']}, NumPy "
        f"{each['packages']['numpy']}, Python {each['python']}, {each['cpus']} CPU cores"
        for each in found
    }
    if len(described) > 1:
        sys.exit("The runs were made in different environments:\n" + "\n".join(sorted(described)))
    cpu = json.loads((out / "machine.json").read_text())["cpu"]
    commits = sorted({(each["git_commit"] or "unknown")[:7] for each in found})
    return f"{described.pop()} ({cpu}), tfdml {found[0]['tfdml']} at {', '.join(commits)}"


def values(runs, recipe, metric, part="test"):
    """Metric of the runs of a recipe, in the order of the seeds."""
    return np.array([run[part][metric] for (name, _), run in runs.items() if name == recipe])


def mean_and_deviation(numbers):
    """Format the mean and the sample standard deviation, such as `0.650 ± 0.007`."""
    return f"{numbers.mean():.3f} ± {numbers.std(ddof=1):.3f}"


def recipes_of(runs):
    return list(dict.fromkeys(recipe for recipe, _ in runs))


def rows_of(cells):
    head, *rows = cells
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def short_table(runs, environment):
    cells = [["", *METRICS.values()]]
    untrained = {metric: values(runs, BASELINE, metric, "untrained") for metric in METRICS}
    cells.append(["untrained network", *(f"{numbers.mean():.3f}" for numbers in untrained.values())])
    for recipe in recipes_of(runs):
        cells.append([TITLES[recipe], *(mean_and_deviation(values(runs, recipe, metric)) for metric in METRICS)])
    number = len(runs) // len(recipes_of(runs))
    return (
        f"{rows_of(cells)}\n\n*Test classes, mean ± standard deviation of {number} seeds; {environment}. "
        "Table by `benchmarks/release_figures.py`.*"
    )


def full_table(runs, environment):
    seeds = list(dict.fromkeys(seed for _, seed in runs))
    minutes = {recipe: np.mean([run["training"]["seconds"] for (name, _), run in runs.items() if name == recipe]) / 60
               for recipe in recipes_of(runs)}  # fmt: skip
    parts = [
        f"Test classes, seeds {', '.join(map(str, seeds))}: mean ± standard deviation, and the mean paired difference "
        f"from `{BASELINE}` with its 95 % t interval over the seeds. {environment}. Made by "
        "`python benchmarks/release_figures.py runs/release --write`."
    ]
    for metric, title in METRICS.items():
        baseline = values(runs, BASELINE, metric)
        cells = [[title, "mean ± std", f"difference from `{BASELINE}`", *(f"seed {seed}" for seed in seeds)]]
        untrained = values(runs, BASELINE, metric, "untrained")
        cells.append(["untrained network", mean_and_deviation(untrained), "", *(f"{each:.3f}" for each in untrained)])
        for recipe in recipes_of(runs):
            found = values(runs, recipe, metric)
            difference = "" if recipe == BASELINE else paired_interval(found - baseline)
            cells.append([TITLES[recipe], mean_and_deviation(found), difference, *(f"{each:.3f}" for each in found)])
        parts.append(rows_of(cells))
    times = ", ".join(f"`{recipe}` {each:.1f}" for recipe, each in minutes.items())
    parts.append(f"Minutes of training per run, on a machine that did other work as well: {times}.")
    return "\n\n".join(parts)


def between_markers(text, name, content):
    """Replace the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        sys.exit(f"The markers {begin} and {end} are needed once each.")
    return f"{text.partition(begin)[0]}{begin}\n{content}\n{end}{text.partition(end)[2]}"


if __name__ == "__main__":
    main()
