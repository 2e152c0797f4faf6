"""Runs in which something is not finite: what they say, what they keep, and how they go on."""

import json
import math

import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.rows import create_row
from attn_lstm.runs.inputs import Inputs
from attn_lstm.training import loop
from tests.work_directories import assert_equal, final_variables, metrics

# Every kernel grows a millionfold with each update.
EXPLODING = {
    "optimizer.learning_rate": 1e3,
    "optimizer.weight_decay": 1e3,
    "optimizer.schedule": "constant",
    "train.checkpoint_every": 2,
    "train.eval_every": 10,
    "train.log_every": 5,
}


def reports(directory):
    return sorted(path.name for path in directory.glob("nonfinite-*.json"))


def poison(monkeypatch, *steps):
    """Makes a label of the batch of these updates (numbered from 1) not a number."""
    real = Inputs.training

    def poisoned(self, start_step):
        for step, batch in enumerate(real(self, start_step), start_step + 1):
            if step in steps:
                labels = batch.labels.copy()
                labels[0, 0] = math.nan
                batch = batch._replace(labels=labels)
            yield batch

    monkeypatch.setattr(Inputs, "training", poisoned)


def leave_out(monkeypatch, steps):
    """Takes the batches of these updates out of the order of the data."""
    real = Inputs.training

    def shortened(self, start_step):
        return (b for step, b in enumerate(real(self, start_step), 1) if step not in steps)

    monkeypatch.setattr(Inputs, "training", shortened)


def test_an_exploding_run_ends_with_a_report_before_anything_is_spoilt(
    tiny_config, tmp_path, one_device
):
    config = tiny_config(**EXPLODING)
    with pytest.raises(UserError, match=r"not finite in update \d+: .*on_nonfinite=skip") as caught:
        loop.train(config, tmp_path, one_device)
    (name,) = reports(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    report = json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
    step = report["step"]
    assert name == f"nonfinite-{step}.json"
    assert 2 < step <= 10  # behind the first checkpoint
    assert report["not_finite"]
    assert report["learning_rate"] == 1e3
    assert set(report["loss"]) == {"map", "step"}
    assert set(report["gradient_norm"]) == {"backbone", "map_labels", "decoder"}

    split = loop.load_split(config.data, "train")
    row = create_row(loop.resolve(config), len(split.label_names))
    inputs = Inputs(config, row, split, {}, tmp_path, views=1, say=print)
    rows = next(inputs.training(step - 1)).image_id
    assert report["images"] == [split.image_ids[row] for row in rows]

    newest = max(int(path.name) for path in (tmp_path / "checkpoints/latest").iterdir())
    assert newest == (step - 1) // 2 * 2
    variables = final_variables(tmp_path)
    assert all(np.isfinite(v).all() for v in variables.values())

    first = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(UserError) as again:
        loop.train(config, tmp_path, one_device)
    assert str(again.value) == str(caught.value)
    assert (tmp_path / name).read_bytes() == first
    assert_equal(variables, final_variables(tmp_path))


def test_an_update_that_is_left_out_leaves_no_trace(tiny_config, tmp_path, one_device, monkeypatch):
    flags = {
        "decoder.dropout": 0.0,  # which is drawn by the number of the update
        "optimizer.schedule": "constant",
        "train.on_nonfinite": "skip",
        "train.log_every": 1,
    }
    with monkeypatch.context() as patch:
        poison(patch, 3, 4)
        assert loop.train(
            tiny_config("resnet_baseline", **flags, **{"train.steps": 7}),
            tmp_path / "a",
            one_device,
        )
    with monkeypatch.context() as patch:
        leave_out(patch, (3, 4))
        assert loop.train(
            tiny_config("resnet_baseline", **flags, **{"train.steps": 5}),
            tmp_path / "b",
            one_device,
        )
    with_gaps, without = final_variables(tmp_path / "a"), final_variables(tmp_path / "b")
    assert with_gaps.pop("['progress']['step']") == without.pop("['progress']['step']") + 2
    noted = {n: with_gaps.pop(n) for n in [*with_gaps] if "left_out" in n}
    assert noted["['progress']['left_out']['count']"] == 2
    assert noted["['progress']['left_out']['step']"] == 4
    assert_equal(with_gaps, {n: v for n, v in without.items() if "left_out" not in n})

    logged = {r["step"]: r for r in metrics(tmp_path / "a") if r["kind"] == "train"}
    assert [logged[step]["left_out"] for step in range(1, 8)] == [0, 0, 1, 2, 2, 2, 2]
    assert [step for step in logged if "loss" not in logged[step]] == [3, 4]
    assert reports(tmp_path / "a") == ["nonfinite-3.json", "nonfinite-4.json"]
    report = json.loads((tmp_path / "a/nonfinite-4.json").read_text())
    assert report["loss"]["map"] == "nan"
    assert report["left_out"] == 2
    assert "loss map" in report["not_finite"]


def test_a_run_ends_when_it_has_left_out_more_than_it_may(
    tiny_config, tmp_path, one_device, monkeypatch
):
    flags = {"train.log_every": 10, "train.eval_every": 10, "train.checkpoint_every": 4}
    skipping = tiny_config(
        "resnet_baseline", **flags, **{"train.on_nonfinite": "skip", "train.max_skipped": 1}
    )
    poison(monkeypatch, 2, 6, 7)
    with pytest.raises(
        UserError, match=r"2 updates left out of 1 permitted; not finite in update 6"
    ):
        loop.train(skipping, tmp_path, one_device)
    # The last checkpoint is from before the second, and knows of the first.
    assert [p.name for p in (tmp_path / "checkpoints/latest").iterdir()] == ["4"]
    with pytest.raises(UserError, match=r"not finite in update 2.*on_nonfinite=skip"):
        loop.train(tiny_config("resnet_baseline", **flags), tmp_path, one_device)
    monkeypatch.undo()
    assert loop.train(skipping, tmp_path, one_device)
    assert metrics(tmp_path)[0]["left_out"] == 1


def test_a_batch_without_a_readable_image_is_not_a_numerical_error(
    tiny_config, tmp_path, one_device, monkeypatch
):
    real = Inputs.training

    def blank(self, start_step):
        for batch in real(self, start_step):
            yield batch._replace(mask=np.zeros_like(batch.mask))

    monkeypatch.setattr(Inputs, "training", blank)
    assert loop.train(tiny_config("resnet_baseline", **{"train.steps": 2}), tmp_path, one_device)
    assert all("loss" not in r for r in metrics(tmp_path) if r["kind"] == "train")
    assert not reports(tmp_path)
