"""Whole runs in a work directory: coprime intervals, restarts, devices, determinism."""

import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from attn_lstm import progress
from attn_lstm.errors import UserError
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir
from attn_lstm.training import loop, metrics_log
from tests.work_directories import assert_equal, final_variables, metrics, saved


def test_a_run_logs_saves_and_validates_at_its_own_intervals(whole):
    records = metrics(whole)
    assert [r["step"] for r in records if r["kind"] == "train"] == [2, 4, 6, 8, 10]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [4, 8, 10]
    assert sorted(p.name for p in (whole / "checkpoints/latest").iterdir()) == ["10", "9"]
    best = max((r for r in records if r["kind"] == "validation"), key=lambda r: r["mAP"])
    assert [p.name for p in (whole / "checkpoints/best").iterdir()] == [str(best["step"])]
    assert workdir.load_labels(whole).names == ("red", "green", "blue")
    board = EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    (picture,) = board.Tags()["images"]
    assert [event.step for event in board.Images(picture)] == [4, 8, 10]
    logged = {name for r in records if r["kind"] == "validation" for name in r}
    assert {"C-P", "O-F1", "macro-F1", "mAP", "loss", "top-3/C-P", "top-3/O-F1"} <= logged
    shown = {tag.removeprefix("validation/") for tag in board.Tags()["scalars"]}
    assert logged - {"kind", "step"} <= shown


def test_the_same_seed_gives_the_same_bits_and_compiles_each_step_once(
    tiny_config, whole, tmp_path, one_device, terminal, monkeypatch
):
    config = loop.resolve(tiny_config())
    splits = {name: loop.load_split(config.data, name) for name in ("train", "validation")}
    monkeypatch.setattr(progress, "_MOVES", 0.001)
    with terminal() as written:
        progress.begin(sys.stdout.fileno())
        run = loop.Run(config, tmp_path, one_device, splits)
        started, start = [], run.start
        run.start = lambda step: started.append(start(step)) or started[0]
        run.go()
        run.close()
        progress.end()
    assert "step 10/10  validating" in written[0]  # here a line moves, there it did not
    assert_equal(final_variables(whole), final_variables(tmp_path))
    assert (whole / metrics_log.METRICS).read_bytes() == (
        tmp_path / metrics_log.METRICS
    ).read_bytes()
    assert started[0].train_step(False)._cache_size() == 1
    assert run.eval_step._cache_size() == 1


def test_another_seed_gives_other_parameters(tiny_config, whole, tmp_path, one_device):
    loop.train(tiny_config(seed=1), tmp_path, one_device)
    first, other = final_variables(whole), final_variables(tmp_path)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_a_stopped_run_ends_in_the_same_bits(tiny_config, whole, tmp_path, one_device, monkeypatch):
    real = loop.Inputs.training

    def stopping(self, start_step):
        for i, batch in enumerate(real(self, start_step)):
            if i == 6:  # read ahead: between a log line, a checkpoint and a validation
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(loop.Inputs, "training", stopping)
    assert not loop.train(tiny_config(), tmp_path, one_device)
    monkeypatch.undo()
    assert 0 < metrics(tmp_path)[-1]["step"] < 10
    assert loop.train(tiny_config(), tmp_path, one_device)
    assert_equal(final_variables(whole), final_variables(tmp_path))
    assert metrics(whole) == metrics(tmp_path)


def test_four_devices_train_as_one(tiny_config, whole, tmp_path):
    loop.train(tiny_config(), tmp_path, make_mesh())
    for a, b in zip(metrics(whole), metrics(tmp_path), strict=True):
        assert a.pop("kind") == b.pop("kind")
        assert a == pytest.approx(b, rel=1e-3)
    assert_equal(final_variables(whole), final_variables(tmp_path), rtol=2e-2, atol=2e-4)


def test_a_directory_of_another_config_is_refused_by_field(tiny_config, whole, one_device):
    with pytest.raises(UserError, match=r"decoder.hidden \(16 there, 32 now\).*--workdir"):
        loop.train(tiny_config(**{"decoder.hidden": 32}), whole, one_device)


def test_the_loss_falls(tiny_config, tmp_path, one_device):
    config = tiny_config(
        **{"train.steps": 60, "train.eval_every": 30, "optimizer.learning_rate": 3e-3}
    )
    loop.train(config, tmp_path, one_device)
    records = metrics(tmp_path)
    losses = [r["loss"] for r in records if r["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    figures = [r["O-F1"] for r in records if r["kind"] == "validation"]
    assert figures[-1] > 50


@pytest.mark.parametrize(
    "method",
    ["rare_first", "random_order", "mla", "pla", "multi_order", "order_free_no_attention",
     "resnet_baseline", "asl", "focal", "softmax", "warp", "cnn_rnn", "query2label", "ml_decoder",
     "csra", "order_free_plus", "order_free_ranked", "order_free_label_maps"],
)  # fmt: skip
def test_every_row_takes_a_step(tiny_config, tmp_path, one_device, method):
    assert loop.train(tiny_config(method, **{"train.steps": 1}), tmp_path, one_device)


@pytest.mark.parametrize(
    "fields",
    [{"decoder.target": "remaining"}, {"decoder.target": "ranked"},
     {"decoder.feature_dropout": 0.5, "ema.decay": 0.999}],
)  # fmt: skip
def test_order_free_takes_a_step_with_what_it_can_be_given(
    tiny_config, tmp_path, one_device, fields
):
    assert loop.train(tiny_config(**{"train.steps": 1, **fields}), tmp_path, one_device)


def test_the_backbone_rests_until_it_joins(tiny_config, tmp_path, one_device):
    config = tiny_config(
        **{"backbone.unfreeze_step": 2, "train.keep": 5, "train.checkpoint_every": 1,
           "train.steps": 3, "optimizer.schedule": "constant"}
    )  # fmt: skip
    loop.train(config, tmp_path, one_device)
    first, second, third = (saved(tmp_path, step)["variables"] for step in (1, 2, 3))

    def moved(before, after):
        return [not np.array_equal(a, b) for a, b in
                zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]  # fmt: skip

    assert not any(moved(first["params"]["backbone"], second["params"]["backbone"]))
    assert not any(moved(first["batch_stats"], second["batch_stats"]))
    assert all(moved(first["params"]["decoder"], second["params"]["decoder"]))
    assert all(moved(second["params"]["backbone"], third["params"]["backbone"]))
    assert all(moved(second["batch_stats"], third["batch_stats"]))


def test_frozen_norms_keep_their_statistics_while_the_backbone_learns(
    tiny_config, tmp_path, one_device
):
    config = tiny_config(**{"backbone.freeze_norm": True, "train.steps": 2, "train.keep": 2,
                            "train.checkpoint_every": 1})  # fmt: skip
    loop.train(config, tmp_path, one_device)
    first, second = (saved(tmp_path, step)["variables"] for step in (1, 2))
    same = jax.tree.map(np.array_equal, first, second)
    assert all(jax.tree.leaves(same["batch_stats"]))
    assert not all(jax.tree.leaves(same["params"]["backbone"]))


def test_the_average_is_what_is_evaluated_and_survives_a_restart(tiny_config, tmp_path, one_device):
    overrides = {"ema.decay": 0.9, "train.steps": 6, "train.keep": 6, "train.checkpoint_every": 1}
    config = tiny_config(**overrides)
    loop.train(config, tmp_path / "whole", one_device)
    average = None
    for step in range(1, 7):
        items = saved(tmp_path / "whole", step)
        raw = items["progress"]["params"]["map_labels"]["kernel"]
        if average is not None:
            decay = min(0.9, step / (9 + step))
            average = decay * average + (1 - decay) * raw
            np.testing.assert_allclose(
                items["variables"]["params"]["map_labels"]["kernel"], average, rtol=1e-4, atol=1e-6
            )
        average = items["variables"]["params"]["map_labels"]["kernel"]
    run_again = final_variables(tmp_path / "whole")
    for step in (5, 6):  # as if it had been killed behind step 4
        shutil.rmtree(tmp_path / "whole/checkpoints/latest" / str(step))
    loop.train(config, tmp_path / "whole", one_device)
    assert_equal(run_again, final_variables(tmp_path / "whole"))


def test_the_equal_average_is_the_mean_of_the_last_share_and_survives_a_restart(
    tiny_config, tmp_path, one_device
):
    config = tiny_config(**{"swa.share": 0.7, "train.steps": 6, "train.keep": 6,
                            "train.checkpoint_every": 1})  # fmt: skip
    loop.train(config, tmp_path, one_device)

    def kernels(step):
        items = saved(tmp_path, step)
        trees = items["progress"]["params"], items["variables"]["params"]
        return [tree["decoder"]["head"]["kernel"] for tree in trees]

    raw, average = zip(*map(kernels, range(1, 7)), strict=True)
    for before in range(3):
        np.testing.assert_array_equal(average[before], raw[before])
    for last in range(3, 6):
        mean = np.mean(raw[2 : last + 1], axis=0, dtype=np.float64)
        np.testing.assert_allclose(average[last], mean, rtol=1e-5, atol=1e-7)
        assert not np.array_equal(average[last], raw[last])
    run_again = final_variables(tmp_path)
    for step in (5, 6):  # as if it had been killed behind step 4
        shutil.rmtree(tmp_path / "checkpoints/latest" / str(step))
    loop.train(config, tmp_path, one_device)
    assert_equal(run_again, final_variables(tmp_path))


def test_a_label_smoothed_row_takes_a_step(tiny_config, tmp_path, one_device):
    config = tiny_config("frequent_first", **{"train.steps": 1, "label_smoothing": 0.1})
    assert loop.train(config, tmp_path, one_device)
