import io
import json
import re
import subprocess
import sys
import threading

import headless_browser
import numpy as np
import pytest
from mean_color import MeanColor
from PIL import Image

pytest.importorskip("fastapi", reason="The extra serve is not installed.")
pytest.importorskip("httpx", reason="Test clients need httpx.")

from fastapi.testclient import TestClient  # noqa: E402

from tfdml.experiments import InputError, gallery_command, gallery_main, gallery_map, gallery_server  # noqa: E402
from tfdml.experiments.gallery_files import GallerySource  # noqa: E402
from tfdml.experiments.gallery_search import OpenedGallery, as_records  # noqa: E402
from tfdml.experiments.gallery_server import GalleryServer, accepted_hosts, make_app  # noqa: E402
from tfdml.gallery import FalseAcceptRate, Gallery  # noqa: E402


def encoded(pixels, kind="PNG"):
    contents = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(contents, kind)
    return contents.getvalue()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A gallery of eight images, and a file next to it that is none of them."""
    folder, generator, embedder = tmp_path_factory.mktemp("served"), np.random.default_rng(0), MeanColor(0)
    gallery = Gallery(embedder)
    for number in range(8):
        name = f"é {number}.png"
        pixels = generator.integers(0, 256, (300 + number, 20, 3 + number % 2), dtype=np.uint8) // (1 + number)
        (folder / name).write_bytes(encoded(pixels))
        gallery.add(embedder.embed_files([folder / name], 1), [name], ["cat", "dog"][number % 2 : number % 2 + 1])
    (folder / "secret.png").write_bytes(encoded(np.zeros((9, 9, 3))))
    return OpenedGallery(folder, gallery, GallerySource("mean", {}, [], str(folder)), str(folder), embedder)


@pytest.fixture
def make_client(opened):
    """Make a client of a server with some limits."""

    def make(opened=opened, **limits):
        app = make_app(GalleryServer(opened, **limits), accepted_hosts("127.0.0.1"))
        return TestClient(app, base_url="http://localhost:7860", raise_server_exceptions=False)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def test_the_map_shows_principal_components(client, opened):
    found = client.get("/map").json()
    assert found["items"] == list(range(8)) and found["total"] == 8
    assert found["ids"][3] == "é 3.png" and found["labels"][:2] == ["cat", "dog"]
    vectors = opened.gallery.vectors(opened.gallery.ids).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    expected, points = (left * values)[:, :3], np.array(found["points"])
    expected *= np.sign((expected * points).sum(axis=0)) / np.abs(expected).max()
    np.testing.assert_allclose(points, expected, atol=1e-3)
    np.testing.assert_allclose(found["explained"], (values**2 / (values**2).sum())[:3], atol=1e-3)
    assert client.get("/map.js").status_code == 200


def test_a_map_of_a_sample_and_of_equal_vectors(make_client, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_map, "_BLOCK_ROWS", 2)
    client = make_client(max_points=3)
    found = client.get("/map").json()
    assert len(found["items"]) == len(found["points"]) == len(found["labels"]) == 3 and found["total"] == 8
    assert found["items"] == sorted(found["items"]) and client.get("/map").json() == found
    with pytest.raises(InputError, match="max_points=20001. Expected: at most 20000"):
        GalleryServer(opened, max_points=20_001)
    gallery = Gallery()
    gallery.add(np.full((3, 2), 1e38))
    found = gallery_map.principal_map(gallery, 10)
    assert found["points"] == [[0, 0, 0]] * 3 and found["explained"] == [0, 0, 0]


def test_answers_are_json_for_missing_items_and_names_that_are_not_utf8(make_client, tmp_path):
    network = MeanColor(0)
    gallery, labels = Gallery(network), ["caf\udce9", "dog"]
    first, second, query = (network.embed_pixels(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200, 12))
    gallery.add(np.concatenate([first, second]), ["a.png", "b.png"], labels)
    gallery.calibrate(np.concatenate([query, second]), labels, FalseAcceptRate(0.9))
    opened = OpenedGallery(tmp_path, gallery, GallerySource("mean", {}, [], str(tmp_path)), str(tmp_path), network)
    client = make_client(opened)
    # Two neighbors are asked for, and one remains without the item itself.
    found = client.get("/search/1?k=2")
    assert found.status_code == 200
    assert [(one["id"], one["label"]) for one in found.json()["neighbors"]] == [("a.png", r"caf\udce9")]
    upload = client.post("/search", files={"image": encoded(np.full((4, 4, 3), 9))})
    assert upload.status_code == 200 and upload.json()["verdict"]["label"] == r"caf\udce9"
    result = gallery.search(second, 2, exclude=["b.png"])
    assert np.isinf(result.distances[0, 1])
    (record,) = as_records(result, None, None)
    assert len(json.loads(json.dumps(record, allow_nan=False))["neighbors"]) == 1


def post(client, contents, **fields):
    return client.post("/search", files={"image": ("x", contents, "image/png")}, data=fields)


def detail_of(response, status):
    assert response.status_code == status and response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    (name, text), = response.json().items()
    assert name == "detail" and isinstance(text, str)
    return text


def test_search_is_that_of_the_gallery(client, opened):
    query = (opened.folder / "é 3.png").read_bytes()
    response = post(client, query, k="5")
    assert response.status_code == 200
    found = response.json()
    expected = opened.gallery.search(opened.embedder.embed_files([opened.folder / "é 3.png"], 1), 5)
    assert [one["id"] for one in found["neighbors"]] == expected.ids[0].tolist()
    assert [one["label"] for one in found["neighbors"]] == expected.labels[0].tolist()
    np.testing.assert_array_equal([one["distance"] for one in found["neighbors"]], expected.distances[0])
    assert found["neighbors"][0]["id"] == "é 3.png" and found["verdict"] is None
    assert all(one["thumbnail"] == f"/thumbnail/{one['item']}" for one in found["neighbors"])
    # More neighbors than items are all items; the default is 10.
    assert len(post(client, query, k="100").json()["neighbors"]) == 8 == len(post(client, query).json()["neighbors"])


def test_search_by_an_item_leaves_it_out(client, opened):
    found = client.get("/search/2?k=3").json()
    expected = opened.gallery.search(opened.gallery.vectors(["é 2.png"]), 4).ids[0].tolist()
    assert found["id"] == "é 2.png" and [one["id"] for one in found["neighbors"]] == expected[1:]
    assert "There is no item 8" in detail_of(client.get("/search/8"), 404)
    assert "There is no item -1" in detail_of(client.get("/search/-1"), 404)


def test_verdicts_of_a_calibrated_gallery(make_client, opened):
    with pytest.warns(UserWarning):
        calibration = opened.gallery.calibrate(
            opened.gallery.vectors(opened.gallery.ids), opened.gallery.labels(opened.gallery.ids), FalseAcceptRate(0.2)
        )
    try:
        client = make_client()
        assert client.get("/gallery").json()["is_calibrated"]
        verdict = post(client, (opened.folder / "é 3.png").read_bytes()).json()["verdict"]
        assert verdict == {"is_known": True, "label": "dog", "score": 0.0, "threshold": calibration.threshold}
        far = encoded(np.array([[[255, 0, 255]]]))
        verdict = post(client, far).json()["verdict"]
        assert not verdict["is_known"] and verdict["score"] > verdict["threshold"]
        assert client.get("/search/1").json()["verdict"] is None
    finally:
        opened.gallery.calibration = None


def test_thumbnails_are_those_of_items_only(client, opened):
    response = client.get("/thumbnail/1")
    assert response.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (17, 256) and image.mode == "RGB"
    # Transparent pixels are on white.
    whole = Image.open(opened.folder / "é 1.png")
    expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    assert abs(np.asarray(image).mean() - np.asarray(expected).mean()) < 3
    for address in ("secret.png", "..%2Fserved0%2Fsecret.png", "%2Fetc%2Fpasswd", "../secret.png", "8", "-1"):
        assert client.get(f"/thumbnail/{address}").status_code in (404, 422), address


def test_missing_and_broken_files_of_items(make_client, opened, tmp_path):
    for number in range(8):
        (tmp_path / f"é {number}.png").write_bytes(b"broken")
    (tmp_path / "é 0.png").unlink()
    client = make_client(OpenedGallery(tmp_path, opened.gallery, opened.source, str(tmp_path), opened.embedder))
    assert "missing" in detail_of(client.get("/thumbnail/0"), 404)
    assert "not an image" in detail_of(client.get("/thumbnail/1"), 415)
    # Items are found by their vectors.
    assert client.get("/search/0").status_code == 200


def test_uploads_that_are_not_images(client):
    contents = encoded(np.zeros((30, 30, 3)))
    for wrong in (b"", b"no image", contents[: len(contents) // 2], b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        assert "not an image" in detail_of(post(client, wrong), 415)
    assert "image" in detail_of(client.post("/search", data={"k": "3"}), 422)
    assert "image" in detail_of(client.post("/search", data={"image": "text"}), 422)
    assert "image" in detail_of(client.post("/search", content=b"x", headers={"content-type": "image/png"}), 422)
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert detail_of(client.post("/search", content=b"--y\r\n", headers=broken), 400)
    for k in ("0", "101", "many", "1.5"):
        assert "k" in detail_of(post(client, contents, k=k), 422)
        assert "k" in detail_of(client.get(f"/search/1?k={k}"), 422)


def test_size_of_uploads(make_client):
    client = make_client(max_upload_mb=0.1)
    image = encoded(np.random.default_rng(0).integers(0, 256, (300, 300, 3)))
    assert len(image) > 200_000
    assert "at most 0.1 MB" in detail_of(post(client, image), 413)

    def in_parts():
        # A body of unknown length.
        yield b'--b\r\ncontent-disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for start in range(0, len(image), 1000):
            yield image[start : start + 1000]
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert "at most 0.1 MB" in detail_of(client.post("/search", content=in_parts(), headers=headers), 413)
    assert "413" in str(client.post("/search", content=b"", headers={"content-length": "9" * 30}).status_code)
    image = image[:0] + encoded(np.random.default_rng(0).integers(0, 256, (150, 150, 3)))
    assert post(client, image).status_code == 200
    assert client.post("/search", content=in_parts(), headers=headers).status_code == 200


def test_pixels_are_limited_before_they_are_decoded(make_client):
    client = make_client(max_pixels=1000)
    assert post(client, encoded(np.zeros((20, 50, 3)))).status_code == 200
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        assert "at most 1,000" in detail_of(post(client, encoded(np.zeros((20, 51, 3)), kind)), 413)
    # A header of 100,000 x 100,000 pixels, for which there is no memory.
    contents = bytearray(encoded(np.zeros((4, 4, 3))))
    contents[16:24] = (100_000).to_bytes(4, "big") * 2
    assert "100,000 x 100,000" in detail_of(post(make_client(), bytes(contents)), 413)


def test_only_names_of_this_machine(client, make_client, opened):
    assert client.get("/health", headers={"host": "127.0.0.1:7860"}).json() == {"status": "ok", "items": 8}
    for host in ("localhost", "[::1]:7860", "LOCALHOST:1"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "evil.example:7860", ""):
        assert "Unknown host" in detail_of(client.get("/health", headers={"host": host}), 400)
    assert accepted_hosts("0.0.0.0") is None and accepted_hosts("gallery.lan") is None
    anywhere = TestClient(make_app(GalleryServer(opened), accepted_hosts("0.0.0.0")))
    assert anywhere.get("/health", headers={"host": "gallery.lan"}).status_code == 200


def test_searches_run_one_at_a_time_and_wait_in_a_short_line(make_client, opened):
    running, begun, go = [], threading.Semaphore(0), threading.Event()

    class Slow(MeanColor):
        def embed_pixels(self, pixels):
            running.append(1)
            assert len(running) == 1
            begun.release()
            assert go.wait(30)
            running.pop()
            return super().embed_pixels(pixels)

    slow = OpenedGallery(opened.folder, opened.gallery, opened.source, opened.root, Slow(0))
    server = GalleryServer(slow, max_waiting=1)
    client = TestClient(make_app(server), raise_server_exceptions=False)
    contents, statuses = encoded(np.ones((9, 9, 3))), []
    threads = [threading.Thread(target=lambda: statuses.append(post(client, contents).status_code)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=30)
    while server._places._value:
        pass
    refused = post(client, contents)
    assert "Too many searches" in detail_of(refused, 503) and refused.headers["retry-after"] == "1"
    assert client.get("/health").status_code == 200
    go.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200] and post(client, contents).status_code == 200


def test_pages_are_complete_and_accessible(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert '<html lang="en">' in page.text and re.search("<title>.+</title>", page.text)
    for name in re.findall(r'<input id="(\w+)"', page.text):
        assert f'<label for="{name}">' in page.text
    assert all("alt=" in image for image in re.findall("<img[^>]*>", page.text))
    texts = [page.text, *(client.get(f"/{name}").text for name in ("page.css", "page.js", "map.js"))]
    assert not any("http:" in text or "https:" in text or "//cdn" in text for text in texts)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\bon\w+=", "".join(texts))
    assert client.get("/gallery").json()["items"] == 8
    for address in ("/docs", "/redoc", "/nothing", "/page.html", "/favicon.ico"):
        assert detail_of(client.get(address), 404)
    assert detail_of(client.get("/search"), 405)
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/health", "/gallery", "/map", "/search", "/search/{item}", "/thumbnail/{item}"}


def test_errors_of_the_program_are_hidden(make_client, opened, monkeypatch):
    client = make_client()
    monkeypatch.setattr(opened.embedder, "embed_pixels", lambda pixels: 1 / 0)
    assert detail_of(post(client, encoded(np.ones((9, 9, 3)))), 500).startswith("Internal error")
    # The next request is not blocked.
    monkeypatch.undo()
    assert post(client, encoded(np.ones((9, 9, 3)))).status_code == 200


def test_images_without_a_direction(make_client, opened):
    gallery = Gallery(opened.embedder, distance="cosine")
    gallery.add(opened.gallery.vectors(opened.gallery.ids), opened.gallery.ids)
    client = make_client(OpenedGallery(opened.folder, gallery, opened.source, opened.root, opened.embedder))
    assert "direction" in detail_of(post(client, encoded(np.zeros((9, 9, 3)))), 415)
    assert post(client, encoded(np.ones((9, 9, 3)))).json()["neighbors"][0]["label"] is None


def test_names_that_are_not_utf_8(make_client, opened):
    gallery = Gallery(opened.embedder)
    gallery.add([[1.0, 0, 0, 0]], ["caf\udce9.png"])
    client = make_client(OpenedGallery(opened.folder, gallery, opened.source, opened.root, opened.embedder))
    assert client.get("/search/0").json()["id"] == "caf\\udce9.png"
    assert post(client, encoded(np.ones((9, 9, 3)))).json()["neighbors"][0]["id"] == "caf\\udce9.png"


def test_wrong_limits_and_addresses(opened, monkeypatch, capsys):
    for limits in ({"max_upload_mb": 0}, {"max_upload_mb": float("nan")}, {"max_pixels": 0}, {"max_waiting": -1}):
        with pytest.raises(InputError, match=f"Received: {next(iter(limits))}="):
            GalleryServer(opened, **limits)
    empty = OpenedGallery(opened.folder, Gallery(), opened.source, opened.root, opened.embedder)
    with pytest.raises(InputError, match="The gallery is empty"):
        GalleryServer(empty)
    with gallery_server.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        for host, number, message in (
            ("127.0.0.1", port, "cannot listen"),
            ("127.0.0.1", 70000, "Invalid port"),
            ("no.such.host.invalid", 0, "Unknown host"),
        ):
            with pytest.raises(InputError, match=message), gallery_server.listening(host, number):
                pass
    monkeypatch.setattr(gallery_command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_:
        gallery_main(["serve", "gallery"])
    assert exit_.value.code == 2 and "pip install 'tfdml[serve]'" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.skipif(headless_browser.executable() is None, reason="Chromium is not installed (Debian: chromium).")
def test_the_page_in_a_browser(tmp_path, monkeypatch):
    import keras

    generator = np.random.default_rng(0)
    for label, color in (("blue", (40, 60, 200)), ("red", (200, 50, 40))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(color + generator.integers(-40, 40, (32, 48, 3)), 0, 255)
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(encoded(pixels))
    keras.utils.set_random_seed(0)
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]).save(tmp_path / "m.keras")
    monkeypatch.chdir(tmp_path)
    assert gallery_main(["build", "m.keras", "photos", "--out", "gallery", "--quiet"]) == 0
    code = "import sys; from tfdml.experiments import gallery_main; sys.exit(gallery_main())"
    monkeypatch.setenv("PYTHONPATH", str(gallery_command.__file__).rsplit("/tfdml/", 1)[0])
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "gallery", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
        with headless_browser.opened(address) as page:
            page.wait_for("document.getElementById('about').textContent.includes('8 images')")
            page.choose_file("#image", tmp_path / "photos" / "red" / "2.png")
            page.wait_for("document.querySelectorAll('#neighbors li').length === 8")
            nearest = "[...document.querySelectorAll('#neighbors li')].map(one => one.querySelector('{}').textContent)"
            assert page.evaluate(nearest.format(".label")) == ["red"] * 4 + ["blue"] * 4
            assert page.evaluate(nearest.format(".id"))[0] == "photos/red/2.png"
            assert page.evaluate(nearest.format(".distance"))[0] == "0.0000"
            images = "[...document.querySelectorAll('img')]"
            page.wait_for(f"{images}.every(one => one.complete && one.naturalWidth === 48)")
            # The button of a neighbor searches for images like it.
            page.evaluate("document.querySelectorAll('#neighbors button')[7].click()")
            page.wait_for("document.querySelectorAll('#neighbors li').length === 7")
            assert page.evaluate(nearest.format(".label"))[:3] == ["blue"] * 3
            # The map opens, and a click on a point searches.
            page.evaluate("document.getElementById('map').open = true")
            page.wait_for("document.getElementById('map-about').textContent.startsWith('8 images by three')")
            # A file that is not an image.
            (tmp_path / "wrong.png").write_bytes(b"no image")
            page.choose_file("#image", tmp_path / "wrong.png")
            page.wait_for("!document.getElementById('error').hidden")
            assert "not an image" in page.evaluate("document.getElementById('error').textContent")
            assert all(one.startswith((address, "blob:", "data:")) for one in page.requested())
            # The only error in the console is that of the refused file.
            assert ["415" in str(problem) for problem in page.problems()] == [True]
    finally:
        server.terminate()
        server.wait()
