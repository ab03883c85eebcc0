import json
import os
import sys
import types

import numpy as np
import pytest

from tests.gallery.test_gallery import brute_force, check_search, make_vectors
from tfdml import Gallery
from tfdml.gallery import Backend, QdrantBackend
from tfdml.gallery.approximate import ApproximateSearch
from tfdml.gallery.candidates import nearest_candidates
from tfdml.gallery.faiss_indexes import IndexKind
from tfdml.gallery.vectors import StoredVectors

INDEXES = ["hnsw", "ivfpq", "binary", "Flat", "IVF4,Flat", "PCA4,Flat"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of Faiss wait actively for each other, which takes long on a machine that does other work."""
    faiss = pytest.importorskip("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def clustered(count, dim=8, seed=0):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(10, dim))
    return (centers[generator.integers(10, size=count)] + 0.3 * generator.normal(size=(count, dim))).astype(np.float32)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("width", [5, 30])
def test_candidates_are_ordered_as_by_brute_force(storage, width):
    store = StoredVectors.empty(storage, 6)
    store.append(make_vectors(40))
    queries = make_vectors(7, seed=1) + np.float32(0.25)
    candidates = np.stack([np.random.default_rng(row).permutation(40)[:width] for row in range(7)])
    candidates[0, 4:] = -1
    rows, squared = nearest_candidates(store, queries, candidates, k=5)
    stored = store.read(slice(None))
    assert rows[0, 4] == -1 and squared[0, 4] == np.inf
    for row in range(7):
        own = np.sort(candidates[row][candidates[row] >= 0])
        expected, distances = brute_force(stored[own], queries[row : row + 1], 5)
        np.testing.assert_array_equal(rows[row][: len(own)], own[expected[0]])
        np.testing.assert_array_equal(np.sqrt(squared[row][: len(own)]), distances[0])


def test_candidates_of_huge_values_are_ordered():
    store = StoredVectors("float32", np.geomspace(1e20, 1e36, 40, dtype=np.float32)[:, None] * np.ones((1, 2), "f4"))
    rows, _ = nearest_candidates(store, np.zeros((1, 2), np.float32), np.arange(40)[None, ::-1], k=3)
    assert rows.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("index", INDEXES)
def test_indexes_with_all_candidates_equal_brute_force_through_changes_and_saving(index, tmp_path):
    vectors, ids = make_vectors(300), [f"item {number}" for number in range(300)]
    gallery = Gallery(
        index=index, candidates=300, index_parameters="nprobe=99" if index[:3] in ("IVF", "ivf") else None
    )
    gallery.add(vectors[:280], ids[:280])
    check_search(gallery, vectors[:280], ids[:280])
    gallery.add(vectors[280:], ids[280:])
    check_search(gallery, vectors, ids)
    gallery.remove(ids[3:40])
    vectors, ids = np.delete(vectors, range(3, 40), 0), ids[:3] + ids[40:]
    vectors[5] = 1
    gallery.update([ids[5]], vectors[5:6])
    check_search(gallery, vectors, ids)
    gallery.save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert loaded.index == index and loaded._search.index is not None
    check_search(loaded, vectors, ids)
    # More than a quarter is removed now, so the index is built again if enough vectors are left to train it.
    loaded.remove(ids[:60])
    check_search(loaded, vectors[60:], ids[60:])
    loaded.save(tmp_path)
    check_search(Gallery.load(tmp_path), vectors[60:], ids[60:])
    check_search(Gallery.load(tmp_path, index="exact"), vectors[60:], ids[60:])
    assert len(list(tmp_path.glob("index-*.faiss"))) == 1


@pytest.mark.parametrize("index", ["hnsw", "IVF10,Flat"])
def test_removed_items_are_never_found_and_k_items_always(index):
    vectors = clustered(400)
    gallery = Gallery(index=index, distance="cosine", index_parameters="nprobe=1" if index != "hnsw" else None)
    ids = gallery.add(vectors)
    near = gallery.search(vectors[:1], k=90).ids[0]
    assert len(set(near)) == 90
    gallery.remove(near[:60])
    after = gallery.search(vectors[:1], k=len(gallery)).ids[0]
    assert set(after) == set(ids) - set(near[:60])


def test_an_index_is_built_again_when_the_gallery_has_grown():
    vectors = clustered(1100)
    gallery = Gallery(index="ivfpq")
    gallery.add(vectors[:256])
    gallery.search(vectors[:1])
    first = gallery._search.index
    gallery.add(vectors[256:600])
    gallery.search(vectors[:1])
    assert gallery._search.index is first and first.ntotal == 600
    gallery.add(vectors[600:])
    gallery.search(vectors[:1])
    assert gallery._search.index is not first and gallery._search.index.ntotal == 1100


def test_vectors_far_from_the_others_are_found():
    gallery = Gallery(index="hnsw")
    gallery.add(clustered(50))
    gallery.search(clustered(1))
    gallery.add(np.stack([np.full(8, 1e25), np.full(8, 2e25), np.full(8, 3e25)]), [100, 200, 300])
    assert gallery.search(np.full((1, 8), 2.9e25), k=3).ids.tolist() == [[300, 200, 100]]


def test_report(tmp_path):
    vectors, queries = clustered(300), clustered(20, seed=1)
    gallery = Gallery(index="IVF16,SQ8", candidates=2.0, index_parameters="nprobe=1", storage="int8")
    gallery.add(vectors)
    report = gallery.report(queries, k=5)
    stored = gallery.vectors(gallery.ids)
    expected = brute_force(stored, queries, 5)[0]
    found = gallery.search(queries, 5).ids
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(expected, found)]
    assert report.recall == pytest.approx(np.mean(shares)) and 0 < report.recall < 1
    assert (report.count, report.queries, report.k, report.candidates) == (300, 20, 5, 10)
    assert report.vector_bytes == 8 + 4 and report.index_bytes > 8 and report.build_seconds > 0
    assert f"recall at 5: {report.recall:.4f}" in str(report)
    # Stored vectors are queries without themselves.
    own = gallery.report(k=5)
    assert own.queries == 300 and own.k == 5 and own.recall > report.recall / 2
    assert Gallery(index="exact").storage == "float32"
    with pytest.raises(ValueError, match=r"too few items. Received: 300. Expected: at least 301"):
        gallery.report(k=300)
    loaded = Gallery.load(gallery.save(tmp_path))
    assert loaded.report(queries, k=5).build_seconds is None and loaded.report(queries, k=5).recall == report.recall


def test_too_few_vectors_to_train(tmp_path):
    gallery = Gallery(index="ivfpq")
    gallery.add(clustered(20))
    for attempt in (lambda: gallery.search(clustered(1), k=1), lambda: gallery.report(k=1)):
        with pytest.raises(ValueError, match=r"cannot be trained. Received: 20 vectors .*256"):
            attempt()
    # Nothing is lost: the folder has no index, and more vectors train it.
    loaded = Gallery.load(gallery.save(tmp_path))
    loaded.add(clustered(280, seed=1))
    assert loaded.search(clustered(20)[:1], k=1).ids.tolist() == [[0]]
    # Of those that remain, another could not be trained.
    loaded.remove(range(10, 300))
    assert loaded.search(clustered(20)[:1], k=1).ids.tolist() == [[0]]


BAD_OPTIONS = {
    "unknown": ({"index": "hsnw"}, ValueError, "index is unknown. Received: 'hsnw'"),
    "type": ({"index": 3}, TypeError, "index has the wrong type"),
    "size": ({"index": "PQ3"}, ValueError, r"does not fit the vectors. Received: 'PQ3' with 8 values"),
    "parameters": ({"index": "hnsw", "index_parameters": "nprobes=3"}, ValueError, "other parameters"),
    "parameters of binary": ({"index": "binary", "index_parameters": "nprobe=3"}, ValueError, "no parameters"),
    "ids": ({"index": "IDMap,Flat"}, ValueError, "cannot be filled"),
    "candidates 0": ({"index": "hnsw", "candidates": 0}, ValueError, "candidates=0"),
    "candidates bool": ({"index": "hnsw", "candidates": True}, ValueError, "candidates=True"),
    "exact": ({"candidates": 10}, ValueError, "Exact search has no candidates"),
    "backend": ({"backend": {}}, TypeError, "lacks a method. Received: dict"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case):
    options, error, message = BAD_OPTIONS[case]
    with pytest.raises(error, match=message):
        gallery = Gallery(**options)
        gallery.add(clustered(300))
        gallery.search(clustered(1))


def test_without_faiss_a_gallery_can_be_loaded_for_exact_search(tmp_path, monkeypatch):
    vectors = make_vectors(30)
    gallery = Gallery(index="hnsw")
    gallery.add(vectors)
    gallery.save(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"index='exact'. Run: pip install 'tfdml\[faiss\]'"):
        Gallery.load(tmp_path)
    check_search(Gallery.load(tmp_path, index="exact"), vectors, list(range(30)))


def test_an_index_that_faiss_cannot_read_is_built_again(tmp_path, monkeypatch):
    vectors = make_vectors(30)
    gallery = Gallery(index="hnsw", candidates=30)
    gallery.add(vectors)
    gallery.save(tmp_path)

    def unreadable(self, path):
        raise RuntimeError("Index type 0x4f4d not supported")

    monkeypatch.setattr(IndexKind, "read", unreadable)
    with pytest.warns(UserWarning, match="built again.*not supported"):
        loaded = Gallery.load(tmp_path)
    check_search(loaded, vectors, list(range(30)))


def test_damaged_and_foreign_indexes_are_refused(tmp_path):
    gallery = Gallery(index="hnsw")
    gallery.add(make_vectors(30))
    gallery.save(tmp_path)
    with pytest.raises(ValueError, match="does not belong to the vectors"):
        gallery._search.restore(gallery._search.index, gallery._search.state()[0], np.zeros(30))
    (path,) = tmp_path.glob("index-*.faiss")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="checksum differs"):
        Gallery.load(tmp_path)


def test_folders_of_earlier_versions_load(tmp_path):
    gallery = Gallery()
    gallery.add(make_vectors(9))
    gallery.save(tmp_path)
    manifest = json.loads((tmp_path / "gallery.json").read_text())
    assert manifest["format"] == 1
    for name in ("index", "candidates", "index_parameters", "backend"):
        del manifest[name]
    (tmp_path / "gallery.json").write_text(json.dumps(manifest))
    check_search(Gallery.load(tmp_path), make_vectors(9), list(range(9)))


@pytest.mark.parametrize("killed_at", range(5))
def test_a_save_that_is_interrupted_leaves_the_previous_gallery_and_its_index(killed_at, tmp_path, monkeypatch):
    vectors = make_vectors(30)
    gallery = Gallery(index="Flat", candidates=30)
    ids = gallery.add(vectors)
    gallery.save(tmp_path)
    gallery.remove([3])
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gallery.save(tmp_path)
    check_search(Gallery.load(tmp_path), vectors, ids)
    gallery.save(tmp_path)
    check_search(Gallery.load(tmp_path), np.delete(vectors, 3, 0), ids[:3] + ids[4:])
    assert len(list(tmp_path.iterdir())) == 5


class Lists:
    """The smallest backend."""

    def __init__(self):
        self.vectors = {}

    def add(self, keys, vectors):
        self.vectors.update(zip(keys.tolist(), vectors))

    def remove(self, keys):
        for key in keys.tolist():
            self.vectors.pop(key, None)

    def search(self, queries, k):
        keys, stored = np.array(list(self.vectors)), np.stack(list(self.vectors.values()))
        rows, distances = brute_force(stored, queries, k)
        return keys[rows], distances

    def __len__(self):
        return len(self.vectors)


def make_backend(kind, folder):
    if kind == "lists":
        return Lists()
    pytest.importorskip("qdrant_client")
    return QdrantBackend(folder if kind == "qdrant folder" else ":memory:", batch_size=7)


def check_found(gallery, vectors, ids, k=7):
    # Databases do not order ties.
    queries = clustered(5, seed=9)
    rows, distances = brute_force(vectors, queries, k)
    result = gallery.search(queries, k)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-5)
    np.testing.assert_array_equal(result.ids, np.array(ids)[rows])


@pytest.mark.parametrize("kind", ["lists", "qdrant", "qdrant folder"])
def test_backends_equal_brute_force_before_and_after_changes_and_saving(kind, tmp_path):
    backend = make_backend(kind, tmp_path / "qdrant")
    assert isinstance(backend, Backend)
    vectors, ids = clustered(30), [f"item {number}" for number in range(30)]
    gallery = Gallery(backend=backend)
    gallery.add(vectors[:20], ids[:20], labels=range(20))
    gallery.add(vectors[20:], ids[20:])
    check_found(gallery, vectors, ids)
    gallery.save(tmp_path / "gallery")
    assert not list((tmp_path / "gallery").glob("vectors-*"))
    if kind == "qdrant folder":
        backend.client.close()
        backend = make_backend(kind, tmp_path / "qdrant")
    loaded = Gallery.load(tmp_path / "gallery", backend=backend)
    assert loaded.labels(ids[:2]) == [0, 1]
    loaded.remove(ids[3:9])
    vectors, ids = np.delete(vectors, range(3, 9), 0), ids[:3] + ids[9:]
    vectors[5] = 1
    loaded.update([ids[5]], vectors[5:6])
    check_found(loaded, vectors, ids)
    loaded.add(np.ones((1, 8)) * 2, ["new"])
    vectors, ids = np.concatenate([vectors, np.full((1, 8), 2, np.float32)]), [*ids, "new"]
    check_found(loaded, vectors, ids)
    if kind == "lists":
        with pytest.raises(ValueError, match=r"does not return vectors. Received: Lists"):
            loaded.vectors(ids[:1])
    else:
        np.testing.assert_array_equal(loaded.vectors(ids[:9]), vectors[:9])
        backend.client.close()


def test_an_addition_that_a_backend_interrupts_changes_nothing_and_can_be_repeated(tmp_path):
    class Breaks(Lists):
        broken = False

        def add(self, keys, vectors):
            super().add(keys[: len(keys) // 2] if self.broken else keys, vectors)
            if self.broken:
                raise ConnectionError("gone")

    backend, vectors = Breaks(), clustered(30)
    gallery = Gallery(backend=backend, distance="l2")
    ids = gallery.add(vectors[:20])
    gallery.save(tmp_path)
    backend.broken = True
    with pytest.raises(ConnectionError):
        gallery.add(vectors[20:])
    assert gallery.ids == ids and len(backend) == 25
    check_found(gallery, vectors[:20], ids)
    backend.broken = False
    # The same after the process was killed.
    loaded = Gallery.load(tmp_path, backend=backend)
    check_found(loaded, vectors[:20], ids)
    ids += loaded.add(vectors[20:])
    check_found(loaded, vectors, ids)


def test_bad_backends(tmp_path):
    backend = Lists()
    gallery = Gallery(backend=backend)
    gallery.add(clustered(10))
    gallery.save(tmp_path)
    with pytest.raises(ValueError, match="A backend is not measured"):
        gallery.report()
    with pytest.raises(ValueError, match=r"in a backend. Received: backend=None. Expected: the Lists"):
        Gallery.load(tmp_path)
    with pytest.raises(ValueError, match=r"lacks vectors of the gallery. Received: 0. Expected: 10"):
        Gallery.load(tmp_path, backend=Lists())
    with pytest.raises(ValueError, match=r"not empty. Received: 10 vectors"):
        Gallery(backend=backend).add(clustered(1))
    for options in ({"index": "Flat"}, {"storage": "int8"}):
        with pytest.raises(ValueError, match="The backend holds the vectors"):
            Gallery(backend=backend, **options)
    backend.remove(np.arange(5))
    with pytest.raises(ValueError, match=r"found too few vectors. Received: 5 for a query. Expected: k=8"):
        backend.search = lambda queries, k: (np.tile(np.r_[5:10, [-1] * (k - 5)], (len(queries), 1)), np.ones((1, k)))
        gallery.search(clustered(1), k=8)
    backend.search = lambda queries, k: (np.zeros((1, 1), int), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="result of the backend is wrong"):
        gallery.search(clustered(1), k=2)
    Gallery().save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"holds its vectors itself. Received: backend=Lists"):
        Gallery.load(tmp_path / "plain", backend=backend)


def test_bad_collections(monkeypatch):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    client.create_collection("dot", qdrant.models.VectorParams(size=8, distance=qdrant.models.Distance.DOT))
    with pytest.raises(ValueError, match="another distance.*Expected: one unnamed vector per point"):
        QdrantBackend(client=client, collection="dot")
    client.create_collection("wide", qdrant.models.VectorParams(size=9, distance=qdrant.models.Distance.EUCLID))
    with pytest.raises(ValueError, match="another size. Received: 8. Expected: 9"):
        Gallery(backend=QdrantBackend(client=client, collection="wide")).add(clustered(1))
    backend = QdrantBackend(client=client)
    assert len(backend) == 0
    backend.add(np.arange(2), clustered(2))
    with pytest.raises(KeyError, match="1 keys without a vector"):
        backend.vectors(np.arange(3))
    with pytest.raises(ConnectionError, match=r"does not answer as expected.*'the given client'"):
        QdrantBackend(client=qdrant.QdrantClient("http://localhost:1", check_compatibility=False))
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ImportError, match=r"pip install 'tfdml\[qdrant\]'"):
        QdrantBackend()


def test_dropped_rows_are_forgotten_before_they_are_indexed():
    store = StoredVectors.empty("float32", 8)
    search = ApproximateSearch(store, IndexKind("Flat"), candidates=99)
    store.append(clustered(9))
    search(clustered(1), 1)
    for change in range(3):
        search.appended(len(store))
        store.append(clustered(4, seed=change))
        search.written(np.array([len(store) - 1, 0]))
        store.write(np.array([len(store) - 1, 0]), clustered(2, seed=50 + change))
        kept = np.random.default_rng(change).random(len(store)) < 0.8
        search.kept(kept)
        store.keep(kept)
        rows, _ = search(clustered(3, seed=7), 5)
        np.testing.assert_array_equal(rows, brute_force(store.read(slice(None)), clustered(3, seed=7), 5)[0])


def test_the_server_is_asked_by_url(monkeypatch):
    qdrant = pytest.importorskip("qdrant_client")
    asked = []

    def client(*args, **options):
        asked.append((args, options))
        return types.SimpleNamespace(collection_exists=lambda name: False)

    monkeypatch.setattr(qdrant, "QdrantClient", client)
    QdrantBackend("https://example.org:6333")
    assert asked == [(("https://example.org:6333",), {})]
