"""Searchable collection of embeddings."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import Labels, PathLike
from tfdml.data import Preprocessing
from tfdml.gallery.classification import METHODS, Prototypes, nearest_by_vote
from tfdml.gallery.exact import ExactSearch
from tfdml.gallery.fingerprint import fingerprint
from tfdml.gallery.folder import read_folder, write_folder
from tfdml.gallery.inputs import compiled, to_vectors
from tfdml.gallery.items import Items, checked_labels, checked_metadata
from tfdml.gallery.results import Classification, SearchResult
from tfdml.gallery.thresholds import DEFAULT_TARGET, Calibration, Target, calibrate
from tfdml.gallery.vectors import STORAGES, StoredVectors


class Gallery:
    r"""Embeddings with ids, labels and metadata, in which queries find their exact nearest neighbors.

    Images become vectors with the embedder; vectors are accepted as they are. A call that fails changes nothing.
    Distances are those to the stored vectors: $\lVert x - y \rVert$, or $\lVert x - y \rVert^2 / 2$ of normalized
    vectors, which is $1 - \cos(x, y)$, for `distance="cosine"`. Of equal distances, the item added first comes first.

    Args:
        embedder: `keras.Model` from images to embeddings, or a function of a batch; `None` for a gallery that accepts
            only vectors. Default `None`.
        preprocessing: `tfdml.data.Preprocessing` of image files and uint8 images. `None` uses the input size of the
            embedder for files and leaves arrays unchanged. Default `None`.
        distance: `"l2"`, or `"cosine"`, which normalizes vectors. Default `"l2"`.
        storage: `"float32"`, `"float16"` or `"int8"` (a scale per vector). Default `"float32"`.
        batch_size: int. Images that are embedded at once. Default 256.

    Attributes:
        calibration: `Calibration` from the last call of `calibrate`, or `None`. It is saved with the gallery.

    Raises:
        ValueError: If an option is invalid.
        TypeError: If the embedder cannot be called.

    Example:
        >>> gallery = Gallery()
        >>> gallery.add([[0.0, 0.0], [3.0, 4.0]], labels=["cat", "dog"])
        [0, 1]
        >>> result = gallery.search([[0.0, 1.0]], k=1)
        >>> result.ids.tolist(), result.labels.tolist(), result.distances.tolist()
        ([[0]], [['cat']], [[1.0]])
    """

    def __init__(
        self,
        embedder: Any = None,
        preprocessing: Preprocessing | None = None,
        distance: str = "l2",
        storage: str = "float32",
        batch_size: int = 256,
    ) -> None:
        self.embedder, self.preprocessing = embedder, preprocessing
        self._forward = compiled(embedder)
        self.distance = check_choice("distance", distance, ("l2", "cosine"))
        self.storage = check_choice("storage", storage, STORAGES)
        self.batch_size = check_whole_number("batch_size", batch_size, 1)
        self._items = Items()
        self._vectors: StoredVectors | None = None
        self._search: ExactSearch | None = None
        self._prototypes: Prototypes | None = None
        self.calibration: Calibration | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def __contains__(self, item: int | str) -> bool:
        """Return whether an id is in the gallery."""
        return item in self._items.row_of

    @property
    def dim(self) -> int | None:
        """Size of a vector; `None` before the first one is added."""
        return None if self._vectors is None else self._vectors.dim

    @property
    def ids(self) -> list[int | str]:
        """Ids of all items, in the order in which they were added."""
        return list(self._items.ids)

    def add(
        self,
        images: Any,
        ids: Iterable[int | str] | None = None,
        labels: Labels | None = None,
        metadata: Sequence[Any] | None = None,
        on_conflict: str = "error",
    ) -> list[int | str]:
        """Add items.

        Args:
            images: Vectors `(n, d)`; images `(n, h, w, c)`, uint8 or floats as the embedder expects them; paths of
                image files; `LabeledImages`; or a finite `tf.data.Dataset` of batches of images or of (images, labels).
            ids: `n` different integers, or `n` different strings. `None` uses the paths of files, and otherwise numbers
                items from the next unused integer. Default `None`.
            labels: `n` integers or strings. `None` uses the labels of the data, if it has some; those of
                `LabeledImages` are class names. Default `None`.
            metadata: List of `n` values that JSON can hold. Default `None`.
            on_conflict: `"error"`, or `"replace"` to replace items whose ids are in the gallery. Default `"error"`.

        Returns:
            List of the ids.

        Raises:
            ValueError: If shapes, sizes or values do not fit, or an id is present already.
            TypeError: If ids or labels have the wrong type, or JSON cannot hold the metadata.
        """
        check_choice("on_conflict", on_conflict, ("error", "replace"))
        vectors, own_labels, own_ids = self._to_vectors(images)
        count = len(vectors)
        new_ids = self._items.checked_ids(own_ids if ids is None else ids, count)
        new_labels = checked_labels(own_labels if labels is None else labels, count)
        new_metadata = checked_metadata(metadata, count)
        present = [item for item in new_ids if item in self]
        if present and on_conflict == "error":
            raise ValueError(
                f"Ids are in the gallery already. Received: {present[0]!r} and {len(present) - 1} more. Expected: new "
                "ids. Pass on_conflict='replace' to replace the items."
            )
        store = self._vectors if self._vectors is not None else StoredVectors.empty(self.storage, vectors.shape[1])
        # A vector that the storage cannot hold must be found before anything changes.
        store.encode(vectors)
        self._vectors, self._prototypes = store, None
        old = np.array([item in self for item in new_ids])
        if present:
            self._replace(self._items.rows(present), vectors[old], new_labels, new_metadata, np.flatnonzero(old))
        new = np.flatnonzero(~old)
        self._forget(len(self))
        store.append(vectors[new])
        self._items.append(*([column[row] for row in new] for column in (new_ids, new_labels, new_metadata)))
        return new_ids

    def update(
        self,
        ids: Iterable[int | str],
        images: Any = None,
        labels: Labels | None = None,
        metadata: Sequence[Any] | None = None,
    ) -> None:
        """Replace the vectors, labels or metadata of present items; what is `None` stays.

        Args:
            ids: `n` ids in the gallery.
            images: `n` images or vectors, as for `add`. Default `None`.
            labels: `n` integers or strings. Default `None`.
            metadata: List of `n` values that JSON can hold. Default `None`.

        Raises:
            KeyError: If an id is not in the gallery.
            ValueError, TypeError: As for `add`.
        """
        rows = self._items.rows(ids)
        vectors = None if images is None else self._to_vectors(images)[0]
        if vectors is not None and len(vectors) != len(rows):
            raise ValueError(f"Each id has one vector. Received: {len(vectors)} vectors for {len(rows)} ids.")
        new_labels = None if labels is None else checked_labels(labels, len(rows))
        new_metadata = None if metadata is None else checked_metadata(metadata, len(rows))
        self._replace(rows, vectors, new_labels, new_metadata, range(len(rows)))

    def remove(self, ids: Iterable[int | str]) -> None:
        """Remove items. Their integer ids are not given to other items.

        Args:
            ids: Ids in the gallery.

        Raises:
            KeyError: If an id is not in the gallery; then nothing is removed.
        """
        rows = self._items.rows(ids)
        if not len(rows):
            return
        kept = np.ones(len(self), bool)
        kept[rows] = False
        self._forget(int(rows.min()))
        self._prototypes = None
        assert self._vectors is not None
        self._vectors.keep(kept)
        self._items.keep(kept)

    def search(self, queries: Any, k: int = 10) -> SearchResult:
        """Find the exact nearest items of each query.

        Args:
            queries: `n` images or vectors, as for `add`.
            k: int. Number of items per query, at most the number of items. Default 10.

        Returns:
            `SearchResult`.

        Raises:
            ValueError: If the gallery is empty, `k` exceeds its size, or the queries do not fit.
        """
        k = check_whole_number("k", k, 1)
        if not len(self):
            raise ValueError("The gallery is empty. Received: 0 items. Expected: items. Call add first.")
        if k > len(self):
            raise ValueError(f"The gallery has too few items. Received: k={k}. Expected: at most {len(self)}.")
        vectors = self._to_vectors(queries)[0]
        if self._search is None:
            self._search = ExactSearch(self._vectors)
        rows, squared = self._search(vectors, k)
        # Object arrays, so that labels of different types stay what they are.
        labels = np.empty(rows.size, object)
        labels[:] = [self._items.labels[row] for row in rows.flat]
        ids = np.array([self._items.ids[row] for row in rows.flat]).reshape(rows.shape)
        distances = squared / 2 if self.distance == "cosine" else np.sqrt(squared)
        return SearchResult(ids, labels.reshape(rows.shape), distances)

    def calibrate(
        self,
        validation: Any,
        labels: Labels | None = None,
        target: Target = DEFAULT_TARGET,
        method: str = "neighbors",
        k: int = 1,
        confidence: float = 0.95,
    ) -> Calibration:
        """Choose the threshold up to which `classify` accepts a query as known, by labeled validation queries.

        What is accepted is a query, as one of the classes of the gallery: a *false acceptance* is that a query of a
        class that is not in the gallery gets a score up to the threshold, whatever label it gets. Each validation query
        is such a query if the items of its own class are left out, so validation classes may be classes of the gallery
        or others; best are classes that the embedder was not trained on, as those of the application. The rate grows
        with the gallery, because more items can be near by chance: calibrate with the gallery that is used, and again
        after it has grown. It is not the rate of pairs of different classes, which `metrics.verification_metrics`
        measures. Queries whose class is in the gallery also measure the *true-accept rate*: the share that is accepted
        with the right label. They should be other images than the items.

        Intervals are those of Clopper and Pearson for the effective number of queries (Korn and Graubard): queries of
        one class are accepted together more often than by chance, so more classes are worth more than more images. For
        `FalseAcceptRate` the interval of the false-accept rate holds although the threshold was chosen by the same
        queries. For the other targets the rates are slightly optimistic.

        Args:
            validation: `n` images or vectors, as for `add`.
            labels: `n` integers or strings. `None` uses the labels of the data. Default `None`.
            target: `FalseAcceptRate(rate)`, `Precision(precision)` or `BestF1()`. Default `FalseAcceptRate(1e-3)`.
            method: `"neighbors"` or `"prototypes"`, as for `classify`. Default `"neighbors"`.
            k: int. Number of voting neighbors. Default 1.
            confidence: float, 0 < confidence < 1. Confidence of the intervals. Default 0.95.

        Returns:
            `Calibration`, which is also kept as `gallery.calibration`. A warning says if the queries are too few for
            the rate; the threshold is then below the scores of all queries of unseen classes.

        Raises:
            ValueError: If the gallery is empty or has no labels, the queries have no labels or fewer than two classes,
                no threshold has the precision, or values do not fit.
            TypeError: If the target is not a target, or labels have the wrong type, or another one than in the gallery.

        Reference:
            Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts
            estimated from survey data, Survey Methodology 24, 1998.

        Example:
            >>> from tfdml.gallery import FalseAcceptRate
            >>> gallery = Gallery()
            >>> _ = gallery.add([[0.0], [10.0], [20.0]], labels=["a", "b", "c"])
            >>> queries, labels = [[0.5], [1.0], [9.0], [11.0], [20.5], [25.0]], ["a", "a", "b", "b", "c", "d"]
            >>> calibration = gallery.calibrate(queries, labels, FalseAcceptRate(0.4))
            >>> calibration.threshold, calibration.false_accept_rate, calibration.true_accept_rate
            (5.0, 0.16666666666666666, 1.0)
        """
        method, k = self._check_method(method, k)
        vectors, given = self._labeled_queries(validation, labels)
        of_gallery = set(self.labels(self.ids)) - {None}
        kinds = {isinstance(label, str) for label in of_gallery}
        if len(kinds) == 1 and {isinstance(label, str) for label in given} != kinds:
            raise TypeError(
                f"Labels differ in type. Received: labels such as {given[0]!r}, but {next(iter(of_gallery))!r} in the "
                "gallery. Expected: integers in both or strings in both."
            )

        def classified(excluded):
            return self._classified(vectors, method, k, excluded)

        self.calibration = calibrate(classified, given, of_gallery, len(self), target, method, k, confidence)
        return self.calibration

    def classify(
        self, queries: Any, threshold: float | None = None, method: str | None = None, k: int | None = None
    ) -> Classification:
        """Tell the label of each query, and whether it is known at all.

        Args:
            queries: `n` images or vectors, as for `add`.
            threshold: float. Scores up to it are known; infinity accepts all queries. `None` uses that of `calibrate`.
                Default `None`.
            method: `"neighbors"`: the most frequent label of the `k` nearest labeled items, of equally frequent ones
                that of the nearest item; the score is the distance of the nearest item with that label. `"prototypes"`:
                the label with the nearest mean vector, whose distance is the score. `None` uses that of the
                calibration, and without one `"neighbors"`. Default `None`.
            k: int. Number of voting neighbors. `None` uses that of the calibration, and without one 1. Default `None`.

        Returns:
            `Classification`.

        Raises:
            ValueError: If the gallery is empty or has no labels, there is no threshold, `method` or `k` is another one
                than that of the calibration whose threshold is used, or the queries do not fit.

        Example:
            >>> gallery = Gallery()
            >>> _ = gallery.add([[0.0], [10.0]], labels=["a", "b"])
            >>> result = gallery.classify([[1.0], [5.5]], threshold=2.0)
            >>> result.labels.tolist(), result.is_known.tolist()
            (['a', 'b'], [True, False])
        """
        calibration = self.calibration
        if threshold is None:
            if calibration is None:
                raise ValueError(
                    "The gallery has no threshold. Received: threshold=None. Expected: a threshold. Call calibrate "
                    "first, or pass threshold=float('inf') to accept all queries."
                )
            given = {"method": method, "k": k}
            other = {name: value for name, value in given.items() if value not in (None, getattr(calibration, name))}
            if other:
                raise ValueError(
                    f"The gallery was calibrated with other options. Received: {other}. Expected: method="
                    f"{calibration.method!r} and k={calibration.k}. Calibrate again, or pass threshold=."
                )
            if len(self) > 1.1 * calibration.gallery_items:
                warnings.warn(
                    f"The gallery has grown since its calibration, so more queries of unseen classes are accepted. "
                    f"Received: {len(self)} items. Expected: about {calibration.gallery_items}. Call calibrate again.",
                    stacklevel=2,
                )
            threshold = calibration.threshold
        elif np.isnan(threshold):
            raise ValueError("The threshold is not a number. Received: NaN. Expected: a distance.")
        if calibration is not None:
            method, k = method or calibration.method, k or calibration.k
        method, k = self._check_method(method or "neighbors", 1 if k is None else k)
        vectors = self._labeled_queries(queries, None, needs_labels=False)[0]
        labels, scores = self._classified(vectors, method, k)
        return Classification(labels, scores, scores <= threshold)

    def vectors(self, ids: Iterable[int | str]) -> np.ndarray:
        """Return the stored vectors of items, float32 `(n, d)`.

        Args:
            ids: `n` ids in the gallery.
        """
        rows = self._items.rows(ids)
        return np.empty((0, self.dim or 0), np.float32) if self._vectors is None else self._vectors.read(rows)

    def labels(self, ids: Iterable[int | str]) -> list[int | str | None]:
        """Return the labels of items.

        Args:
            ids: Ids in the gallery.
        """
        return [self._items.labels[row] for row in self._items.rows(ids)]

    def metadata(self, ids: Iterable[int | str]) -> list[Any]:
        """Return the metadata of items.

        Args:
            ids: Ids in the gallery.
        """
        return [self._items.metadata[row] for row in self._items.rows(ids)]

    def save(self, folder: PathLike) -> pathlib.Path:
        """Save the gallery without its embedder. A gallery in the folder is replaced as a whole or not at all.

        Args:
            folder: str or `os.PathLike`. New or empty folder, or a gallery. `~` is the home folder.

        Returns:
            `pathlib.Path` of the folder.

        Raises:
            FileExistsError: If the folder contains other files.
            OSError: If the folder is not writable, or another process writes to it.
        """
        path = pathlib.Path(folder).expanduser()
        store = self._vectors if self._vectors is not None else StoredVectors.empty(self.storage, 0)
        arrays = {"vectors": store.codes}
        if store.scales is not None:
            arrays["scales"] = store.scales
        items = self._items
        columns = {"ids": items.ids, "labels": items.labels, "metadata": items.metadata, "next_id": items.next_id}
        description = {
            "count": len(self),
            "dim": self.dim,
            "distance": self.distance,
            "storage": self.storage,
            "fingerprint": fingerprint(self.embedder, self.preprocessing),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.config(),
            "calibration": None if self.calibration is None else self.calibration.config(),
        }
        write_folder(path, description, arrays, columns)
        return path

    @classmethod
    def load(
        cls, folder: PathLike, embedder: Any = None, preprocessing: Preprocessing | None = None, batch_size: int = 256
    ) -> Gallery:
        """Load a gallery. Its vectors stay in their file until they change.

        Args:
            folder: str or `os.PathLike`. Folder written by `save`.
            embedder: The embedder with which the gallery was made; `None` to search with vectors only. Functions and
                SavedModels have no fingerprint, so only the size of their vectors is checked. Default `None`.
            preprocessing: `Preprocessing` to compare with that of the gallery, which `None` uses. Default `None`.
            batch_size: int. Images that are embedded at once. Default 256.

        Returns:
            `Gallery`.

        Raises:
            FileNotFoundError: If there is no gallery.
            ValueError: If a file is damaged or missing, a later version has written it, or the embedder or the
                preprocessing is another one.
        """
        manifest, arrays, items = read_folder(pathlib.Path(folder).expanduser())
        config = manifest["preprocessing"]
        if preprocessing is None and config is not None:
            preprocessing = Preprocessing.from_config(config)
        _check_fingerprint(manifest["fingerprint"], fingerprint(embedder, preprocessing), folder)
        gallery = cls(embedder, preprocessing, manifest["distance"], manifest["storage"], batch_size)
        gallery._items = Items(items["ids"], items["labels"], items["metadata"])
        gallery._items.next_id = items["next_id"]
        # Earlier versions did not have it.
        if manifest.get("calibration") is not None:
            gallery.calibration = Calibration.from_config(manifest["calibration"])
        if manifest["dim"] is not None:
            gallery._vectors = StoredVectors(manifest["storage"], arrays["vectors"], arrays.get("scales"))
        return gallery

    def _to_vectors(self, images):
        vectors, labels, ids = to_vectors(images, self.embedder, self._forward, self.preprocessing, self.batch_size)
        if self.dim not in (None, vectors.shape[1]):
            raise ValueError(
                f"Vectors have another size. Received: {vectors.shape[1]}. Expected: {self.dim}, the size of the "
                "vectors in the gallery."
            )
        if self.distance == "cosine":
            # In float64 after scaling by the largest value, so that no square overflows or vanishes.
            largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float64)
            if not largest.all():
                raise ValueError(
                    f"Vectors without direction have no cosine. Received: {np.count_nonzero(largest == 0)} vectors of "
                    "norm 0. Expected: norms > 0. Remove them, or pass distance='l2'."
                )
            scaled = vectors / largest
            vectors = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float32)
        return vectors, labels, ids

    def _labeled_queries(self, queries, labels, needs_labels=True):
        """Return vectors of queries and a list of their labels."""
        vectors, own, _ = self._to_vectors(queries)
        labels = own if labels is None else labels
        if needs_labels and labels is None:
            raise ValueError("Validation queries have no labels. Received: labels=None. Expected: one label for each.")
        return vectors, checked_labels(labels, len(vectors))

    def _check_method(self, method, k):
        if not len(self):
            raise ValueError("The gallery is empty. Received: 0 items. Expected: items. Call add first.")
        check_choice("method", method, METHODS)
        k = check_whole_number("k", k, 1)
        if k > len(self):
            raise ValueError(f"The gallery has too few items. Received: k={k}. Expected: at most {len(self)}.")
        return method, k

    def _classified(self, vectors, method, k, excluded=None):
        """Return labels and scores of vectors; those of other classes if labels are excluded."""
        if method == "prototypes":
            self._prototypes = self._prototypes or Prototypes(self)
            labels, scores = self._prototypes.nearest(vectors, excluded)
        else:
            labels, scores = nearest_by_vote(self, vectors, k, excluded)
        if excluded is None and not np.isfinite(scores).all():
            raise ValueError("The items have no labels. Received: labels of None. Expected: add(…, labels=…).")
        return labels, scores

    def _replace(self, rows, vectors, labels, metadata, sources):
        self._prototypes = None
        if vectors is not None and len(rows):
            assert self._vectors is not None
            self._vectors.write(rows, vectors)
            self._forget(int(rows.min()))
        for row, source in zip(rows, sources):
            if labels is not None:
                self._items.labels[row] = labels[source]
            if metadata is not None:
                self._items.metadata[row] = metadata[source]

    def _forget(self, first_row):
        if self._search is not None:
            self._search.forget(first_row)


def _check_fingerprint(saved, current, folder):
    for part, value in current.items():
        if value is not None and saved[part] is not None and value != saved[part]:
            raise ValueError(
                f"The gallery was made with another {part}. Received: {part} {value[:12]}… for {str(folder)!r}. "
                f"Expected: {saved[part][:12]}…. Load the gallery with the {part} it was made with, or build it again."
            )
