"""A page in the browser to try a trained network on, served on the loopback alone."""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
import ml_collections
import numpy as np

from attn_lstm import progress
from attn_lstm.data import image_file
from attn_lstm.data.web import MAX_BYTES
from attn_lstm.errors import UserError
from attn_lstm.serving.model import Model, open_model
from attn_lstm.serving.results import data_url

_HOST = "127.0.0.1"
_SIDE = 640  # pixels of the longer side of what is shown
_SECONDS = 60  # until a browser that sends nothing is hung up on
_FOLDER = Path(__file__).parent
_FILES = {"/demo.css": "text/css", "/demo.js": "text/javascript"}
# Nothing from elsewhere, and images that are part of an answer.
_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"


def serve(config: ml_collections.ConfigDict, directory: Path, step: str, port: int) -> None:
    """Serves the page until the process is ended.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: of the checkpoint: a number, 'best' or 'latest'.
      port: on the loopback; 0 for one that is free.

    Raises:
      UserError: no such checkpoint, or a port that cannot be had.
    """
    model = open_model(config, directory, step, images=1)
    side = config.data.image_size
    model.predict(
        [np.zeros((side, side, 3), np.uint8)]
    )  # compiles, so that no visitor waits for it
    with create_server(model, port) as server:
        progress.end()
        print(f"http://{_HOST}:{server.server_port}/ shows the page; Ctrl-C ends it", flush=True)
        server.serve_forever()


def create_server(model: Model, port: int) -> ThreadingHTTPServer:
    """A server of the page and its answers, not yet serving.

    Raises:
      UserError: the port is taken, or not this user's to take.
    """

    class Handler(_Handler):
        page = _page(model)
        one_at_a_time = threading.Lock()

        def predict(self, content: bytes) -> dict[str, Any]:
            with self.one_at_a_time:
                return answer(model, content)

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except OSError as error:
        raise UserError(
            f"--port={port}: {error.strerror}; give another, or --port=0 for one that is free"
        ) from None


def answer(model: Model, content: bytes) -> dict[str, Any]:
    """What the page shows of an image file, in JSON's types.

    Returns:
      'image', a data URL of the picture as it is shown, and 'labels' in the order of emission, each
      with 'name', 'step', 'probability', 'score' (the raw one, or None without a calibration) and
      'map', a data URL of the picture under its attention, or None. The maps of an image share
      their scale.

    Raises:
      UserError: the file is no image that can be read.
    """
    try:
        picture = image_file.read(content, model.config.data.max_pixels)
    except ValueError as error:
        raise UserError(f"this file cannot be read: {error}") from None
    (prediction,) = model.predict([picture])
    pixels, maps = prediction.drawn(_SIDE)
    return {
        "image": data_url(pixels),
        "labels": [
            {
                "name": label.name,
                "step": label.step,
                "probability": label.probability,
                "score": label.score,
                "map": None if map_ is None else data_url(map_),
            }
            for label, map_ in zip(prediction.labels, maps, strict=True)
        ],
    }


def _page(model: Model) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return (
        environment.get_template("demo.html.j2").render(model=model, max_bytes=MAX_BYTES).encode()
    )


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one page."""

    page: bytes
    timeout = _SECONDS
    server: ThreadingHTTPServer

    def predict(self, content: bytes) -> dict[str, Any]:
        raise NotImplementedError

    def do_GET(self) -> None:
        """The page and its two files."""
        if not self._is_ours():
            return
        if self.path in ("/", "/index.html"):
            self._send(HTTPStatus.OK, "text/html", self.page)
        elif self.path in _FILES:
            content = (_FOLDER / self.path[1:]).read_bytes()
            self._send(HTTPStatus.OK, _FILES[self.path], content)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """The answer for an image file, which is the body."""
        if not self._is_ours():
            return
        # A page of another origin may not send this type unless it asks first, and nobody answers.
        if self.path != "/predict" or self.headers["Content-Type"] != "application/octet-stream":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        length = self.headers["Content-Length"] or ""
        if not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the length of the file is missing")
        elif int(length) > MAX_BYTES:
            most = f"the file is larger than {MAX_BYTES >> 20} MB"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
        else:
            try:
                found = self.predict(self.rfile.read(int(length)))
            except UserError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            else:
                self._send(HTTPStatus.OK, "application/json", json.dumps(found).encode())

    def _is_ours(self) -> bool:
        """Whether the browser asked for the loopback: a name of elsewhere may lead here too."""
        port = self.server.server_port
        if self.headers["Host"] in (f"{_HOST}:{port}", f"localhost:{port}"):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
        return False

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True
        self._send(status, "application/json", json.dumps({"error": reason}).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal has its line."""
