"""Every test sees 4 virtual CPU devices and a quiet TensorFlow."""

import codecs
import contextlib
import fcntl
import http.server
import importlib.util
import os
import pty
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.programs import xla_flags

os.environ["XLA_FLAGS"] = xla_flags(4)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = "cpu"
# What one process of the session compiles, the others find: workers of xdist inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="attn_lstm_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis
import jax
import pytest
from jax.sharding import Mesh

from attn_lstm.parallel import make_mesh
from attn_lstm.training import samples
from attn_lstm.training.loop import train
from configs import coco
from tests.patches import write_coco

hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("project")

# Some oracles are torch's, and libraries' on it, which cannot be had for every interpreter on every
# machine.
_ORACLES = ("torch", "torchvision", "timm", "transformers")
_missing = [name for name in _ORACLES if not importlib.util.find_spec(name)]
_uses = ["\nimport torch\n"] * ("torch" in _missing) + ["\nfrom tests.published import"] * bool(
    _missing
)
collect_ignore = [
    str(path)
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))
    if any(use in path.read_text() for use in _uses)
]


def pytest_terminal_summary(terminalreporter):
    if collect_ignore:
        names = ", ".join(Path(path).name for path in collect_ignore)
        terminalreporter.write_line(
            f"without {', '.join(_missing)}, not installed, left out: {names}"
        )


# Pictures would be much of what runs of a few steps do.
samples.COUNT = 1

NOBODY = 65_534


@pytest.fixture(scope="module", autouse=True)
def freed():
    """Compiled functions are dropped behind each module: all of them together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function from a name and what fills a folder to that folder.

    It is filled once in a session, whichever worker comes first. Tests change copies of it only.
    """
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # else this is the one process of the session
        root = root.parent

    def find(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = root / f"shared-{name}", root / f"shared-{name}.filled"
        with (root / f"shared-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                fill(folder)
                filled.touch()
        return folder

    return find


@pytest.fixture(scope="session")
def coco_folder(shared) -> Path:
    """48 training images, of which 4 are held out, and 10 test images; 3 labels."""
    return shared("coco", lambda folder: write_coco(folder, {"train2014": 48, "val2014": 10}))


@pytest.fixture(scope="session")
def tiny_config(coco_folder):
    """A function from a method and overrides to a config that trains in seconds."""

    def create(method: str = "order_free", **overrides):
        config = coco.get_config(method).unlock()
        config.update_from_flattened_dict(
            {
                "data.path": str(coco_folder),
                "data.image_size": 32,
                "data.validation_fraction": 0.1,
                "backbone.name": "small",
                "backbone.frozen": False,
                "decoder.hidden": 16,
                "decoder.attention": 8,
                "decoder.max_labels": 3,
                "set_head.hidden": 16,
                "set_head.layers": 1,
                "set_head.feedforward": 16,
                "decoder.dropout": 0.2,
                "search.beam_size": 2,
                "train.batch_size": 8,
                "train.steps": 10,
                "train.log_every": 2,
                "train.eval_every": 4,
                "train.checkpoint_every": 3,
                "eval.batch_size": 8,
                **overrides,
            }
        )
        return config.lock()

    return create


@pytest.fixture(scope="session")
def one_device() -> Mesh:
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def whole(shared, tiny_config, one_device) -> Path:
    """The work directory of a run on one device that nothing disturbed.

    It has 10 steps and the checkpoints 9 and 10.
    """
    return shared("whole", lambda folder: train(tiny_config(), folder, one_device))


@pytest.fixture
def terminal(monkeypatch):
    """A function: in its `with` block output and errors go to a pseudo-terminal of 140 columns.

    It yields a list, which holds what was written there, a text, when the block is left.
    """
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")

    @contextlib.contextmanager
    def opened():
        here, there = pty.openpty()
        chunks, written = [], []

        def read() -> None:
            with contextlib.suppress(OSError):  # what a terminal without another end gives
                while chunk := os.read(here, 4096):
                    chunks.append(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        with (
            os.fdopen(there, "w") as stream,
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            yield written
        reader.join()
        os.close(here)
        written.append(b"".join(chunks).decode())

    return opened


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of one's own, while one may not read what is closed: root may read anything."""
    root = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    codecs.lookup("utf-8-sig")  # imported now: Python's own folder may be closed, too
    try:
        if is_root:
            shutil.chown(root, NOBODY)
            os.seteuid(NOBODY)
        yield root
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(root)


@pytest.fixture
def web_server():
    """Answers on the loopback: `web_server({path: content or URL of another})` is its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers.asked.append(self.path)
            content = answers.contents.get(self.path.partition("?")[0])
            self.send_response(404 if content is None else 302 if isinstance(content, str) else 200)
            if isinstance(content, str):
                self.send_header("Location", content)
            self.end_headers()
            if isinstance(content, bytes):
                with contextlib.suppress(OSError):  # who asked has hung up
                    self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Answers:
        def __init__(self, url):
            self.url, self.asked, self.contents = url, [], {}

        def __call__(self, contents):
            self.contents = contents
            return self.url

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers = Answers(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answers
        server.shutdown()
        thread.join()
