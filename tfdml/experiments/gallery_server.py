"""Web page and HTTP API of a gallery. Needs the extra `serve`.

The server is made for one machine or a trusted network: it has no users and no encryption. A request can read
thumbnails of the gallery's images, the ids and labels of items, and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import fastapi
import fastapi.exceptions
import numpy as np
import tensorflow as tf
import uvicorn
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.input_errors import InputError, input_errors
from tfdml.data.image_files import TooManyPixelsError, read_contents
from tfdml.experiments.errors import line_of
from tfdml.experiments.gallery_files import counted, path_of, shown
from tfdml.experiments.gallery_map import LARGEST_COUNT, principal_map
from tfdml.experiments.gallery_search import OpenedGallery, as_jpeg, as_records, thumbnail
from tfdml.version import __version__

_WEB = pathlib.Path(__file__).with_name("web")
_PAGES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
          "/map.js": ("map.js", "text/javascript"), "/page.css": ("page.css", "text/css")}  # fmt: skip
_THUMBNAIL_SIDE, _THUMBNAILS_KEPT = 256, 2048
_LARGEST_K = 100
_Upload = Annotated[fastapi.UploadFile, fastapi.File(description="Image file.")]
_NumberInForm = Annotated[int, fastapi.Form(ge=1, le=_LARGEST_K, description="Number of neighbors.")]
_NumberInQuery = Annotated[int, fastapi.Query(ge=1, le=_LARGEST_K, description="Number of neighbors.")]
# Room for the boundaries and headers of a multipart body.
_MULTIPART_BYTES = 2**16
# How much of a body that is too large is read and discarded, relative to the limit.
_DISCARDED_BODIES = 4
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class GalleryServer:
    """Gallery that answers searches one at a time.

    Args:
        opened: `OpenedGallery` with its embedder.
        max_upload_mb: float. Largest upload in megabytes. Default: 20.
        max_pixels: int. Largest height · width of an uploaded image, which is checked before it is decoded. Default:
            50,000,000.
        max_waiting: int. Searches that may wait for the one that is running; further ones are refused. Default: 16.
        max_points: int. Items on the map, at most 20,000; of more, a sample is shown. Default: 3,000.

    Raises:
        InputError: If the gallery is empty, or a limit is invalid.
    """

    def __init__(
        self,
        opened: OpenedGallery,
        max_upload_mb: float = 20,
        max_pixels: int = 50_000_000,
        max_waiting: int = 16,
        max_points: int = 3000,
    ):
        if not len(opened.gallery):
            raise InputError(f"The gallery is empty. Received: {opened.folder}. Expected: images. Add some first.")
        with input_errors():
            self.max_pixels = check_whole_number("max_pixels", max_pixels, 1)
            max_waiting = check_whole_number("max_waiting", max_waiting, 0)
            self.max_points = check_whole_number("max_points", max_points, 1)
        if max_points > LARGEST_COUNT:
            raise InputError(f"Invalid limit. Received: max_points={max_points}. Expected: at most {LARGEST_COUNT}.")
        if not 0 < max_upload_mb <= 1000:
            raise InputError(f"Invalid limit. Received: max_upload_mb={max_upload_mb}. Expected: above 0, up to 1000.")
        self.max_upload_bytes = int(max_upload_mb * 1e6)
        self.opened = opened
        self._ids = opened.gallery.ids
        self._row_of = {item: row for row, item in enumerate(self._ids)}
        self._turn, self._drawing = threading.Lock(), threading.Lock()
        self._map: bytes | None = None
        self._places = threading.BoundedSemaphore(max_waiting + 1)
        self._decoders = threading.BoundedSemaphore(2)
        self._thumbnail = functools.lru_cache(_THUMBNAILS_KEPT)(self._draw_thumbnail)

    def warm_up(self) -> None:
        """Search once, so that the first request is as fast as the others."""
        self.search_upload(as_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), 1)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What the page shows about the gallery."""
        gallery = self.opened.gallery
        labels = set(gallery.labels(self._ids)) - {None}
        return {
            "name": shown(self.opened.folder.absolute().name),
            "items": len(self._ids),
            "labels": len(labels),
            "distance": gallery.distance,
            "is_calibrated": gallery.calibration is not None,
            "max_upload_bytes": self.max_upload_bytes,
            "max_pixels": self.max_pixels,
            "version": __version__,
        }

    def search_upload(self, contents: bytes, k: int) -> dict[str, Any]:
        """Search by the bytes of an image file; HTTPException if they are not an image, or too large."""
        with self._place():
            try:
                pixels = read_contents(contents, self.max_pixels)
            except TooManyPixelsError as error:
                raise HTTPException(413, f"The image is too large: {error}") from error
            except ValueError as error:
                raise HTTPException(
                    415, f"The file is not an image that can be read: {error}. Expected: JPEG, PNG, GIF, BMP, WebP or "
                    "TIFF."
                ) from error  # fmt: skip
            try:
                return self._search(self._embed(pixels), k)
            except tf.errors.OpError as error:
                raise HTTPException(415, f"The image does not go through the embedder: {line_of(error)}") from error

    def search_item(self, item: int, k: int) -> dict[str, Any]:
        """Search by the stored vector of an item, which is left out of the result."""
        self._check_item(item)
        with self._place():
            found = self._search(self.opened.gallery.vectors([self._ids[item]]), k, [self._ids[item]])
        # The item itself is always as near as can be.
        return {"item": item, "id": shown(self._ids[item]), **found, "verdict": None}

    def map(self) -> bytes:
        """Return the map of the gallery as JSON. It is computed at the first request."""
        # No turn of a search: a large gallery takes seconds.
        with self._drawing:
            if self._map is None:
                with input_errors():
                    found = principal_map(self.opened.gallery, self.max_points)
                ids = [self._ids[row] for row in found["items"]]
                labels = [_shown_label(label) for label in self.opened.gallery.labels(ids)]
                content = {**found, "ids": [shown(item) for item in ids], "labels": labels}
                self._map = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
            return self._map

    def thumbnail(self, item: int) -> bytes:
        """Return the image of an item as a small JPEG; HTTPException if its file is missing or unreadable."""
        self._check_item(item)
        try:
            return self._thumbnail(item)
        except OSError as error:
            raise HTTPException(404, f"The file of item {item} is missing or cannot be read.") from error
        except ValueError as error:
            raise HTTPException(415, f"The file of item {item} is not an image that can be read.") from error

    def _check_item(self, item):
        if not 0 <= item < len(self._ids):
            raise HTTPException(404, f"There is no item {item}. Expected: 0 to {len(self._ids) - 1}.")

    def _draw_thumbnail(self, item):
        with self._decoders:
            return as_jpeg(thumbnail(path_of(self._ids[item], self.opened.root), _THUMBNAIL_SIDE))

    def _embed(self, pixels):
        assert self.opened.embedder is not None
        vectors = self.opened.embedder.embed_pixels(pixels)
        if not np.isfinite(vectors).all() or (self.opened.gallery.distance == "cosine" and not vectors.any()):
            raise HTTPException(415, "The embedder has no finite vector with a direction for this image.")
        return vectors

    def _search(self, vectors, k, exclude=None):
        calibration = self.opened.gallery.calibration
        found, verdicts = self.opened.search(vectors, min(k, len(self._ids)), exclude)
        (record,) = as_records(found, verdicts, None if calibration is None else calibration.threshold)
        for one in record["neighbors"]:
            one["item"] = self._row_of[one["id"]]
            one["id"], one["label"] = shown(one["id"]), _shown_label(one["label"])
            one["thumbnail"] = f"/thumbnail/{one['item']}"
        if record["verdict"] is not None:
            record["verdict"]["label"] = _shown_label(record["verdict"]["label"])
        return record

    @contextlib.contextmanager
    def _place(self):
        """Wait for a turn, or refuse if too many wait."""
        if not self._places.acquire(blocking=False):
            raise HTTPException(503, "Too many searches are waiting. Try again later.", {"retry-after": "1"})
        try:
            with self._turn:
                yield
        finally:
            self._places.release()


def make_app(server: GalleryServer, hosts: tuple[str, ...] | None = None) -> fastapi.FastAPI:
    """Return the ASGI application of a server.

    Args:
        server: `GalleryServer`.
        hosts: tuple of str. Names by which requests may address the server, so that pages of other sites cannot reach
            it under a name of theirs. Default: any.
    """
    app = fastapi.FastAPI(title="tfdml gallery", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "items": server.description["items"]}

    @app.get("/gallery")
    def gallery() -> dict[str, Any]:
        return server.description

    @app.post("/search")
    def search(image: _Upload, k: _NumberInForm = 10) -> dict[str, Any]:
        start = time.perf_counter()
        found = server.search_upload(image.file.read(), k)
        return {**found, "seconds": time.perf_counter() - start}

    @app.get("/search/{item}")
    def similar(item: int, k: _NumberInQuery = 10) -> dict[str, Any]:
        return server.search_item(item, k)

    @app.get("/map", response_class=Response)
    def map_of() -> Response:
        return Response(server.map(), 200, {"cache-control": "no-cache"}, "application/json")

    @app.get("/thumbnail/{item}", response_class=Response)
    def thumbnail_of(item: int) -> Response:
        return Response(server.thumbnail(item), 200, {"cache-control": "private, max-age=3600"}, "image/jpeg")

    for address, (name, kind) in _PAGES.items():
        content = (_WEB / name).read_bytes()
        response = functools.partial(Response, content, 200, {"cache-control": "no-cache"}, f"{kind}; charset=utf-8")
        app.get(address, include_in_schema=False)(_page(response))

    @app.exception_handler(fastapi.exceptions.RequestValidationError)
    def invalid(request: fastapi.Request, error: fastapi.exceptions.RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, one['loc'][1:])) or 'request'}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"detail": "; ".join(problems)}, 422)

    @app.exception_handler(InputError)
    def unusable(request: fastapi.Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": shown(error)}, 422)

    @app.exception_handler(Exception)
    def failed(request: fastapi.Request, error: Exception) -> JSONResponse:
        # Outside of the middleware that adds the headers.
        return JSONResponse({"detail": "Internal error. The server's terminal says more."}, 500, _HEADERS)

    app.add_middleware(_Guard, hosts=hosts, max_bytes=server.max_upload_bytes + _MULTIPART_BYTES)
    return app


def _shown_label(label):
    return shown(label) if isinstance(label, str) else label


def _page(response):
    def page():
        return response()

    return page


class _Guard:
    """Middleware that limits bodies while they arrive, checks the host, and adds headers to responses."""

    def __init__(self, app, hosts, max_bytes):
        self._app, self._hosts, self._max_bytes = app, hosts, max_bytes

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        refusal = self._refusal(headers)
        if refusal is not None:
            if "expect" not in headers:
                await self._discard(receive)
            await refusal(scope, receive, send_with_headers)
            return
        received = 0

        async def receive_limited():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # After the last part, receive would wait for the client to leave.
                if message.get("more_body", False):
                    await self._discard(receive)
                raise HTTPException(413, self._too_large(), {"connection": "close"})
            return message

        await self._app(scope, receive_limited, send_with_headers)

    def _refusal(self, headers):
        if self._hosts is not None and _host_in(headers.get("host", "")) not in self._hosts:
            return JSONResponse({"detail": f"Unknown host. Expected: one of {', '.join(self._hosts)}."}, 400)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes:
            return JSONResponse({"detail": self._too_large()}, 413, {"connection": "close"})
        return None

    async def _discard(self, receive):
        """Read the rest of a body, up to a limit: a client that is still sending would not see the response."""
        discarded = 0
        while discarded < _DISCARDED_BODIES * self._max_bytes:
            message = await receive()
            discarded += len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    def _too_large(self):
        return f"The upload is too large. Expected: at most {(self._max_bytes - _MULTIPART_BYTES) / 1e6:g} MB."


def _host_in(header):
    """The host of a `Host` header, without the port and the brackets of IPv6."""
    host = header.rsplit(":", 1)[0] if header.count(":") == 1 or header.startswith("[") and "]:" in header else header
    return host.strip("[]").lower()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens on an address; InputError if that is impossible."""
    if not 0 <= port < 2**16:
        raise InputError(f"Invalid port. Received: --port {port}. Expected: 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"Unknown host. Received: --host {host} ({error.strerror}). Expected: an address.") from error
    with listener:
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(64)
        except OSError as error:
            raise InputError(
                f"The server cannot listen. Received: --host {host} --port {port} ({error.strerror}). Expected: an "
                "address of this machine and a free port. Pass --port 0 for any free port."
            ) from error
        yield listener


def accepted_hosts(host: str) -> tuple[str, ...] | None:
    """Return the names by which requests may address a server that listens on `host`; `None` for any.

    Example:
        >>> accepted_hosts("127.0.0.1")
        ('localhost', '127.0.0.1', '::1')
    """
    local = ("localhost", "127.0.0.1", "::1")
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return local + (() if host in local else (host,)) if is_local else None


def run(server: GalleryServer, listener: socket.socket, host: str) -> None:
    """Serve until Ctrl-C."""
    server.warm_up()
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    print(f"{counted(len(server.opened.gallery), 'image')}: http://{name}:{port} (Ctrl-C stops the server)", flush=True)
    app = make_app(server, accepted_hosts(host))
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, limit_concurrency=256)
    # Ctrl-C is how a server ends.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
