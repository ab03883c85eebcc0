"""Searchable collection of embeddings."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import Labels, PathLike
from tfdml.data import Preprocessing
from tfdml.gallery.approximate import ApproximateSearch
from tfdml.gallery.backends import Backend, BackendVectors
from tfdml.gallery.classification import METHODS, Prototypes, nearest_by_vote
from tfdml.gallery.exact import ExactSearch
from tfdml.gallery.exclusion import excluded_items, search_without
from tfdml.gallery.faiss_indexes import IndexKind
from tfdml.gallery.fingerprint import fingerprint
from tfdml.gallery.folder import read_folder, write_folder
from tfdml.gallery.inputs import compiled, to_vectors
from tfdml.gallery.items import Items, checked_labels, checked_metadata
from tfdml.gallery.report import GalleryReport, measured
from tfdml.gallery.reranking import search_reranked
from tfdml.gallery.results import Classification, SearchResult, without
from tfdml.gallery.thresholds import DEFAULT_TARGET, Calibration, Target, calibrate
from tfdml.gallery.vectors import STORAGES, StoredVectors


class Gallery:
    r"""Embeddings with ids, labels and metadata, in which queries find their nearest neighbors.

    Images become vectors with the embedder; vectors are accepted as they are. A call that fails changes nothing.
    Distances are those to the stored vectors: $\lVert x - y \rVert$, or $\lVert x - y \rVert^2 / 2$ of normalized
    vectors, which is $1 - \cos(x, y)$, for `distance="cosine"`. Of equal distances, the item added first comes first.

    Args:
        embedder: `keras.Model` from images to embeddings, a `MetricModel`, or a function of a batch; `None` for a
            gallery that accepts only vectors. Default `None`.
        preprocessing: `tfdml.data.Preprocessing` of image files and uint8 images. `None` uses the input size of the
            embedder for files and leaves arrays unchanged. Default `None`.
        distance: `"l2"`, or `"cosine"`, which normalizes vectors. Default `"l2"`.
        storage: `"float32"`, `"float16"` or `"int8"` (a scale per vector). Default `"float32"`.
        batch_size: int. Images that are embedded at once. Default 256.
        index: `"exact"`; with the extra `faiss` also `"hnsw"` (a graph of neighbors, fast), `"ivfpq"` (lists of
            compressed vectors, small), `"binary"` (signs of the values, smallest), or a factory string of Faiss such as
            `"IVF1024,Flat"`. All but the first are approximate: the index proposes candidates, which are ordered by
            their distances to the stored vectors. Default `"exact"`.
        candidates: int, the number of candidates of a query; float, that number relative to `k`. `None` uses `k + 8` if
            the index holds whole vectors, `40.0` for `"binary"`, and `4.0` otherwise. Default `None`.
        index_parameters: str. Effort of the index as in Faiss, such as `"efSearch=128"` or `"nprobe=64"`. `None` uses
            `efSearch=64` and probes 1/32 of the lists. Default `None`.
        backend: `Backend`, such as `QdrantBackend`, that holds the vectors and searches them in place of an index.
            Default `None`.

    Attributes:
        calibration: `Calibration` from the last call of `calibrate`, or `None`. It is saved with the gallery.

    Raises:
        ImportError: If the index needs Faiss, which is not installed.
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
        index: str = "exact",
        candidates: int | float | None = None,
        index_parameters: str | None = None,
        backend: Backend | None = None,
    ) -> None:
        # A MetricModel trains an embedder.
        self.embedder, self.preprocessing = getattr(embedder, "embedder", embedder), preprocessing
        self._forward = compiled(self.embedder)
        self.distance = check_choice("distance", distance, ("l2", "cosine"))
        self.storage = check_choice("storage", storage, STORAGES)
        self.batch_size = check_whole_number("batch_size", batch_size, 1)
        self._items = Items()
        self.index, self.candidates = index, _checked_candidates(candidates)
        self.index_parameters, self.backend = index_parameters, backend
        self._kind = _checked_index(index, candidates, index_parameters, backend, storage)
        self._vectors: Any = None
        self._search: Any = None
        self._prototypes: Prototypes | None = None
        self.calibration: Calibration | None = None
        # What a folder must contain when this gallery is saved to it; None for anything.
        self._expected_manifest: bytes | None = None

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
        store = self._vectors if self._vectors is not None else self._new_vectors(vectors.shape[1])
        search = self._search if self._search is not None else self._new_search(store)
        # A vector that the storage cannot hold must be found before anything changes.
        store.encode(vectors)
        self._vectors, self._search, self._prototypes = store, search, None
        old = np.array([item in self for item in new_ids])
        if present:
            self._replace(self._items.rows(present), vectors[old], new_labels, new_metadata, np.flatnonzero(old))
        new = np.flatnonzero(~old)
        search.appended(len(self))
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
            raise ValueError(
                f"The numbers of ids and vectors differ. Received: {len(vectors)} vectors for {len(rows)} ids. "
                f"Expected: {len(rows)} vectors."
            )
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
        self._search.kept(kept)
        self._prototypes = None
        self._vectors.keep(kept)
        self._items.keep(kept)

    def search(self, queries: Any, k: int = 10, exclude: Any = None, rerank: Any = None) -> SearchResult:
        """Find the nearest items of each query, exactly or as the index does.

        Args:
            queries: `n` images or vectors, as for `add`.
            k: int. Number of items per query, at most the number of items. Default 10.
            exclude: What each query leaves out. A list with an id, a list of ids or `None` for each query, for example
                the query's own id; or a dict from fields to lists of `n` values, which leaves out items that have the
                query's values in all fields. A field is a key of the items' metadata (if it is a dict), or `"label"`;
                a query with the value `None` leaves out nothing. Default `None`.
            rerank: `KReciprocal`, `QueryExpansion`, `LabelLimit`, `MarginalRelevance`, a function with the arguments of
                their `__call__`, or a list of these, which are applied in their order. Distances remain those between
                query and item, so they need not increase. Default `None`.

        Returns:
            `SearchResult`. Items are missing from it where fewer than `k` remain.

        Raises:
            ValueError: If the gallery is empty, `k` exceeds its size, the queries do not fit, there are too few vectors
                to train the index, there is not one entry of `exclude` per query, no item has one of its fields, or the
                backend does not return vectors to a re-ranker.
            KeyError: If an id to exclude is not in the gallery.
            TypeError: If `exclude` or `rerank` has the wrong type.
        """
        k = check_whole_number("k", k, 1)
        if not len(self):
            raise ValueError("The gallery is empty. Received: 0 items. Expected: items. Call add first.")
        if k > len(self):
            raise ValueError(f"The gallery has too few items. Received: k={k}. Expected: at most {len(self)}.")
        vectors = self._to_vectors(queries)[0]
        search = self._search
        if exclude is not None:
            excluded = excluded_items(exclude, self._items, len(vectors))
            search = functools.partial(search_without, self._search, excluded=excluded, size=len(self))
        if rerank is None:
            rows, squared = search(vectors, k)
        else:
            rows, squared = search_reranked(search, rerank, vectors, k, self._vectors, self._items)
        ids, labels = (without(column, rows < 0) for column in self._items.columns(rows))
        distances = squared / 2 if self.distance == "cosine" else np.sqrt(squared)
        return SearchResult(ids, labels, distances)

    def report(self, queries: Any = None, k: int = 10) -> GalleryReport:
        """Measure recall, time and memory of the index, compared with exact search in the same vectors.

        Args:
            queries: Images or vectors, as for `add`. `None` uses 1,000 of the stored vectors, each without itself.
                Default `None`.
            k: int. Number of neighbors. Default 10.

        Returns:
            `GalleryReport`.

        Raises:
            ValueError: If the gallery has a backend or too few items, or the queries do not fit.

        Example:
            >>> gallery = Gallery(storage="float16")
            >>> ids = gallery.add(np.random.default_rng(0).random((50, 8)))
            >>> report = gallery.report(k=5)
            >>> report.recall, report.vector_bytes
            (1.0, 16.0)
        """
        k = check_whole_number("k", k, 1)
        if self.backend is not None:
            raise ValueError(
                f"A backend is not measured. Received: backend={type(self.backend).__name__}. Expected: a gallery that "
                "holds its vectors."
            )
        needed = k if queries is not None else k + 1
        if needed > len(self):
            raise ValueError(f"The gallery has too few items. Received: {len(self)}. Expected: at least {needed}.")
        return measured(self._search, self.index, None if queries is None else self._to_vectors(queries)[0], k)

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

        The index is built if it is not yet, and saved. Vectors in a backend stay there.

        Args:
            folder: str or `os.PathLike`. New or empty folder, or a gallery. `~` is the home folder.

        Returns:
            `pathlib.Path` of the folder.

        Raises:
            FileExistsError: If the folder contains other files.
            OSError: If the folder is not writable, or another process writes to it.
        """
        path = pathlib.Path(folder).expanduser()
        store = self._vectors if self._vectors is not None else self._new_vectors(0)
        arrays, items = store.arrays(), self._items
        columns = {"ids": items.ids, "labels": items.labels, "metadata": items.metadata, "next_id": items.next_id}
        description = {
            "count": len(self),
            "dim": self.dim,
            "distance": self.distance,
            "storage": self.storage,
            "fingerprint": fingerprint(self.embedder, self.preprocessing),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.config(),
            "calibration": None if self.calibration is None else self.calibration.config(),
            "index": self.index,
            "candidates": self.candidates,
            "index_parameters": self.index_parameters,
            "backend": None if self.backend is None else type(self.backend).__name__,
        }
        write_index = None
        if self.backend is not None:
            description["next_key"] = store.next_key
        elif self._kind is not None and self._has_index():
            description["index_state"], arrays["positions"] = self._search.state()
            write_index = functools.partial(self._kind.write, self._search.index)
        written = write_folder(path, description, arrays, columns, write_index, self._expected_manifest)
        if self._expected_manifest is not None:
            self._expected_manifest = written
        return path

    @classmethod
    def load(
        cls,
        folder: PathLike,
        embedder: Any = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 256,
        index: str | None = None,
        candidates: int | float | None = None,
        index_parameters: str | None = None,
        backend: Backend | None = None,
    ) -> Gallery:
        """Load a gallery. Its vectors stay in their file until they change.

        Args:
            folder: str or `os.PathLike`. Folder written by `save`.
            embedder: The embedder with which the gallery was made; `None` to search with vectors only. Functions and
                SavedModels have no fingerprint, so only the size of their vectors is checked. Default `None`.
            preprocessing: `Preprocessing` to compare with that of the gallery, which `None` uses. Default `None`.
            batch_size: int. Images that are embedded at once. Default 256.
            index: str. An index other than the saved one, built when it is needed; `None` for the saved one. A version
                of Faiss that cannot read it builds it again. Default `None`.
            candidates: int or float, as for `Gallery`; `None` for the saved value. Default `None`.
            index_parameters: str, as for `Gallery`; `None` for the saved value. Default `None`.
            backend: The backend that holds the vectors of the gallery. Default `None`.

        Returns:
            `Gallery`.

        Raises:
            FileNotFoundError: If there is no gallery.
            ImportError: If the index needs Faiss, which is not installed. Pass `index="exact"`.
            ValueError: If a file is damaged or missing, a later version has written it, the embedder or the
                preprocessing is another one, or the backend is missing or has fewer vectors.
        """
        manifest, arrays, items = read_folder(pathlib.Path(folder).expanduser())
        config = manifest["preprocessing"]
        if preprocessing is None and config is not None:
            preprocessing = Preprocessing.from_config(config)
        embedder = getattr(embedder, "embedder", embedder)
        _check_fingerprint(manifest["fingerprint"], fingerprint(embedder, preprocessing), folder)
        saved_index = manifest.get("index", "exact")
        if index in (None, saved_index):
            index = saved_index
            candidates = manifest.get("candidates") if candidates is None else candidates
            index_parameters = manifest.get("index_parameters") if index_parameters is None else index_parameters
        _check_backend(backend, manifest.get("backend"), manifest["count"])
        options = index, candidates, index_parameters, backend
        gallery = cls(embedder, preprocessing, manifest["distance"], manifest["storage"], batch_size, *options)
        gallery._items = Items(items["ids"], items["labels"], items["metadata"])
        gallery._items.next_id = items["next_id"]
        # Earlier versions did not have it.
        if manifest.get("calibration") is not None:
            gallery.calibration = Calibration.from_config(manifest["calibration"])
        if manifest["dim"] is not None:
            if backend is None:
                gallery._vectors = StoredVectors(manifest["storage"], arrays["vectors"], arrays.get("scales"))
            else:
                gallery._vectors = BackendVectors(backend, manifest["dim"], arrays["keys"], manifest["next_key"])
            gallery._search = gallery._new_search(gallery._vectors)
            if index == saved_index and "index" in arrays:
                gallery._restore_index(arrays["index"], manifest["index_state"], arrays["positions"])
        return gallery

    def _new_vectors(self, dim):
        if self.backend is None:
            return StoredVectors.empty(self.storage, dim)
        if dim and len(self.backend):
            raise ValueError(
                f"The backend is not empty. Received: {len(self.backend)} vectors. Expected: none for a new gallery. "
                "Load the gallery that the vectors belong to, or empty the backend."
            )
        return BackendVectors(self.backend, dim)

    def _new_search(self, store):
        if self.backend is not None:
            return store
        return ExactSearch(store) if self._kind is None else ApproximateSearch(store, self._kind, self.candidates)

    def _has_index(self):
        if not len(self):
            return False
        try:
            self._search.synchronize()
        except ValueError:
            # Mostly too few vectors so far; the next search tells.
            return False
        return True

    def _restore_index(self, path, state, positions):
        try:
            index = self._kind.read(path)
        except RuntimeError as error:
            warnings.warn(
                f"The index is built again, because this version of Faiss cannot read it. Received: {str(path)!r} "
                f"({error}).",
                stacklevel=3,
            )
        else:
            self._search.restore(index, state, positions)

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
            self._vectors.write(rows, vectors)
            self._search.written(rows)
        for row, source in zip(rows, sources):
            if labels is not None:
                self._items.labels[row] = labels[source]
            if metadata is not None:
                self._items.metadata[row] = metadata[source]


def _checked_candidates(candidates):
    is_number = isinstance(candidates, (int, float)) and not isinstance(candidates, bool)
    if candidates is None or (is_number and 1 <= candidates < float("inf")):
        return candidates
    raise ValueError(
        f"The number of candidates is invalid. Received: candidates={candidates!r}. Expected: an int >= 1 for a "
        "number, a float >= 1 for a multiple of k, or None."
    )


def _checked_index(index, candidates, parameters, backend, storage):
    if not isinstance(index, str):
        raise TypeError(f"The index has the wrong type. Received: {index!r}. Expected: a str such as 'hnsw'.")
    if index == "exact" and (candidates, parameters) != (None, None):
        raise ValueError(
            f"Exact search has no candidates and no parameters. Received: candidates={candidates!r}, "
            f"index_parameters={parameters!r}. Expected: an approximate index such as index='hnsw'."
        )
    if backend is None:
        return None if index == "exact" else IndexKind(index, parameters)
    if not isinstance(backend, Backend):
        raise TypeError(
            f"The backend lacks a method. Received: {type(backend).__name__}. Expected: add, remove, search and "
            "__len__."
        )
    if index != "exact" or storage != "float32":
        raise ValueError(
            f"The backend holds the vectors. Received: index={index!r} and storage={storage!r} with a backend. "
            "Expected: neither. Set them in the backend."
        )
    return None


def _check_backend(backend, saved, count):
    if backend is None and saved is not None:
        raise ValueError(
            f"The vectors of the gallery are in a backend. Received: backend=None. Expected: the {saved} that holds "
            "them."
        )
    if backend is not None and saved is None:
        raise ValueError(
            f"The gallery holds its vectors itself. Received: backend={type(backend).__name__}. Expected: None."
        )
    if backend is not None and len(backend) < count:
        raise ValueError(
            f"The backend lacks vectors of the gallery. Received: {len(backend)}. Expected: {count}. Pass the backend "
            "that holds them, or build the gallery again."
        )


def _check_fingerprint(saved, current, folder):
    for part, value in current.items():
        if value is not None and saved[part] is not None and value != saved[part]:
            raise ValueError(
                f"The gallery was made with another {part}. Received: {part} {value[:12]}… for {str(folder)!r}. "
                f"Expected: {saved[part][:12]}…. Load the gallery with the {part} it was made with, or build it again."
            )
