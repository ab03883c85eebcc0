"""Searches that leave out references by their groups, such as the camera or the session of an image."""

import numpy as np

from tfdml._utils.arguments import check_choice
from tfdml.metrics.inputs import as_labels, class_numbers

RULES = ("class_and_group", "group")
# Further neighbors that the first search finds, at least as many as are needed.
_FURTHER = 64
_GROWTH = 4


class Exclusion:
    """Which references each query leaves out: those with its key.

    Args:
        keys: int array `(n,)`. Keys of the queries.
        reference_keys: int array `(m,)`. Keys of the references.
        relevant: int array `(n,)`. The number of references that a query leaves out and that are of its class.
    """

    def __init__(self, keys, reference_keys, relevant):
        self.keys, self.reference_keys, self.relevant = keys, reference_keys, relevant
        self.removed = np.bincount(reference_keys, minlength=keys.max() + 1)[keys]

    @classmethod
    def from_groups(cls, exclude, rule, classes, reference_classes, alone):
        """Return what `exclude` and `exclude_rule` of `retrieval_metrics` mean, or `None` without groups.

        Args:
            exclude: As for `retrieval_metrics`.
            rule: One of `RULES`.
            classes: int array `(n,)`. Numbers of the classes of the queries.
            reference_classes: int array `(m,)`. Those of the references.
            alone: bool. Whether the queries are the references.

        Raises:
            ValueError: If the rule is unknown, or the shape of `exclude` is wrong.
            TypeError: If groups are neither integers nor strings.
        """
        check_choice("exclude_rule", rule, RULES)
        if exclude is None:
            return None
        if alone:
            groups = reference_groups = as_labels(exclude, len(classes), "exclude")
        else:
            if not isinstance(exclude, (tuple, list)) or len(exclude) != 2:
                raise ValueError(
                    f"exclude does not have the groups of the references. Received: {type(exclude).__name__}. "
                    "Expected: a pair (groups of the queries, groups of the references)."
                )
            groups = as_labels(exclude[0], len(classes), "exclude[0]")
            reference_groups = as_labels(exclude[1], len(reference_classes), "exclude[1]")
        groups, reference_groups = class_numbers(groups, reference_groups, ("exclude[0]", "exclude[1]"))
        both, reference_both = _pair_numbers(groups, classes, reference_groups, reference_classes)
        of_both = cls(both, reference_both, None)
        of_both.relevant = of_both.removed
        return of_both if rule == "class_and_group" else cls(groups, reference_groups, of_both.removed)


def _pair_numbers(groups, classes, reference_groups, reference_classes):
    codes = np.concatenate([groups, reference_groups]) * (max(classes.max(), reference_classes.max()) + 1)
    codes += np.concatenate([classes, reference_classes])
    numbers = np.unique(codes, return_inverse=True)[1].reshape(-1)
    return numbers[: len(groups)], numbers[len(groups) :]


class FilteredSearch:
    """Nearest references that a query does not leave out, with the interface of `NeighborSearch`.

    The search finds more neighbors than are needed and drops those with the key of the query. If too few remain, it is
    repeated for these queries with a larger number of neighbors, so the result is that of a search in the references
    that the query does not leave out.

    Args:
        search: `NeighborSearch` or `ApproximateSearch`.
        reference_keys: int array `(m,)`. Keys of the references.
    """

    def __init__(self, search, reference_keys):
        self.search, self.reference_keys = search, reference_keys

    def blocks(self, queries, counts, own):
        """Find neighbors as `NeighborSearch.blocks`, but with -1 where a query has fewer than the largest count.

        Args:
            queries: Array `(n, d)`.
            counts: int array `(n,)`. The number of neighbors, at most the number of references that remain.
            own: int array `(n,)`. Keys of the queries.
        """
        removed = np.bincount(self.reference_keys, minlength=own.max() + 1)[own]
        most = np.where(counts > 0, counts + removed, 0)
        widths = np.minimum(most, counts + np.maximum(counts, _FURTHER))
        while widths.any():
            next_widths = np.zeros_like(widths)
            for rows, found in self.search.blocks(queries, widths):
                width = found.shape[1]
                keep = (found >= 0) & (self.reference_keys[found] != own[rows, None])
                # A row that misses neighbors has none that a wider search would find.
                short = (keep.sum(axis=1) < counts[rows]) & (width < most[rows]) & (found >= 0).all(axis=1)
                next_widths[rows[short]] = np.minimum(most[rows[short]], _GROWTH * width)
                if not short.all():
                    done = rows[~short]
                    yield done, first_kept(found[~short], keep[~short], counts[done].max())
            widths = next_widths


def first_kept(found, keep, count):
    """Return the first `count` values of each row for which `keep` is true, `(b, count)`, filled up with -1."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(found, order, 1), -1)
