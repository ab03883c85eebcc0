"""Ratings of films from the files of MovieLens."""

from __future__ import annotations

import csv
import itertools
import math
import pathlib

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import PathLike
from tfdml.data.interactions import Interactions

# Of u.item, in the order of its columns.
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def movielens(path: PathLike, minimum_rating: float = 4.0, minimum_interactions: int = 1) -> Interactions:
    """Load ratings of MovieLens as implicit feedback: a user likes a film with at least four stars.

    The layouts of `ml-100k` (`u.data`, `u.item`), `ml-1m` and `ml-10m` (`ratings.dat`, `movies.dat`) and of `ml-20m`
    and later (`ratings.csv`, `movies.csv`) are recognized. Users and films are numbered by their sorted ids. A film
    that a user rated twice counts once.

    Args:
        path: str or `os.PathLike`. Folder of the files.
        minimum_rating: float. Smallest rating that counts. Default 4.0.
        minimum_interactions: int. Users with fewer such ratings are left out. Default 1.

    Returns:
        `Interactions` with the genres of the films as features (0 or 1), ids of users and titles of films as names.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If a line is damaged, a film is missing, or no rating is left.

    Example:
        `interactions = movielens("~/datasets/ml-1m", minimum_interactions=5)`

    Reference:
        Harper and Konstan, "The MovieLens datasets: history and context", ACM TiiS 2015.
        https://grouplens.org/datasets/movielens
    """
    minimum_interactions = check_whole_number("minimum_interactions", minimum_interactions, 1)
    folder = pathlib.Path(path).expanduser()
    layouts = [layout for layout in _LAYOUTS if all((folder / name).is_file() for name in layout[:2])]
    if not layouts:
        names = " or ".join(f"{ratings} and {films}" for ratings, films, *_ in _LAYOUTS)
        raise FileNotFoundError(f"MovieLens is missing. Received: {str(folder)!r}. Expected: a folder with {names}.")
    ratings, films, read_ratings, read_films = layouts[0]
    # Numbers one after another: 20 million ratings as tuples would take gigabytes.
    numbers = itertools.chain.from_iterable(_parsed(folder / ratings, read_ratings, _rating))
    table = np.fromiter(numbers, np.float64).reshape(-1, 3)
    # A film that a user rated twice counts once.
    liked = np.unique(table[table[:, 2] >= minimum_rating][:, :2].astype(np.int64), axis=0)
    if len(liked):
        ids, positions, counts = np.unique(liked[:, 0], return_inverse=True, return_counts=True)
        liked = liked[counts[positions.ravel()] >= minimum_interactions]
    if not len(liked):
        raise ValueError(
            f"No rating is left. Received: {len(table)} ratings of {folder / ratings}. Expected: users with "
            f"{minimum_interactions} ratings of at least {minimum_rating:g}."
        )
    film_rows = dict(_parsed(folder / films, read_films, lambda row: (int(row[0]), (row[1], row[2]))))
    user_ids, users = np.unique(liked[:, 0], return_inverse=True)
    film_ids, items = np.unique(liked[:, 1], return_inverse=True)
    missing = [film for film in film_ids.tolist() if film not in film_rows]
    if missing:
        raise ValueError(
            f"Films are missing. Received: {len(missing)} rated films, such as {missing[0]}, that are not in "
            f"{folder / films}. Expected: all of them."
        )
    chosen = [film_rows[film] for film in film_ids.tolist()]
    genres = sorted({genre for _, of_film in chosen for genre in of_film})
    features = np.array([[genre in of_film for genre in genres] for _, of_film in chosen], np.float32)
    return Interactions(
        users.ravel(),
        items.ravel(),
        item_features=features if genres else None,
        user_names=[str(user) for user in user_ids],
        item_names=[title for title, _ in chosen],
    )


def _parsed(path, read, convert):
    for number, row in enumerate(read(path), start=1):
        if row is None:
            continue
        try:
            yield convert(row)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"Damaged file. Received: {path}, line {number}: {row}. Expected: {read.__doc__}"
            ) from error


def _rating(row):
    rating = float(row[2])
    if not math.isfinite(rating):
        raise ValueError(rating)
    return int(row[0]), int(row[1]), rating


def _lines(path):
    # ml-10m is in UTF-8, the older ones are in Latin-1, which is hardly ever valid UTF-8 where it is not ASCII.
    with open(path, "rb") as file:
        for line in file:
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                yield line.decode("latin-1")


def _tabs(path):
    """user, film, rating and time, separated by tabs."""
    for line in _lines(path):
        yield line.split("\t") if line.strip() else None


def _bars(path):
    """film, title, three columns and 19 flags of genres, separated by bars."""
    for line in _lines(path):
        row = line.rstrip("\r\n").split("|")
        flags = row[5:]
        if len(flags) != len(_GENRES_100K):
            yield row[:1] if line.strip() else None
        else:
            yield row[0], row[1], [genre for genre, flag in zip(_GENRES_100K, flags) if flag == "1"]


def _colons(path):
    """user, film, rating and time, separated by ::."""
    for line in _lines(path):
        yield line.split("::") if line.strip() else None


def _colon_films(path):
    """film, title and genres, separated by ::."""
    for row in _colons(path):
        yield row if row is None else [*row[:2], *(_genres(genres) for genres in row[2:3])]


def _commas(path):
    """the columns userId, movieId and rating."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file)):
            is_header = not number and row and not row[0].isdigit()
            yield row if row and not is_header else None


def _comma_films(path):
    """the columns movieId, title and genres."""
    for row in _commas(path):
        yield row if row is None else [*row[:2], *(_genres(genres) for genres in row[2:3])]


def _genres(text):
    return [genre for genre in text.strip().split("|") if genre and genre != "(no genres listed)"]


_LAYOUTS = (
    ("u.data", "u.item", _tabs, _bars),
    ("ratings.dat", "movies.dat", _colons, _colon_films),
    ("ratings.csv", "movies.csv", _commas, _comma_films),
)
