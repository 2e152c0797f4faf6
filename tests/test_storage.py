"""Reading what may be no file, for which the operating system answers."""

import os

import pytest

from attn_lstm import storage


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "to a device"])
def test_what_may_never_end_is_not_read(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to a device").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="a pipe or a device, no file") as caught:
        storage.read_file(tmp_path / place)
    assert caught.value.filename == os.fspath(tmp_path / place)


def test_files_are_read_whole_also_through_links_and_folders_are_named_as_such(tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    assert storage.read_file(tmp_path / "link") == content
    with pytest.raises(IsADirectoryError):
        storage.read_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        storage.read_file(tmp_path / "none")
