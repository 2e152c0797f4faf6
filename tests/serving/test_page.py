"""The page to try a network on: what its server answers, and what a browser makes of it."""

import base64
import http.client
import io
import json
import shutil
import subprocess
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from attn_lstm.errors import UserError
from attn_lstm.runs import workdir
from attn_lstm.serving import page
from attn_lstm.serving.model import open_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def model(whole):
    config = workdir.load_config(whole)
    config.search.threshold = 0.0  # so that each image has its three labels
    return open_model(config, whole, "best")


def serving(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def server(model):
    yield from serving(page.create_server(model, 0))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def picture(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(server, method, path, body=None, headers=None):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def decoded(url):
    kind, _, data = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_an_image_is_answered_with_what_the_model_predicts(model, server, picture, pixels):
    status, _, content = ask(server, "POST", "/predict", picture, BYTES)
    found, (expected,) = json.loads(content), model.predict([pixels])
    assert status == 200
    assert [label["name"] for label in found["labels"]] == [x.name for x in expected.labels]
    for got, label in zip(found["labels"], expected.labels, strict=True):
        assert (got["step"], got["score"]) == (label.step, label.score)
        assert got["probability"] == pytest.approx(label.probability)
        assert decoded(got["map"]).shape == (40, 60, 3)
    assert decoded(found["image"]).shape == (40, 60, 3)


def test_the_page_and_its_files_are_served_with_a_policy(model, server):
    for path, part in (("/", b"3 labels"), ("/demo.js", b"fetch"), ("/demo.css", b":root")):
        status, headers, content = ask(server, "GET", path)
        assert status == 200 and part in content
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert ask(server, "GET", "/../page.py")[0] == 404


def test_what_is_no_image_is_said_so(server):
    status, _, content = ask(server, "POST", "/predict", b"no image", BYTES)
    assert status == 400
    assert "not an image" in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**BYTES, "Content-Length": str(page.MAX_BYTES + 1)}, 413),
        ({**BYTES, "Content-Length": "-1"}, 411),
        ({"Content-Type": "text/plain"}, 404),  # what a page of elsewhere may send unasked
        ({**BYTES, "Host": "elsewhere.example"}, 403),
    ],
)
def test_requests_that_are_not_the_pages_own_are_refused(server, headers, status):
    assert ask(server, "POST", "/predict", None, headers)[0] == status


def test_it_listens_on_the_loopback_alone_and_names_a_port_that_is_taken(model, server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match=rf"--port={server.server_port}: .*--port=0"):
        page.create_server(model, server.server_port)


# ------------------------------------------------------------------------- in a real browser

# Drops an image on the page, as a user does, and writes down how many labels there are after each.
DRIVER = """
const counts = [];
new MutationObserver(() => {
  counts.push(document.querySelectorAll("#labels li").length);
  document.title = JSON.stringify(counts);
}).observe(document.getElementById("labels"), { childList: true });
fetch("/picture.png").then((response) => response.blob()).then((blob) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([blob], "picture.png"));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
});
"""


class Shown(HTMLParser):
    """The page's title, and the buttons of its labels with their texts."""

    def __init__(self, text):
        super().__init__()
        self.title, self.buttons, self._at = "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._at = tag
        if tag == "button":
            self.buttons.append((dict(attributes), []))

    def handle_data(self, data):
        if self._at == "title":
            self.title += data
        elif self.buttons:
            self.buttons[-1][1].append(data)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_dropped_image_shows_its_labels_step_by_step(model, picture, pixels, tmp_path):
    server = page.create_server(model, 0)

    class Driven(server.RequestHandlerClass):
        page = server.RequestHandlerClass.page + b'<script src="/driver.js"></script>'

        def do_GET(self):
            extra = {"/driver.js": ("text/javascript", DRIVER.encode()),
                     "/picture.png": ("image/png", picture)}  # fmt: skip
            if self.path in extra:
                self._send(200, *extra[self.path])
            else:
                super().do_GET()

    server.RequestHandlerClass = Driven
    for running in serving(server):
        finished = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path}", "--virtual-time-budget=60000", "--dump-dom",
             f"http://127.0.0.1:{running.server_port}/"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert "CONSOLE" not in finished.stderr
    shown = Shown(finished.stdout)
    (expected,) = model.predict([pixels])
    assert json.loads(shown.title) == [1, 2, 3]
    labels = [(marks, text) for marks, text in shown.buttons if "aria-pressed" in marks]
    assert [text[0] for _, text in labels] == [label.name for label in expected.labels]
    assert [marks["aria-pressed"] for marks, _ in labels] == ["false", "false", "true"]
