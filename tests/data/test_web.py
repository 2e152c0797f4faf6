"""Files from the web, against a server on the loopback."""

import socket
import threading

import pytest

from attn_lstm.data import web
from attn_lstm.errors import UserError


def test_what_is_a_url_and_what_a_path():
    assert web.is_url("HTTPS://example.org/a.jpg") and web.is_url("http://example.org")
    assert not any(map(web.is_url, ("http", "gs://bucket/a.jpg", "a/http://b", b"http://x", 3)))
    assert web.name_in("https://example.org/b/a.jpg?x=/y#z") == "a.jpg"


def test_a_file_comes_as_it_is_also_by_a_redirection_and_a_name_with_blanks(web_server):
    url = web_server({"/a%20%C3%BC.jpg": b"content", "/old": f"{web_server.url}/a%20%C3%BC.jpg"})
    assert web.fetch(f"{url}/a ü.jpg") == b"content"
    assert web.fetch(f"{url}/a%20%C3%BC.jpg") == b"content"
    assert web.fetch(f"{url}/old") == b"content"


def test_what_gives_no_file_is_named_with_its_reason(web_server):
    url = web_server({})
    with pytest.raises(UserError, match=rf"{url}/none\.jpg: the server answers 404 Not Found"):
        web.fetch(f"{url}/none.jpg")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be fetched: .*refused"):
        web.fetch(f"http://127.0.0.1:{port}/a.jpg")
    with pytest.raises(UserError, match="cannot be fetched: "):
        web.fetch("http://")


def test_a_file_that_is_too_large_is_not_read_to_its_end(web_server, monkeypatch):
    monkeypatch.setattr(web, "MAX_BYTES", 2**20)
    url = web_server({"/full": b"x" * 2**20, "/more": b"x" * (2**20 + 1)})
    assert len(web.fetch(f"{url}/full")) == 2**20
    with pytest.raises(UserError, match="larger than 1 MB"):
        web.fetch(f"{url}/more")


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_says_nothing_or_little_is_left(drips):
    done = threading.Event()

    def answer(server):
        client, _ = server.accept()
        with client:
            client.recv(4096)
            if drips:
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                while not done.wait(0.02):
                    client.sendall(b"x")
            done.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=[server], daemon=True)
        thread.start()
        with pytest.raises(UserError, match="did not arrive in time"):
            web.fetch(f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg", seconds=0.3)
        done.set()
        thread.join(10)
