"""Signals at any time of a run: what they end, what is kept, and what all hosts hear alike."""

import itertools
import signal

import jax
import pytest
from jax.experimental import multihost_utils

from attn_lstm.runs import features
from attn_lstm.training import loop
from attn_lstm.training.stop import Stop, Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_note_and_the_handlers_go_with_the_block(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.asked()
        stop.check()
        signal.raise_signal(number)
        assert stop.asked()
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(number) is before


def test_a_second_sigint_interrupts_and_a_second_sigterm_does_not():
    with Stop() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_of_blocks_in_each_other_the_outer_hears_all_signals():
    with Stop() as outer:
        with Stop() as inner:
            assert not inner.asked()
            signal.raise_signal(signal.SIGTERM)  # nobody asks the inner one again
        assert outer.asked()
    with Stop() as outer:
        with Stop() as inner:
            assert not inner.asked()
        assert not outer.asked()
        signal.raise_signal(signal.SIGTERM)
        assert outer.asked()


def test_all_hosts_number_their_questions_from_one_without_a_gap(monkeypatch):
    asked = []

    def runtime(number):
        asked.append(number)
        return number == 5  # the runtime says so once

    monkeypatch.setattr(Stop, "_questions", 0)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", runtime)
    with Stop() as first:
        assert not any(first.asked() for _ in range(3))
        first.check()
    with Stop() as second:
        assert [second.asked() for _ in range(3)] == [False, True, True]
    assert asked == [1, 2, 3, 4, 5, 6]


def test_a_signal_while_data_are_loaded_loses_nothing(
    tiny_config, tmp_path, one_device, monkeypatch, capsys
):
    real = loop.load_split

    def interrupted(config, name):
        signal.raise_signal(signal.SIGTERM)
        return real(config, name)

    monkeypatch.setattr(loop, "load_split", interrupted)
    assert not loop.train(tiny_config(), tmp_path, one_device)
    said = capsys.readouterr().out
    assert said == "stopped before a step; nothing is lost, start again to go on\n"


def test_a_signal_while_features_are_computed_keeps_the_finished_ones(
    tiny_config, tmp_path, one_device, monkeypatch, capsys
):
    real, config = features._computed, tiny_config("knn", **{"backbone.frozen": True})

    def interrupted(*args):
        for i, feature in enumerate(real(*args)):
            if i == 17:
                signal.raise_signal(signal.SIGINT)
            yield feature

    monkeypatch.setattr(features, "_SHARD_ROWS", 7)
    with monkeypatch.context() as patch:
        patch.setattr(features, "_computed", interrupted)
        assert not loop.train(config, tmp_path, one_device)
    assert capsys.readouterr().out.endswith(
        "stopped before a step; nothing is lost, start again to go on\n"
    )
    assert loop.train(config, tmp_path, one_device)
    first, *_ = (line for line in capsys.readouterr().out.splitlines() if "computing" in line)
    assert "computing 29 of 43 images" in first


def test_a_signal_to_the_row_that_learns_by_heart_is_heard(
    tiny_config, tmp_path, one_device, monkeypatch, capsys
):
    config = tiny_config("knn", **{"backbone.frozen": True, "cache.views": 0})
    real = loop.Inputs.evaluation

    def interrupted(self):
        batches = real(self)
        yield from itertools.islice(batches, 2)
        signal.raise_signal(signal.SIGTERM)
        yield from batches

    monkeypatch.setattr(loop.Inputs, "evaluation", interrupted)
    assert not loop.train(config, tmp_path, one_device)
    assert "nothing is lost" in capsys.readouterr().out
