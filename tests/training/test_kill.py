"""The short form of the harness; its head says how to start the long one."""

import signal

import pytest

from tests.training.kill_harness import harass


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(tmp_path):
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
    counts = harass(tmp_path, "resnet_baseline", signals, seed=0)
    assert (counts["SIGKILL"], counts["SIGTERM"]) == (2, 1)
    assert counts["runs"] >= 1
