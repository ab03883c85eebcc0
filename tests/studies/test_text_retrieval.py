"""The text study: parsing of WordNet, the corpus, n-grams, intervals, and the whole study on a tiny corpus."""

import csv

import numpy as np
import pytest

from studies import text_corpus
from studies import text_retrieval as study

LINES = """  1 This is a license.
00001740 29 v 02 breathe 0 respire(p) 0 001 @ 00005041 v 0000 | draw air into the lungs; "I can breathe better"; "Oh"
00002325 03 n 01 ice_cream 0 000 | a frozen dessert (of cream); "the ice cream melted"
00002573 03 n 01 thing 0 000 | an entity without an example
"""


def test_synsets_with_examples(tmp_path):
    for part in text_corpus.PARTS_OF_SPEECH:
        (tmp_path / f"data.{part}").write_text(LINES if part == "verb" else "", encoding="utf-8")
    assert list(text_corpus.read_synsets(tmp_path)) == [
        ("breathe, respire: draw air into the lungs", ["I can breathe better"]),
        ("ice cream: a frozen dessert (of cream)", ["the ice cream melted"]),
    ]


def corpus(count=40):
    synsets = [(f"word{n}: meaning {n}", [f"say word{n} now", f"two of word{n}"]) for n in range(count)]
    return text_corpus.build_corpus(synsets)


def test_no_passage_has_queries_in_two_splits():
    made = corpus()
    passages = {name: set(made.relevant[rows]) for name, rows in made.splits.items()}
    assert [len(passages[name]) for name in text_corpus.SPLITS] == [30, 5, 5]
    assert not passages["train"] & passages["test"] and not passages["validation"] & passages["test"]
    assert len(made.queries) == 80
    for query, passage in zip(made.queries, made.relevant):
        assert made.passages[passage].split(":")[0] in query.split()


def test_equal_passages_and_queries_appear_once():
    synsets = [
        ("a: b", ["one two three"]),
        ("a: b", ["four five six"]),
        ("c: d", ["one two three", "seven eight nine"]),
    ]
    made = text_corpus.build_corpus(synsets)
    assert sorted(made.passages) == ["a: b", "c: d"] and len(made.queries) == 2


def test_a_corpus_is_read_as_it_was_written(tmp_path):
    made, rng = corpus(), np.random.default_rng(0)
    text_corpus.write(tmp_path, made, rng.normal(size=(40, 3)), rng.normal(size=(80, 3)))
    read, passages, queries = text_corpus.read(tmp_path)
    assert read.passages == made.passages and read.queries == made.queries
    np.testing.assert_array_equal(read.splits["test"], made.splits["test"])
    assert passages.shape == (40, 3) and queries.dtype == np.float32


def test_ngrams():
    ids = study.ngram_ids(["Ab", "ab", "abc " * 100, ""])
    np.testing.assert_array_equal(ids[0], ids[1])
    # The word "ab", and of "<ab>" two n-grams of 3 characters and one of 4.
    assert np.count_nonzero(ids[0]) == 4 and np.count_nonzero(ids[2]) == study.LENGTH and not ids[3].any()
    assert ids.max() < study.BUCKETS


def test_interval_covers_the_mean_of_normal_differences():
    differences = np.random.default_rng(0).normal(0.1, 1.0, 2000)
    mean, low, high = study.bootstrap_interval(differences, resamples=500)
    standard_error = differences.std() / 2000**0.5
    assert mean == pytest.approx(differences.mean())
    assert (high - mean, mean - low) == pytest.approx((1.96 * standard_error,) * 2, rel=0.15)


@pytest.mark.integration
def test_study(tmp_path, monkeypatch):
    made, rng = corpus(), np.random.default_rng(0)
    passages = rng.normal(size=(40, 4))
    text_corpus.write(tmp_path / "data", made, passages, passages[made.relevant] + 0.5 * rng.normal(size=(80, 4)))
    monkeypatch.setattr(study, "LEARNING_RATES", {name: (1e-3,) for name in study.TRAINED})
    monkeypatch.setattr(study, "BUCKETS", 64)
    arguments = {"seeds": [0], "epochs": 1, "results": str(tmp_path / "results")}
    found = study.text_retrieval(str(tmp_path / "out"), str(tmp_path / "data"), **arguments)
    assert list(found) == list(study.METHODS)
    # Each query has the word of its passage, which no other passage has.
    assert found["bm25"][0]["mrr_at_10"].mean() == 1.0
    with open(tmp_path / "results" / "text_retrieval.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(study.METHODS)
    # A second call trains nothing.
    monkeypatch.setattr(study, "head", None)
    study.text_retrieval(str(tmp_path / "out"), str(tmp_path / "data"), **arguments)
