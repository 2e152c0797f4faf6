"""Reading what may be no file, for which the operating system answers."""

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm import storage
from attn_lstm.errors import UserError


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


@given(value=st.integers() | st.floats(allow_subnormal=False))
def test_a_number_of_json_is_read_if_arrays_can_hold_it(value):
    fits = math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63
    if fits:
        assert storage.parse_json(json.dumps([value])) == [value]
    else:
        with pytest.raises(ValueError, match=r"not finite|too large"):
            storage.parse_json(json.dumps([value]))


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "1" + "0" * 400, "9" * 5000])
def test_a_number_beyond_all_names_its_file_in_one_short_line(tmp_path, text):
    (tmp_path / "seconds.json").write_text(f'{{"training": {text}}}')
    with pytest.raises(
        UserError, match=r"seconds\.json is damaged .*(not finite|too large)"
    ) as caught:
        storage.read_json(tmp_path / "seconds.json")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
