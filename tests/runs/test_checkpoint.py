"""Checkpoints: whole or not there, and never read when their files have changed."""

import json
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import multihost_utils

from attn_lstm.errors import UserError
from attn_lstm.parallel import make_mesh
from attn_lstm.runs.checkpoint import CHECKSUMS, Checkpoints, find_damage, write_checksums
from attn_lstm.runs.state import LeftOut, TrainState
from tests.programs import run

# What Orbax writes behind our checksums; see there.
UNCOVERED = ("_CHECKPOINT_METADATA", "commit_success.txt")
META = {"dataset": "coco", "labels": ["cat", "dog"], "fingerprint": "0a"}


def state_of(step: int, size: int = 50) -> TrainState:
    """Another state for each step."""
    rng = np.random.default_rng(step)
    params = {"a": {"kernel": jnp.asarray(rng.standard_normal((size, size)), jnp.float32)}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        collections={"batch_stats": {"mean": jnp.full(3, step, jnp.float32)}},
        opt_state={"momentum": jax.tree.map(lambda x: -x, params)},
        average=None,
        totals={"images": jnp.float32(8 * step)},
        left_out=LeftOut(jnp.int32(0), jnp.int32(0), {}, {"a": jnp.float32(step)}),
    )


def save(directory: Path, *steps: int, keep: int = 2) -> None:
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(state_of(step), META)
    checkpoints.close()


def restore(directory: Path, keep: int | None = 2) -> TrainState:
    """The newest state that training would go on from."""
    checkpoints = Checkpoints(directory, keep)
    try:
        abstract = jax.eval_shape(lambda: state_of(0))
        mesh = make_mesh(jax.devices()[:1])
        return checkpoints.restore_state(checkpoints.steps()[-1], abstract, mesh)
    finally:
        checkpoints.close()


def assert_is(state: TrainState, step: int) -> None:
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder of the whole checkpoints 3 and 6."""
    directory = tmp_path_factory.mktemp("original") / "latest"
    save(directory, 3, 6)
    return directory


@pytest.fixture
def latest(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "latest"))


def test_a_state_comes_back_bit_for_bit(latest):
    assert find_damage(latest / "6") is None
    assert_is(restore(latest), 6)
    assert_is(restore(latest, keep=None), 6)


@given(name=st.text(st.sampled_from("[]*?{}a%#,; '\"\\~é\n\udcff"), min_size=1, max_size=8))
@settings(max_examples=10)
def test_a_folder_of_any_name_holds_checkpoints(tmp_path_factory, name):
    latest = tmp_path_factory.mktemp("any") / name / "latest"
    save(latest, 3, 6)
    assert_is(restore(latest), 6)
    assert_is(restore(latest.rename(latest.parent.parent / "plain"), keep=None), 6)


def read_back(latest: Path, state: TrainState) -> None:
    checkpoints = Checkpoints(latest, 2)
    try:
        checkpoints.read_back(state, make_mesh(jax.devices()[:1]))
    finally:
        checkpoints.close()


def test_what_was_saved_is_read_back_and_compared(latest):
    read_back(latest, state_of(6))
    read_back(latest, state_of(9))  # the newest is of another step: read, not compared
    other = state_of(6).replace(collections=state_of(3).collections)
    with pytest.raises(UserError, match=r"checkpoint 6 in .* does not hold what was saved"):
        read_back(latest, other)


def test_arrays_that_were_not_joined_are_named_as_a_damaged_checkpoint(latest):
    for path in (latest / "6" / "variables").glob("manifest.ocdbt"):
        path.unlink()
    write_checksums(latest / "6")
    with pytest.raises(UserError, match=r"checkpoint 6 in .* cannot be read.*--step"):
        restore(latest)


@pytest.mark.parametrize("damage", [lambda path: flip(path, 1001), halve, Path.unlink])
def test_damage_to_any_file_is_found_and_named(original, tmp_path, damage):
    for path in files(original / "6"):
        name = path.relative_to(original / "6")
        if str(name) in UNCOVERED:
            continue
        folder = Path(shutil.copytree(original / "6", tmp_path / "copy"))
        damage(folder / name)
        found = find_damage(folder)
        # A checksum that has changed itself is one that its file does not have.
        assert str(folder) in found if name == Path(CHECKSUMS) else str(folder / name) in found
        shutil.rmtree(folder)


@given(st.data())
def test_a_flipped_bit_never_changes_what_is_restored(original, tmp_path_factory, data):
    latest = Path(shutil.copytree(original, tmp_path_factory.mktemp("flipped") / "latest"))
    names = [str(path.relative_to(latest / "6")) for path in files(latest / "6")]
    name = data.draw(st.sampled_from(names), "file")
    flip(latest / "6" / name, data.draw(st.integers(0, 2**16), "bit"))
    found = find_damage(latest / "6") is not None
    assert found or name in UNCOVERED
    assert_is(restore(latest), 3 if found else 6)


def test_a_damaged_checkpoint_is_named_and_set_aside_and_its_step_saved_again(latest, caplog):
    broken = max(files(latest / "6"), key=lambda path: path.stat().st_size)
    flip(broken, 1001)
    damaged = broken.read_bytes()
    aside = latest.parent / "damaged" / "latest-6"
    with caplog.at_level("WARNING", logger="absl"):
        assert_is(restore(latest), 3)
    for part in ("heckpoint 6", str(broken), str(aside), "checkpoint 3"):
        assert part in caplog.text
    assert (aside / broken.relative_to(latest / "6")).read_bytes() == damaged
    save(latest, 6)
    assert_is(restore(latest), 6)
    flip(files(latest / "6")[-1], 0)
    assert_is(restore(latest), 3)
    assert {path.name for path in aside.parent.iterdir()} == {"latest-6", "latest-6-2"}


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(latest):
    for step in ("3", "6"):
        halve(latest / step / CHECKSUMS)
    for _ in range(2):  # also when the command is given again
        with pytest.raises(UserError, match=r"no checkpoint.*6: .*3: .*--workdir"):
            Checkpoints(latest, 2)
    assert {path.name for path in latest.iterdir()} == {"3", "6"}


def test_a_damaged_checkpoint_that_can_be_done_without_makes_way_for_another(latest):
    for step in ("3", "6"):
        halve(latest / step / CHECKSUMS)
    checkpoints = Checkpoints(latest, 1, needed=False)
    assert checkpoints.steps() == []
    checkpoints.save(state_of(6), META)
    checkpoints.close()
    assert_is(restore(latest), 6)


def test_reading_names_the_damage_and_changes_nothing(latest):
    flip(latest / "6" / "meta" / "metadata", 8)
    before = files(latest.parent)
    checkpoints = Checkpoints(latest, keep=None)
    for read in (
        lambda: checkpoints.meta(6),
        lambda: checkpoints.restore_variables(6, {}, make_mesh(jax.devices()[:1])),
    ):
        with pytest.raises(UserError, match=r"checkpoint 6.*meta/metadata has changed.*--step"):
            read()
    assert checkpoints.meta(3) == {**META, "step": 3}
    checkpoints.close()
    assert files(latest.parent) == before


def test_what_a_killed_save_left_is_no_checkpoint_and_blocks_none(latest):
    draft = latest / "9.orbax-checkpoint-tmp"
    shutil.copytree(latest / "6", draft)
    checkpoints = Checkpoints(latest, keep=None)  # evaluation beside a run that saves
    assert checkpoints.steps() == [3, 6]
    checkpoints.close()
    assert draft.is_dir()
    save(latest, 9)
    assert_is(restore(latest), 9)
    assert {path.name for path in latest.iterdir()} == {"6", "9"}


def test_a_checkpoint_whose_checksums_were_not_written_is_not_used(latest):
    (latest / "6" / CHECKSUMS).unlink()
    assert_is(restore(latest), 3)
    write_checksums(latest.parent / "damaged" / "latest-6")
    assert find_damage(latest.parent / "damaged" / "latest-6") is None


def test_checksums_go_with_the_checkpoints_that_are_not_kept(tmp_path):
    save(tmp_path / "latest", 1, 2, 3, 4, keep=2)
    assert {path.name for path in (tmp_path / "latest").iterdir()} == {"3", "4"}
    assert len(list(tmp_path.rglob(CHECKSUMS))) == 2


@given(content=st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_content_of_the_checksums_is_an_exception(original, tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("checksums") / "6"
    shutil.copytree(original / "6", folder)
    (folder / CHECKSUMS).write_bytes(content)
    damage = find_damage(folder)
    assert damage is None or str(folder) in damage


def test_a_file_without_a_checksum_and_another_step_s_number_are_damage(original, tmp_path):
    latest = Path(shutil.copytree(original, tmp_path / "latest"))
    (latest / "6" / ".DS_Store").touch()
    assert find_damage(latest / "6") is None
    (latest / "6").rename(latest / "9")
    assert "is checkpoint 6 under another number" in find_damage(latest / "9")
    assert_is(restore(latest), 3)
    (latest / "3" / CHECKSUMS).write_text("{}")
    assert f"is not in {CHECKSUMS}" in find_damage(latest / "3")


def test_what_checks_the_directory_keeps_a_checkpoint_from_counting(tmp_path):
    def gone() -> None:
        raise UserError("no longer there")

    checkpoints = Checkpoints(tmp_path / "latest", 2, check_held=gone)
    checkpoints.save(state_of(1), META)
    with pytest.raises(UserError, match="no longer there"):
        checkpoints.close()
    assert list((tmp_path / "latest").iterdir()) == []


# What Orbax keeps of a checkpoint in the one file that the checksums do not cover.
NOTES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3), x, max_size=2),
)


@given(
    change=st.dictionaries(
        st.sampled_from(["item_handlers", "metrics", "performance_metrics", "custom_metadata",
                         "init_timestamp_nsecs", "commit_timestamp_nsecs", "other"]),
        NOTES | st.integers(-(2**80), 2**80),
    )
)  # fmt: skip
def test_whatever_stands_in_orbaxs_own_notes_a_whole_state_is_restored(
    original, tmp_path_factory, change
):
    latest = Path(shutil.copytree(original, tmp_path_factory.mktemp("notes") / "latest"))
    notes = latest / "6" / UNCOVERED[0]
    notes.write_text(json.dumps({**json.loads(notes.read_text()), **change}))
    damage = find_damage(latest / "6")
    assert damage is None or str(notes) in damage
    assert_is(restore(latest), 6 if damage is None else 3)


def test_nobody_but_the_loop_asks_the_runtime_about_an_early_end(tmp_path, monkeypatch):
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", pytest.fail)
    save(tmp_path / "latest", 1, 2)
    assert_is(restore(tmp_path / "latest"), 2)


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        ("labels", ["cat", "cow"], ["number 2 of its labels", "'dog' there", "'cow' now"]),
        ("labels", ["cat"], ["2 labels there", "1 now"]),
        ("dataset", "nus_wide", ["dataset", "'coco' there", "'nus_wide' now"]),
        ("fingerprint", "0b", ["fingerprint", "'0a' there", "'0b' now"]),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(latest, field, value, parts):
    checkpoints = Checkpoints(latest, keep=None)
    checkpoints.check_meta(6, META)
    with pytest.raises(UserError) as caught:
        checkpoints.check_meta(6, {**META, field: value})
    checkpoints.close()
    for part in ("checkpoint 6", "--workdir", *parts):
        assert part in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(latest):
    checkpoints = Checkpoints(latest, keep=None)
    abstract = jax.eval_shape(lambda: state_of(0, size=60))
    with pytest.raises(UserError, match=r"a/kernel is \(50, 50\) there and \(60, 60\)"):
        checkpoints.restore_state(6, abstract, make_mesh(jax.devices()[:1]))
    checkpoints.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/latest cannot be written: Not a directory"):
        Checkpoints(tmp_path / "file" / "latest", 2)


def mount_small(folder: Path, size: int = 1_000_000) -> None:
    """A disk of its own that is soon full, where mounting is permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")


FAILING = """
import resource, sys
from pathlib import Path
from attn_lstm import process
from tests.runs.test_checkpoint import *
process.settle()  # as commands do
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[2]),))
checkpoints = Checkpoints(Path(sys.argv[1]), 2)
try:
    for step, size in ((1, 50), (2, 50), (3, 700)):
        checkpoints.save(state_of(step, size), META)
    checkpoints.wait()
except UserError as error:
    print(error)
    process.say_no_more()
checkpoints.close()
"""


def run_failing(directory: Path, *largest_file: int) -> str:
    """Saves in another process until that fails; what it says on stdout."""
    finished = run("-c", FAILING, directory, *largest_file)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout


def test_a_refused_file_is_one_line_and_the_checkpoints_before_stay_whole(tmp_path):
    said = run_failing(tmp_path / "latest", 400_000)
    assert "cannot hold checkpoint 3: File too large" in said
    assert said.count("\n") == 1
    assert_is(restore(tmp_path / "latest"), 2)
    save(tmp_path / "latest", 3)
    assert_is(restore(tmp_path / "latest"), 3)


def test_a_full_disk_is_one_line_and_the_checkpoints_before_stay_whole(tmp_path):
    disk = tmp_path / "disk"
    mount_small(disk)
    try:
        said = run_failing(disk / "latest")
        assert f"{disk / 'latest'} cannot hold checkpoint 3: No space left on device" in said
        assert said.count("\n") == 1
        assert_is(restore(disk / "latest"), 2)
        save(disk / "latest", 3)
        assert_is(restore(disk / "latest"), 3)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
