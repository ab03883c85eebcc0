"""Interactions of users with items: splits, negative items and errors; files of MovieLens in their layouts."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import data


def random_interactions(seed, users=6, items=9, count=25, features=False):
    generator = np.random.default_rng(seed)
    pairs = np.unique(generator.integers(0, [users, items], (count, 2)), axis=0)
    pairs = generator.permutation(pairs)
    vectors = generator.normal(size=(items, 3)) if features else None
    return data.Interactions(pairs[:, 0], pairs[:, 1], users, items, vectors)


def pairs_of(interactions):
    return set(zip(interactions.users.tolist(), interactions.items.tolist()))


def test_lookups_equal_sets():
    interactions = random_interactions(0)
    pairs = pairs_of(interactions)
    users, items = np.meshgrid(np.arange(6), np.arange(9), indexing="ij")
    expected = [[(user, item) in pairs for item in range(9)] for user in range(6)]
    assert interactions.contains(users, items).tolist() == expected
    for user, found in enumerate(interactions.items_of(range(6))):
        assert found.tolist() == sorted(item for other, item in pairs if other == user)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), first=st.floats(0.05, 0.5), second=st.floats(0.05, 0.4))
def test_splits_are_disjoint_and_complete(seed, first, second):
    interactions = random_interactions(seed, count=40)
    try:
        parts = interactions.split(first, second, seed=seed)
    except ValueError as error:
        assert "is empty" in str(error)
        return
    assert sorted(pair for part in parts for pair in pairs_of(part)) == sorted(pairs_of(interactions))
    # No user loses all interactions of the last part, from which a model learns.
    assert set(parts[-1].users) == set(interactions.users)
    counts = collections.Counter(interactions.users.tolist())
    for user, count in collections.Counter(parts[0].users.tolist()).items():
        assert abs(count - first * count) <= counts[user]
        assert count == min(np.rint(first * counts[user]), counts[user] - 1)


def test_items_are_held_out():
    interactions = random_interactions(1)
    warm, cold = interactions.hold_out_items(0.3, seed=2)
    assert not set(warm.items) & set(cold.items)
    assert pairs_of(warm) | pairs_of(cold) == pairs_of(interactions)
    assert (warm.item_count, cold.user_count) == (9, 6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_negative_items_are_no_interactions(seed):
    interactions = random_interactions(seed)
    generator = np.random.default_rng(seed)
    users = interactions.users
    drawn = interactions._negatives(users, 4, np.arange(9), generator)
    assert not interactions.contains(users[:, None], drawn).any()


def test_the_only_negative_item_is_found():
    interactions = data.Interactions([0] * 999, range(999), item_count=1000)
    (batch,) = interactions.batches(5, negatives=3).take(1)
    assert (batch["negatives"].numpy() == 999).all()


def test_an_epoch_has_each_interaction_once():
    interactions = random_interactions(3, features=True)
    batches = list(interactions.batches(4, negatives=2, seed=1).take(len(interactions) // 4))
    seen = [(int(u), int(i)) for batch in batches for u, i in zip(batch["user"], batch["item"])]
    assert len(set(seen)) == len(seen) and set(seen) <= pairs_of(interactions)
    np.testing.assert_array_equal(batches[0]["features"], interactions.item_features[batches[0]["item"]])
    again = next(iter(interactions.batches(4, negatives=2, seed=1)))
    np.testing.assert_array_equal(again["negatives"], batches[0]["negatives"])


def test_candidates_limit_the_negative_items():
    interactions = random_interactions(4)
    (batch,) = interactions.batches(8, negatives=6, candidates=[0, 1, 2, 3, 4, 5, 6, 7]).take(1)
    assert batch["negatives"].numpy().max() <= 7


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([0, 1], [0]), ValueError, "2 users and 1 items"),
        (([], []), ValueError, "0 users and 0 items"),
        (([0.5], [0]), TypeError, "users of type float64"),
        (([0], [3], 1, 3), ValueError, "Numbers of items are out of range. Received: 3 to 3. Expected: 0 to 2"),
        (([-1], [0]), ValueError, "Numbers of users are out of range"),
        (([2**40], [2**40]), ValueError, "Numbers are too large. Received: 1099511627777 users"),
        (([0, 0], [1, 1]), ValueError, "1 repetitions, such as user 0 with item 1"),
        (([0], [1], 1, 2, [[1.0]]), ValueError, r"Expected: finite numbers of shape \(2, features\)"),
        (([0], [0], 1, 1, [[np.nan]]), ValueError, "with NaN or infinity"),
        (([0], [0], 1, 1, None, ["a", "b"]), ValueError, "Each user has one name"),
    ],
)
def test_invalid_interactions(arguments, error, message):
    with pytest.raises(error, match=message):
        data.Interactions(*arguments)


def test_invalid_use():
    interactions = data.Interactions([0, 0, 1], [0, 1, 0])
    with pytest.raises(ValueError, match="Users have no negative item. Received: 1 users, such as 0"):
        interactions.batches()
    with pytest.raises(ValueError, match="Candidates are out of range"):
        interactions.batches(candidates=[2])
    with pytest.raises(ValueError, match="Shares are out of range"):
        interactions.split(0.5, 0.5)
    with pytest.raises(ValueError, match="A part of the interactions is empty"):
        interactions.split(0.01)


def test_numbers_of_lookups_are_checked():
    interactions = data.Interactions([0, 1], [0, 1], item_count=3)
    with pytest.raises(ValueError, match="Numbers of items are out of range. Received: 4 to 4. Expected: 0 to 2"):
        interactions.contains([0], [4])  # As a single number, this would be user 1 and item 1.
    with pytest.raises(ValueError, match="Numbers of users are out of range. Received: -1 to 2"):
        interactions.items_of([2, -1])
    assert interactions.contains([], []).shape == (0,) and interactions.items_of([]) == []


RATINGS = [(10, 5, 4.0), (10, 7, 3.0), (10, 9, 5.0), (20, 9, 4.5), (30, 7, 1.0)]
FILMS = {5: ("Café", ["Comedy"]), 7: ("Night, the", ["Drama"]), 9: ("Dawn (1990)", ["Comedy", "Drama"])}


def write_movielens(folder, layout):
    if layout == "100k":
        flags = {name: number for number, name in enumerate(data.movielens_files._GENRES_100K)}
        lines = []
        for film, (title, genres) in FILMS.items():
            marks = ["0"] * 19
            for genre in genres:
                marks[flags[genre]] = "1"
            lines.append("|".join([str(film), title, "01-Jan-1995", "", "http://x", *marks]))
        (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
        (folder / "u.data").write_text("".join(f"{u}\t{f}\t{r:g}\t881250949\n" for u, f, r in RATINGS))
    elif layout == "1m":
        text = "".join(f"{film}::{title}::{'|'.join(genres)}\n" for film, (title, genres) in FILMS.items())
        (folder / "movies.dat").write_text(text, encoding="latin-1")
        (folder / "ratings.dat").write_text("".join(f"{u}::{f}::{r:g}::978300760\n" for u, f, r in RATINGS))
    else:
        text = "".join(f'{film},"{title}",{"|".join(genres)}\n' for film, (title, genres) in FILMS.items())
        (folder / "movies.csv").write_text("movieId,title,genres\n" + text, encoding="utf-8")
        text = "".join(f"{u},{f},{r},1112486027\n" for u, f, r in RATINGS)
        (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + text)


@pytest.mark.parametrize("layout", ["100k", "1m", "20m"])
def test_movielens(tmp_path, layout):
    write_movielens(tmp_path, layout)
    interactions = data.movielens(tmp_path)
    assert interactions.user_names == ["10", "20"] and interactions.item_names == ["Café", "Dawn (1990)"]
    assert pairs_of(interactions) == {(0, 0), (0, 1), (1, 1)}
    assert interactions.item_features.tolist() == [[1, 0], [1, 1]]
    assert len(data.movielens(tmp_path, minimum_interactions=2)) == 2


def test_titles_in_utf8_and_files_of_windows(tmp_path):
    # As of ml-10m, whose titles are in UTF-8.
    write_movielens(tmp_path, "1m")
    for name in ("movies.dat", "ratings.dat"):
        text = (tmp_path / name).read_text(encoding="latin-1")
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8"))
    interactions = data.movielens(tmp_path)
    assert interactions.item_names == ["Café", "Dawn (1990)"]
    assert interactions.item_features.tolist() == [[1, 0], [1, 1]]


def test_ratings_without_header_and_given_twice(tmp_path):
    write_movielens(tmp_path, "20m")
    lines = (tmp_path / "ratings.csv").read_text().splitlines(keepends=True)[1:]
    (tmp_path / "ratings.csv").write_text("".join(lines + lines[:1]))
    assert pairs_of(data.movielens(tmp_path)) == {(0, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("line", ["1.5,9,4.0,0", "10,9,nan,0", "10,nine,4.0,0"])
def test_damaged_ratings(tmp_path, line):
    write_movielens(tmp_path, "20m")
    with open(tmp_path / "ratings.csv", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"Damaged file. Received: .*ratings.csv, line 7"):
        data.movielens(tmp_path)


def test_damaged_movielens(tmp_path):
    with pytest.raises(FileNotFoundError, match="u.data and u.item or ratings.dat and movies.dat or ratings.csv"):
        data.movielens(tmp_path)
    write_movielens(tmp_path, "20m")
    with pytest.raises(ValueError, match="No rating is left. Received: 5 ratings"):
        data.movielens(tmp_path, minimum_rating=6)
    with open(tmp_path / "ratings.csv", "a") as file:
        file.write("20,11,5.0,0\n")
    with pytest.raises(ValueError, match="Films are missing. Received: 1 rated films, such as 11"):
        data.movielens(tmp_path)
    with open(tmp_path / "ratings.csv", "a") as file:
        file.write("20,x\n")
    with pytest.raises(ValueError, match=r"ratings.csv, line 8: .* Expected: the columns userId"):
        data.movielens(tmp_path)
