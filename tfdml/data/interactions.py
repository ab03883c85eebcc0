"""Implicit feedback: which users interacted with which items."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_whole_number
from tfdml._utils.types import ArrayLike

_MOST_DRAWS = 100


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Pairs of users and items, such as ratings of at least four stars, purchases or clicks.

    Args:
        users: Integers `(n,)` from 0 to `user_count - 1`.
        items: Integers `(n,)` from 0 to `item_count - 1`. Each pair of a user and an item occurs once.
        user_count: int. Number of users. `None` is the largest user plus 1. Default `None`.
        item_count: int. Number of items. `None` is the largest item plus 1. Default `None`.
        item_features: float array `(item_count, features)`, `None` if there are none. Default `None`.
        user_names: Sequence of `user_count` str. Default `None`.
        item_names: Sequence of `item_count` str. Default `None`.

    Raises:
        TypeError: If users or items are not integers.
        ValueError: If lengths do not match, there are no pairs, a number is out of range, a pair is given twice, or a
            feature is not finite.

    Example:
        >>> interactions = Interactions([0, 0, 1], [0, 1, 2])
        >>> interactions
        Interactions(pairs=3, users=2, items=3)
        >>> interactions.contains([0, 1], [1, 1]).tolist()
        [True, False]
    """

    users: np.ndarray
    items: np.ndarray
    user_count: int = None  # type: ignore[assignment]
    item_count: int = None  # type: ignore[assignment]
    item_features: np.ndarray | None = None
    user_names: Sequence[str] | None = None
    item_names: Sequence[str] | None = None
    # Sorted pairs as single numbers.
    _keys: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        users, items = (_integers(name, getattr(self, name)) for name in ("users", "items"))
        if len(users) != len(items) or not len(users):
            raise ValueError(
                f"Each interaction has a user and an item. Received: {len(users)} users and {len(items)} items. "
                "Expected: equal numbers, at least 1."
            )
        set_field = object.__setattr__
        for name, values in (("user", users), ("item", items)):
            count = getattr(self, f"{name}_count")
            count = int(values.max()) + 1 if count is None else check_whole_number(f"{name}_count", count, 1)
            self._in_range(name, values, count)
            names = getattr(self, f"{name}_names")
            if names is not None and len(names) != count:
                raise ValueError(f"Each {name} has one name. Received: {len(names)} names. Expected: {count}.")
            set_field(self, f"{name}_count", count)
            set_field(self, f"{name}s", values)
        if self.user_count * self.item_count >= 2**63:
            raise ValueError(
                f"Numbers are too large. Received: {self.user_count} users and {self.item_count} items. Expected: a "
                "product below 2**63. Number users and items by np.unique(…, return_inverse=True)."
            )
        keys = np.sort(users * self.item_count + items)
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            user, item = divmod(int(keys[twice[0]]), self.item_count)
            raise ValueError(
                f"Pairs are given twice. Received: {len(twice)} repetitions, such as user {user} with item {item}. "
                "Expected: different pairs. np.unique(pairs, axis=0) removes repetitions."
            )
        set_field(self, "_keys", keys)
        if self.item_features is not None:
            features = np.asarray(self.item_features, np.float32)
            if features.ndim != 2 or len(features) != self.item_count or not np.isfinite(features).all():
                raise ValueError(
                    f"Items have invalid features. Received: shape {features.shape}"
                    f"{'' if np.isfinite(features).all() else ' with NaN or infinity'}. Expected: finite numbers of "
                    f"shape ({self.item_count}, features)."
                )
            set_field(self, "item_features", features)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self):
        return f"Interactions(pairs={len(self)}, users={self.user_count}, items={self.item_count})"

    def contains(self, users: ArrayLike, items: ArrayLike) -> np.ndarray:
        """Return whether pairs of users and items are interactions.

        Args:
            users, items: Integers of shapes that broadcast.

        Returns:
            Boolean array of the common shape.

        Raises:
            ValueError: If a number is out of range.
        """
        users = self._in_range("user", users, self.user_count)
        keys = users * self.item_count + self._in_range("item", items, self.item_count)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        return self._keys[places] == keys

    def items_of(self, users: ArrayLike) -> list[np.ndarray]:
        """Return the sorted items of each of some users.

        Args:
            users: Integers `(m,)`.

        Returns:
            List of `m` integer arrays.

        Raises:
            ValueError: If a number is out of range.
        """
        users = self._in_range("user", users, self.user_count)
        starts = np.searchsorted(self._keys, users * self.item_count)
        ends = np.searchsorted(self._keys, (users + 1) * self.item_count)
        return [self._keys[start:end] % self.item_count for start, end in zip(starts, ends)]

    def split(self, *shares: float, seed: int = 0) -> list[Interactions]:
        """Split the interactions of each user at random.

        Args:
            *shares: Shares of the first parts, > 0, whose sum is below 1; the last part is the rest. Numbers of
                interactions are rounded, and the last part has at least one of each user.
            seed: int. Default 0.

        Returns:
            List of `len(shares) + 1` `Interactions` with the same users and items.

        Raises:
            ValueError: If the shares are out of range, or a part is empty.

        Example:
            >>> test, train = Interactions([0] * 10, range(10)).split(0.2)
            >>> len(test), len(train)
            (2, 8)
        """
        if not shares or min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(f"Shares are out of range. Received: {shares}. Expected: shares > 0 with a sum below 1.")
        order = np.random.default_rng(seed).permutation(len(self))
        order = order[np.argsort(self.users[order], kind="stable")]
        counts = np.bincount(self.users, minlength=self.user_count)
        place = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        counts = np.repeat(counts, counts)
        limits = [np.minimum(np.rint(sum(shares[: i + 1]) * counts), counts - 1) for i in range(len(shares))]
        part = np.sum([place >= limit for limit in limits], axis=0)
        return [self._taken(order[part == number]) for number in range(len(shares) + 1)]

    def hold_out_items(self, share: float, seed: int = 0) -> tuple[Interactions, Interactions]:
        """Split the items at random, to evaluate items without interactions in training ("cold" items).

        Args:
            share: float. Share of the items that are held out, from 0 to 1.
            seed: int. Default 0.

        Returns:
            Pair of `Interactions` with the same users and items: those of the kept items, and those of the others.

        Raises:
            ValueError: If the share is out of range, or a part is empty.
        """
        check_between("share", share, 0.0, 1.0)
        is_cold = np.zeros(self.item_count, bool)
        is_cold[np.random.default_rng(seed).permutation(self.item_count)[: round(share * self.item_count)]] = True
        return self._taken(np.flatnonzero(~is_cold[self.items])), self._taken(np.flatnonzero(is_cold[self.items]))

    def batches(
        self,
        batch_size: int = 512,
        negatives: int = 20,
        seed: int = 0,
        candidates: ArrayLike | None = None,
    ) -> tf.data.Dataset:
        """Return the batches of an epoch after another, for `CollaborativeModel.fit(…, steps_per_epoch=…)`.

        An epoch has each interaction once, in random order; its last, smaller batch is left out if there is another
        one. Negative items are drawn uniformly from the items with which a user did not interact.

        Args:
            batch_size: int. Interactions per batch. Default 512.
            negatives: int. Negative items per interaction. Default 20.
            seed: int. Default 0.
            candidates: Integers. Items from which the negative ones are drawn, such as those that may be shown; `None`
                for all. Default `None`.

        Returns:
            Endless `tf.data.Dataset` of dicts: `"user"` and `"item"` int64 `(b,)`, `"negatives"` int64
            `(b, negatives)`, and `"features"` float32 `(b, f)` of the items if there are some.

        Raises:
            ValueError: If an argument is out of range, or a user interacted with all candidates.
        """
        batch_size = min(check_whole_number("batch_size", batch_size, 1), len(self))
        check_whole_number("negatives", negatives, 1)
        pool = np.arange(self.item_count) if candidates is None else np.unique(_integers("candidates", candidates))
        if not len(pool) or pool[0] < 0 or pool[-1] >= self.item_count:
            raise ValueError(f"Candidates are out of range. Received: {pool}. Expected: 0 to {self.item_count - 1}.")
        in_pool = np.isin(self.items, pool)
        used = np.bincount(self.users[in_pool], minlength=self.user_count)
        full = np.flatnonzero(used == len(pool))
        if len(full):
            raise ValueError(
                f"Users have no negative item. Received: {len(full)} users, such as {full[0]}, who interacted with all "
                f"{len(pool)} candidates. Expected: at least one other candidate. Remove these users."
            )
        signature = {
            "user": tf.TensorSpec((batch_size,), tf.int64),
            "item": tf.TensorSpec((batch_size,), tf.int64),
            "negatives": tf.TensorSpec((batch_size, negatives), tf.int64),
        }
        if self.item_features is not None:
            signature["features"] = tf.TensorSpec((batch_size, self.item_features.shape[1]), tf.float32)

        def generate():
            generator = np.random.default_rng(seed)
            while True:
                order = generator.permutation(len(self))
                for start in range(0, len(self) - batch_size + 1, batch_size):
                    chosen = order[start : start + batch_size]
                    batch = {"user": self.users[chosen], "item": self.items[chosen]}
                    batch["negatives"] = self._negatives(batch["user"], negatives, pool, generator)
                    if self.item_features is not None:
                        batch["features"] = self.item_features[batch["item"]]
                    yield batch

        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)

    def _negatives(self, users, count, pool, generator):
        """Draw items with which users did not interact."""
        drawn = pool[generator.integers(0, len(pool), (len(users), count))]
        for _ in range(_MOST_DRAWS):
            wrong = np.argwhere(self.contains(users[:, None], drawn))
            if not len(wrong):
                return drawn
            drawn[tuple(wrong.T)] = pool[generator.integers(0, len(pool), len(wrong))]
        # These users interacted with almost everything.
        for row, column in wrong:
            others = np.setdiff1d(pool, self.items_of(users[row : row + 1])[0])
            drawn[row, column] = generator.choice(others)
        return drawn

    @staticmethod
    def _in_range(name, values, count):
        values = np.asarray(values, np.int64)
        if values.size and not 0 <= values.min() <= values.max() < count:
            raise ValueError(
                f"Numbers of {name}s are out of range. Received: {values.min()} to {values.max()}. Expected: 0 to "
                f"{count - 1}."
            )
        return values

    def _taken(self, chosen):
        if not len(chosen):
            raise ValueError(f"A part of the interactions is empty. Received: {self}. Expected: more interactions.")
        return dataclasses.replace(self, users=self.users[chosen], items=self.items[chosen])


def _integers(name, values):
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise TypeError(
            f"Interactions are integers. Received: {name} of type {values.dtype} and shape {values.shape}. Expected: "
            "integers (n,). Number users and items by np.unique(…, return_inverse=True)."
        )
    return values.astype(np.int64)
