"""Queries and passages from WordNet, and their features by all-MiniLM-L6-v2.

Needs neither TensorFlow nor tfdml, so that features can be computed where onnxruntime is installed:

    python -m studies.text_corpus --wordnet FOLDER --model MODEL.onnx --tokenizer TOKENIZER.json --out DIR
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from typing import NamedTuple

import numpy as np

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
PASSAGES = 16_000
# Shares of the passages whose queries are for validation and for the test.
HELD_OUT = (0.125, 0.125)
SPLITS = ("train", "validation", "test")
_EXAMPLE = re.compile(r'"([^"]+)"')
_WORDS_OF_EXAMPLE = 3


class Corpus(NamedTuple):
    """Queries with one relevant passage each.

    Attributes:
        passages: list of str. The words of a synset and its definition, such as "respire, breathe: draw air into".
        queries: list of str. Sentences in which one of the words has this meaning.
        relevant: int array `(queries,)`. The passage of each query.
        splits: dict from the names in `SPLITS` to int arrays, indices of queries. No passage has queries in two splits.
    """

    passages: list[str]
    queries: list[str]
    relevant: np.ndarray
    splits: dict[str, np.ndarray]


def read_synsets(folder):
    """Yield (passage, examples) of each synset of WordNet that has examples.

    Args:
        folder: Folder with `data.noun`, `data.verb`, `data.adj` and `data.adv`, as in Debian's package wordnet-base.
    """
    for part in PARTS_OF_SPEECH:
        with open(pathlib.Path(folder, f"data.{part}"), encoding="utf-8") as file:
            for line in file:
                # The license stands in lines that start with a space.
                if not line.startswith(" "):
                    passage, examples = parse_synset(line)
                    if examples:
                        yield passage, examples


def parse_synset(line):
    """Return the passage and the examples of a line of WordNet's data files.

    Example:
        >>> parse_synset('00001740 29 v 02 breathe 0 take_a_breath 0 000 | draw air in; "I can breathe here"; "Oh"')
        ('breathe, take a breath: draw air in', ['I can breathe here'])
    """
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    # Adjectives have a mark of their position, such as "(p)".
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
    definition = _EXAMPLE.sub("", gloss).strip(" ;-\n")
    definition = re.sub(r"\s*;(\s*;)*\s*$", "", definition)
    examples = [text.strip() for text in _EXAMPLE.findall(gloss)]
    examples = [text for text in examples if len(text.split()) >= _WORDS_OF_EXAMPLE]
    return f"{', '.join(words)}: {definition}", examples


def build_corpus(synsets, passages=PASSAGES, seed=0):
    """Choose synsets at random and divide their queries into splits.

    Args:
        synsets: Iterable of (passage, examples).
        passages: int. Number of passages; all if there are fewer.
        seed: int. Seed of the choice and of the splits.

    Returns:
        `Corpus`.
    """
    # Equal passages or queries would have several answers of which only one counts.
    first = {}
    for passage, examples in synsets:
        first.setdefault(passage, examples)
    synsets = list(first.items())
    order = np.random.default_rng(seed).permutation(len(synsets))[:passages]
    texts, queries, relevant, seen = [], [], [], set()
    for place, index in enumerate(order):
        passage, examples = synsets[index]
        texts.append(passage)
        for example in examples:
            if example not in seen:
                seen.add(example)
                queries.append(example)
                relevant.append(place)
    relevant = np.array(relevant)
    validation, test = (int(share * len(texts)) for share in HELD_OUT)
    bounds = {"validation": (0, validation), "test": (validation, validation + test),
              "train": (validation + test, len(texts))}  # fmt: skip
    splits = {name: np.flatnonzero((relevant >= low) & (relevant < high)) for name, (low, high) in bounds.items()}
    return Corpus(texts, queries, relevant, splits)


def encode(texts, model, tokenizer, batch_size=64, max_tokens=128):
    """Return unit features of texts by a sentence encoder: the mean of its tokens, as all-MiniLM-L6-v2 pools.

    Args:
        texts: list of str.
        model: Path of the ONNX file with the inputs `input_ids`, `attention_mask` and `token_type_ids`.
        tokenizer: Path of a `tokenizer.json`.
        batch_size: int. Texts per batch.
        max_tokens: int. Longer texts are cut.

    Returns:
        float32 array `(texts, dim)`.
    """
    import onnxruntime
    import tokenizers

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    # Texts of similar length share a batch, so there is little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    names, features = {one.name for one in session.get_inputs()}, None
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        encoded = tokenizer.encode_batch([texts[row] for row in rows])
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        ids = np.array([one.ids for one in encoded], np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        output = session.run(None, {name: value for name, value in feed.items() if name in names})[0]
        if output.ndim == 3:
            output = (output * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        output = output / np.linalg.norm(output, axis=1, keepdims=True)
        if features is None:
            features = np.empty((len(texts), output.shape[1]), np.float32)
        features[rows] = output
    return features


def write(folder, corpus, passage_features, query_features):
    """Write a corpus and its features to a folder, in half precision."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "passages": corpus.passages,
        "queries": corpus.queries,
        "relevant": corpus.relevant.tolist(),
        "splits": {name: rows.tolist() for name, rows in corpus.splits.items()},
    }
    (folder / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    np.save(folder / "passages.npy", passage_features.astype(np.float16))
    np.save(folder / "queries.npy", query_features.astype(np.float16))


def read(folder):
    """Return (corpus, features of passages, features of queries) from a folder that `write` has written."""
    folder = pathlib.Path(folder).expanduser()
    content = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    splits = {name: np.array(rows, np.int64) for name, rows in content["splits"].items()}
    corpus = Corpus(content["passages"], content["queries"], np.array(content["relevant"]), splits)
    return corpus, *(np.load(folder / f"{name}.npy").astype(np.float32) for name in ("passages", "queries"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", required=True, help="Folder with data.noun and the other data files of WordNet.")
    parser.add_argument("--model", required=True, help="ONNX file of all-MiniLM-L6-v2.")
    parser.add_argument("--tokenizer", required=True, help="Its tokenizer.json.")
    parser.add_argument("--out", required=True, help="Folder for the corpus and the features.")
    parser.add_argument("--passages", type=int, default=PASSAGES, help=f"Number of passages. Default: {PASSAGES}.")
    options = parser.parse_args()
    corpus = build_corpus(read_synsets(options.wordnet), options.passages)
    features = [encode(texts, options.model, options.tokenizer) for texts in (corpus.passages, corpus.queries)]
    write(options.out, corpus, *features)
    print({name: len(rows) for name, rows in corpus.splits.items()}, len(corpus.passages))


if __name__ == "__main__":
    main()
