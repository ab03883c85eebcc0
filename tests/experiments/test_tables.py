"""The tables: plausibility of their figures, and the output for finished protocols."""

import copy
import csv
import functools
import json

import pytest

from tfdml.experiments import InputError, dump_recipe, plan
from tfdml.experiments import load_recipe as load_anew
from tfdml.experiments.recipe_files import recipe_hash
from tfdml.experiments.table_files import Figure, load_table, table_names
from tfdml.experiments.tables import find_results, place_results, tables_main

TABLES = {name: load_table(name) for name in table_names()}
FAIR = ("table-3.1", "table-5.1", "table-5.3")


@functools.cache
def load_recipe(name, /, **changes):
    """Return a recipe with changes, with `__` for the dots of keys. Cached, because reading is slow."""
    return load_anew(name, {key.replace("__", "."): value for key, value in changes.items()})


def figures():
    """Every list of figures with its table, row and dataset."""
    for table in TABLES.values():
        for row in table.rows.values():
            for data, cells in row.figures.items():
                yield table, row, table.data[data], cells


def test_every_figure_is_a_percentage_with_a_small_deviation():
    for table, row, data, cells in figures():
        place = table.name, row.key, data.key
        assert len(cells) == len(data.columns), place
        known = [cell for cell in cells if cell is not None]
        assert known and all(10 < cell.value < 100 for cell in known), place
        assert all(cell.deviation is None or 0 < cell.deviation < 0.7 for cell in known), place
        assert (table.name in ("table-5.1", "psomas-cross-validation")) == all(cell.deviation for cell in known), place


def test_figures_of_a_row_are_in_order():
    for table, row, data, cells in figures():
        place = table.name, row.key, data.key
        values = {column.label: cell.value for column, cell in zip(data.columns, cells) if cell is not None}
        if table.name in FAIR:
            assert values["512D MAP@R"] > values["128D MAP@R"], place
        if table.name in FAIR[:2]:
            assert values["512D P@1"] > values["128D P@1"], place
            assert values["512D P@1"] > values["512D MAP@R"] and values["128D P@1"] > values["128D MAP@R"], place
        if "MAP@R" in values and "R@1" in values:
            assert values["R@1"] > values["MAP@R"], place
        recalls = [value for label, value in values.items() if label.startswith("R@")]
        assert recalls == sorted(recalls) and len(set(recalls)) == len(recalls), place


def test_what_is_printed_twice():
    first, second = TABLES["table-5.1"].rows, TABLES["table-5.3"].rows
    for key in ("c2", "c2-gsp"):
        for data, (of_512, of_128) in second[key].figures.items():
            printed = first[key].figures[data]
            doubted = (key, data) == ("c2-gsp", "cub")
            assert printed[1].value == of_512.value, (key, data)
            assert abs(printed[3].value - of_128.value) < (0.011 if doubted else 1e-9), (key, data)
            assert doubted == (data in second[key].doubts), (key, data)
    # Both chapters quote the literature.
    for one, other in (("table-3.2a", "table-5.2a"), ("table-3.2b", "table-5.2b")):
        for key in ("diva", "diva-512", "proxy-anchor", "proxy-anchor-512", "libc-512"):
            if key in TABLES[one].rows:
                for data, (figure,) in TABLES[one].rows[key].figures.items():
                    assert TABLES[other].rows[key].figures[data][0] == figure, (one, key, data)
    default = TABLES["psomas-512"].rows
    assert default["proxy-anchor"].figures["cub-bn-inception"][0] == Figure(68.11, None)


def test_figures_read_off_the_page():
    table = TABLES["table-3.1"]
    assert list(table.data) == ["sop", "in-shop", "cub", "cars196"] and len(table.rows) == 13
    assert [cell.value for cell in table.rows["ms-ccp-l"].figures["in-shop"]] == [90.24, 63.59, 87.10, 59.15]
    assert len(TABLES["table-5.1"].rows) == 15
    assert TABLES["table-5.1"].rows["c1-ccp-gsp"].figures["cub"][3] == Figure(21.19, 0.27)
    assert TABLES["table-5.2a"].rows["c1-xbm-gsp"].figures["cars196"] == [Figure(79.07, None), Figure(36.11, None)]
    assert "36.11" in TABLES["table-5.2a"].rows["c1-xbm-gsp"].doubts["cars196"]
    assert "in-shop" not in TABLES["table-3.2a"].rows["diva"].figures
    assert TABLES["psomas-cross-validation"].rows["soft-triple"].figures["cub"] == [Figure(64.09, 0.48)]


def test_every_table_says_what_it_is():
    for table in TABLES.values():
        assert table.title and table.source and table.statistic in ("mean", "best")
        for row in table.rows.values():
            assert {*row.figures, *row.parts_of, *row.doubts} <= {*table.data, "all"}, (table.name, row.key)
        conventional = any("conventional" in str(part) for part in table.parts)
        assert not conventional or any("on the test classes" in note for note in table.notes), table.name
    with pytest.raises(InputError, match="Unknown table 'table-3.11'. Did you mean 'table-3.1'.*Expected: one of"):
        load_table("table-3.11")


def statistics(mean, deviation=0.002):
    """Statistics of every metric, with different means to distinguish the columns."""
    names = ["precision_at_1", "map_at_r", *(f"recall_at_{k}" for k in (2, 4, 8))]
    return {
        name: {"mean": mean - 0.01 * number, "deviation": deviation, "best": mean - 0.01 * number + 0.003}
        for number, name in enumerate(names)
    }


def finish(folder, recipe, **changes):
    """Write the folder of a finished protocol."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    fair = recipe.protocol.name == "fair"
    summary = {
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "protocol": recipe.protocol.name,
        "data": recipe.data.name,
        "folds": 4 if fair else None,
        "repeats": recipe.protocol.repeats,
        "evaluations": 81 if fair else recipe.protocol.repeats,
        "metrics": {"separate": statistics(0.6), **({"ensemble": statistics(0.7)} if fair else {})},
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Finished, changed and unfinished protocols, and an unfinished run, in a folder."""
    path = {"data__options__path": "/somewhere/CUB"}
    runs = tmp_path / "runs"
    finish(runs / "one", load_recipe("table-5.1/cub/c2-gsp", **path))
    finish(runs / "deeper" / "other", load_recipe("table-3.1/cub/c1", name="mine", **path))
    finish(runs / "changed", load_recipe("table-3.1/cub/c2-ccp-l", training__patience=30, **path))
    finish(runs / "glyphs", load_recipe("fair/glyphs/c2"), evaluations=1)
    finish(runs / "conventional", load_recipe("table-5.2a/cars196/c1-xbm-gsp", **path))
    finish(runs / "own", load_recipe("gap", protocol__name="fair"))
    unfinished = load_recipe("table-3.1/sop/c1", **path)
    for number, run in enumerate(plan(unfinished)):
        (runs / "begun" / "runs" / run.name).mkdir(parents=True)
        if number < 2:
            (runs / "begun" / "runs" / run.name / "test_metrics.json").write_text("{}")
    (runs / "begun" / "recipe.yaml").write_text(dump_recipe(unfinished))
    (runs / "single").mkdir()
    (runs / "single" / "recipe.yaml").write_text(dump_recipe(load_recipe("gap")))
    (runs / "single" / "environment.json").write_text("{}")
    return runs


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_of_a_folder(folders, capsys):
    assert tables_main([str(folders)]) == 0
    text = capsys.readouterr().out
    titles = [line for line in text.splitlines() if line.startswith("# ")]
    # The row C2+GSP is in two tables.
    assert [title.split(",")[0][2:] for title in titles[:4]] == ["Table 3.1", "Table 5.1", "Table 5.2a", "Table 5.3"]
    assert lines_of(text, "## ") == ["## CUB", "## CUB", "## Cars196", "## CUB", "## Glyphs"]
    # All rows of the table in the original order, and the result next to the published figures.
    row = load_recipe("table-5.1/cub/c2-gsp")
    (line,) = [line for line in lines_of(text, "| C2+GSP") if "68.85" in line]
    assert cells(line) == [
        "C2+GSP", "68.85 ± 0.41", "70.00 ± 0.20 (+1.15)", "27.12 ± 0.27", "69.00 ± 0.20 (+41.88)", "60.42 ± 0.36",
        "60.00 ± 0.20 (-0.42)", "21.53 ± 0.24", "59.00 ± 0.20 (+37.47)", "81", recipe_hash(row),
    ]  # fmt: skip
    (line,) = [line for line in lines_of(text, "| PNCA+GSP") if "65.80" in line]
    assert cells(line)[2] == "–" and cells(line)[-2:] == ["–", "–"]
    # Table 5.3 has only MAP@R, and a note on an odd figure.
    (line,) = lines_of(text, "| C2, ZSP and GSP †")
    assert cells(line)[1:5] == ["27.12", "69.00 ± 0.20 (+41.88)", "21.52", "59.00 ± 0.20 (+37.48)"]
    assert "† C2, ZSP and GSP: 21.52 (128D) is 21.53 in table 5.1." in text


def test_the_best_of_the_conventional_evaluation_and_its_label(folders, capsys):
    tables_main([str(folders), "--table", "table-5.2a"])
    text = capsys.readouterr().out
    assert text.count("**Early stopping on the test classes.**") == 1
    (line,) = [line for line in lines_of(text, "| C1+XBM+GSP †")]
    assert cells(line)[1:6] == [
        "79.07", "60.00 ± 0.20, best 60.30 (-18.77)", "36.11", "59.00 ± 0.20, best 59.30 (+23.19)", "3",
    ]  # fmt: skip
    assert "† C1+XBM+GSP: MAP@R 36.11 looks like" in text
    assert cells(lines_of(text, "| DiVA")[0])[1:5] == ["84.10", "–", "–", "–"]
    assert "# Finished, not in a row of these tables" not in text.split("# Table")[0]


def test_a_changed_recipe_is_never_the_row(folders, capsys):
    tables_main([str(folders), "--table", "table-3.1"])
    text = capsys.readouterr().out
    assert "Early stopping" not in text
    (line,) = [line for line in lines_of(text, "| C2+CCP-L")]
    assert cells(line)[0] == "C2+CCP-L *changed*" and cells(line)[2] == "70.00 ± 0.20"
    assert cells(line)[-1] != recipe_hash(load_recipe("table-3.1/cub/c2-ccp-l"))
    assert f"*changed* {folders / 'changed'}: training.patience 60 → 30" in text
    # Another name does not count as a change.
    assert cells(lines_of(text, "| C1 ")[0])[2] == "70.00 ± 0.20 (+6.33)"


def test_a_table_without_figures(folders, capsys):
    tables_main([str(folders), "--table", "fair-small"])
    text = capsys.readouterr().out
    header, _, first, second = [line for line in text.splitlines() if line.startswith("|")][:4]
    assert cells(header) == ["method", "512D P@1", "512D MAP@R", "128D P@1", "128D MAP@R", "n", "recipe"]
    assert cells(first)[:2] == ["C2", "70.00 ± 0.20"] and cells(second)[:2] == ["C2+GSP", "–"]
    assert ", published" not in text


def test_what_is_in_no_table_is_listed(folders, capsys):
    tables_main([str(folders), "--out", str(folders / "tables")])
    capsys.readouterr()
    text = (folders / "tables" / "other-runs.md").read_text()
    assert f"- {folders / 'begun'}: table-3.1/sop/c1: 2 of 4 runs" in text
    (line,) = lines_of(text, f"- {folders / 'own'}: gap, recipe ")
    assert line.endswith("separate MAP@R 59.00 ± 0.20, separate P@1 60.00 ± 0.20, ensemble MAP@R 69.00 ± 0.20, "
                         "ensemble P@1 70.00 ± 0.20 (n=81)")  # fmt: skip
    assert f"- {folders / 'single'}: gap, seed 0" in text and "Cannot be used" not in text


def test_csv(folders, capsys):
    assert tables_main([str(folders), "--out", str(folders / "tables")]) == 0
    written = sorted(path.name for path in (folders / "tables").iterdir())
    stems = ["fair-small", "table-3.1", "table-5.1", "table-5.2a", "table-5.3"]
    assert written == sorted(["other-runs.md", *(f"{stem}.{end}" for stem in stems for end in ("csv", "md"))])
    assert (folders / "tables" / "table-5.1.md").read_text() in capsys.readouterr().out
    with open(folders / "tables" / "table-3.1.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["column"]) for row in rows[:2]] == [("c1", "512D P@1"), ("c1", "512D MAP@R")]
    first = rows[0]
    numbers = ("published", "published_deviation", "mean", "deviation", "best", "difference")
    assert [first[key] for key in numbers] == ["63.6700", "", "70.0000", "0.2000", "70.3000", "6.3300"]
    assert first["status"] == "as published" and first["early_stopping_on"] == "validation classes"
    assert first["recipe_hash"] == recipe_hash(load_recipe("table-3.1/cub/c1")) and first["evaluations"] == "81"
    assert rows[4]["status"] == "changed: training.patience 60 → 30" and rows[4]["difference"] == ""
    with open(folders / "tables" / "table-5.2a.csv", newline="") as file:
        assert {row["early_stopping_on"] for row in csv.DictReader(file)} == {"test classes"}


def test_two_folders_of_one_row_are_both_shown(tmp_path, capsys):
    recipe = load_recipe("table-3.1/cub/c1")
    for name in ("first", "second"):
        finish(tmp_path / name, recipe)
    # The same folder given twice counts once.
    assert tables_main([str(tmp_path), str(tmp_path / "second")]) == 0
    lines = lines_of(capsys.readouterr().out, "| C1 ")
    assert [cells(line)[0] for line in lines] == [f"C1 ({tmp_path / name})" for name in ("first", "second")]


def test_runs_is_the_folder_by_default(folders, capsys, monkeypatch):
    monkeypatch.chdir(folders.parent)
    assert tables_main([]) == 0
    assert "# Table 3.1" in capsys.readouterr().out


def test_one_evaluation_has_no_deviation(tmp_path, capsys):
    recipe = load_recipe("table-3.2a/cub/c1-ccp-l")
    finish(tmp_path / "one", recipe, metrics={"separate": statistics(0.6, None)}, evaluations=1)
    assert tables_main([str(tmp_path)]) == 0
    assert cells(lines_of(capsys.readouterr().out, "| C1+CCP-L")[0])[1:4] == ["67.74", "60.00 (-7.74)", "1"]


def damaged_summaries():
    good = {"recipe_hash": "0" * 12, "protocol": "fair", "evaluations": 4, "metrics": {"separate": statistics(0.6)}}
    yield "no-json", "{", "is damaged"
    yield "no-mapping", "[]", "is damaged"
    yield "no-metrics", json.dumps({**good, "metrics": None}), "is damaged"
    for key in ("recipe_hash", "protocol", "evaluations"):
        yield f"without-{key}", json.dumps({name: value for name, value in good.items() if name != key}), "is damaged"
    without_mean = copy.deepcopy(good)
    without_mean["metrics"]["separate"]["map_at_r"] = {"mean": None, "deviation": None, "best": None}
    yield "null", json.dumps(without_mean), "is damaged"
    yield "other-recipe", json.dumps(good), "is not the recipe of summary.json. Received: recipe "


@pytest.mark.parametrize(("name", "text", "message"), damaged_summaries())
def test_a_damaged_summary_is_named_and_the_rest_is_shown(tmp_path, capsys, name, text, message):
    finish(tmp_path / "good", load_recipe("table-3.1/cub/c1"))
    folder = finish(tmp_path / name, load_recipe("table-3.1/cub/c2"))
    (folder / "summary.json").write_text(text)
    assert tables_main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert cells(lines_of(shown, "| C1 ")[0])[2] == "70.00 ± 0.20 (+6.33)"
    assert cells(lines_of(shown, "| C2 ")[0])[2] == "–"
    assert "# Cannot be used" in shown and str(folder) in shown and message in shown


def test_a_damaged_recipe_is_named(tmp_path):
    folder = finish(tmp_path / "bad", load_recipe("table-3.1/cub/c1"))
    (folder / "recipe.yaml").write_text("trainig: {}")
    found = find_results([tmp_path])
    assert found.results == [] and found.unfinished == []
    assert found.unreadable[0][0] == folder and "Did you mean 'training'?" in found.unreadable[0][1]


def test_nothing_finished(tmp_path, capsys):
    recipe = load_recipe("table-3.1/cub/c1")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text(dump_recipe(recipe))
    assert tables_main([str(tmp_path)]) == 1
    assert f"- {tmp_path / 'begun'}: table-3.1/cub/c1: 0 of 4 runs" in capsys.readouterr().out


def test_results_of_other_tables(folders):
    found = find_results([folders])
    assert len(found.results) == 6
    placed, others = place_results(found.results, {"table-3.1"})
    assert set(placed) == {"table-3.1/cub/c1", "table-3.1/cub/c2-ccp-l"}
    assert sorted(one.folder.name for one in others) == ["conventional", "glyphs", "one", "own"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no folder nowhere."),
        (["."], "There is no run or protocol. Received: .. Expected: folders that train.py has written"),
        ([".", "--table", "table-3.11"], "Unknown table 'table-3.11'. Did you mean 'table-3.1'?"),
        ([".", "--tabel", "table-3.1"], "Unknown option --tabel. Did you mean --table?"),
        ([], "There is no folder runs."),
    ],
)
def test_bad_input_ends_with_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        tables_main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(folders, capsys):
    (folders / "file").write_text("")
    with pytest.raises(SystemExit) as error:
        tables_main([str(folders), "--out", str(folders / "file" / "below")])
    assert error.value.code == 2
    assert "The tables cannot be written to" in capsys.readouterr().err


def finish_run(folder, map_at_r, recipe="gap", keras=None, **changes):
    """Write the folder of a finished run."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe(recipe, **changes)))
    (folder / "environment.json").write_text(json.dumps({"packages": {"keras": keras}} if keras else {}))
    metrics = {"map_at_r": map_at_r, "precision_at_1": map_at_r + 0.1, "classes": 3}
    untrained = {"map_at_r": 0.25, "precision_at_1": 0.5}
    (folder / "test_metrics.json").write_text(json.dumps({"test": metrics, "untrained": untrained}))


def test_runs_of_ones_own_are_grouped_by_recipe(tmp_path, capsys):
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        finish_run(tmp_path / "gap" / f"seed{seed}", value, seed=seed)
    finish_run(tmp_path / "larger", 0.8, model__embedding_size=256, seed=7)
    finish_run(tmp_path / "other", 0.4, recipe="gsp", name="mine", data__name="digits")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "recipe.yaml").write_text(dump_recipe(load_recipe("gap")))
    (tmp_path / "damaged" / "environment.json").write_text("{}")
    (tmp_path / "damaged" / "test_metrics.json").write_text("{}")
    assert tables_main([str(tmp_path), "--out", str(tmp_path / "tables")]) == 0
    text = capsys.readouterr().out
    assert lines_of(text, "## ") == ["## digits", "## glyphs"]
    gap, larger = [cells(line) for line in lines_of(text, "| gap ")]
    # The sample standard deviation of 0.5, 0.6 and 0.7 is 0.1.
    assert gap == ["gap", "model.embedding_size=128", "60.00 ± 10.00", "70.00 ± 10.00", "25.00 ± 0.00", "50.00 ± 0.00",
                   "3", "0, 1, 2"]  # fmt: skip
    assert larger == ["gap", "model.embedding_size=256", "80.00", "90.00", "25.00", "50.00", "1", "7"]
    assert cells(lines_of(text, "| mine")[0])[:3] == ["mine", "", "40.00"]
    assert f"- {tmp_path / 'damaged'}: " in text and "test_metrics.json is damaged" in text
    with open(tmp_path / "tables" / "runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["recipe"] == "gap"]
    assert [(row["metric"], row["n"], row["mean"], row["deviation"]) for row in rows] == [
        ("map_at_r", "3", "60.0000", "10.0000"), ("precision_at_1", "3", "70.0000", "10.0000"),
        ("map_at_r", "1", "80.0000", ""), ("precision_at_1", "1", "90.0000", ""),
    ]  # fmt: skip
    assert rows[0]["seeds"] == "0, 1, 2" and rows[0]["untrained"] == "25.0000"
    # Single runs are not part of a published table.
    assert tables_main([str(tmp_path), "--table", "table-3.1"]) == 0
    assert "# Runs" not in capsys.readouterr().out


def test_runs_of_the_two_lines_of_keras_are_two_rows(tmp_path, capsys):
    """Keras 2 and 3 produce different numbers for the same seed, so they are not averaged."""
    for keras, value in (("2.15.0", 0.5), ("3.15.1", 0.6), ("3.16.0", 0.7)):
        finish_run(tmp_path / keras, value, keras=keras, seed=int(value * 10))
    assert tables_main([str(tmp_path)]) == 0
    rows = [cells(line) for line in lines_of(capsys.readouterr().out, "| gap ")]
    assert [(row[1], row[2], *row[-2:]) for row in rows] == [
        ("keras=2", "50.00", "1", "5"), ("keras=3", "65.00 ± 7.07", "2", "6, 7"),
    ]  # fmt: skip
    finish_run(tmp_path / "earlier", 0.5)
    assert tables_main([str(tmp_path)]) == 0
    assert [cells(line)[1] for line in lines_of(capsys.readouterr().out, "| gap ")] == [
        "keras=2", "keras=3", "keras=unknown",
    ]  # fmt: skip
