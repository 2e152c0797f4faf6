import json

import ml_collections
import pytest

from attn_lstm import workdir
from attn_lstm.errors import UserError

SEARCH = ml_collections.ConfigDict({"stop": "path", "beam_size": 3})


def test_config_and_labels_come_back_as_they_were(tmp_path):
    config = ml_collections.ConfigDict({"a": 1, "b": {"c": 1.0, "d": "x", "e": True}})
    workdir.save_config(tmp_path, config)
    assert workdir.load_config(tmp_path).to_dict() == config.to_dict()
    table = workdir.LabelTable("coco", ("cat", "dog"), (5, 3))
    workdir.save_labels(tmp_path, table)
    assert workdir.load_labels(tmp_path) == table


def test_another_place_of_the_data_is_the_same_config(tmp_path):
    workdir.save_config(tmp_path, ml_collections.ConfigDict({"data": {"path": "here"}, "seed": 1}))
    workdir.save_config(tmp_path, ml_collections.ConfigDict({"data": {"path": "there"}, "seed": 1}))
    with pytest.raises(UserError, match=r"seed \(1 there, 2 now\)"):
        workdir.save_config(
            tmp_path, ml_collections.ConfigDict({"data": {"path": "here"}, "seed": 2})
        )


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "\xff"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / workdir.CONFIG).write_bytes(content.encode("latin-1"))
    (tmp_path / workdir.LABELS).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.load_config(tmp_path)
    with pytest.raises(UserError, match=r"labels\.json"):
        workdir.load_labels(tmp_path)


def test_thresholds_belong_to_a_checkpoint_and_a_search(tmp_path):
    assert workdir.load_threshold(tmp_path, 5, SEARCH) is None
    workdir.save_threshold(tmp_path, 5, SEARCH, 0.3)
    workdir.save_threshold(tmp_path, 6, SEARCH, 0.4)
    assert workdir.load_threshold(tmp_path, 5, SEARCH) == 0.3
    assert workdir.load_threshold(tmp_path, 6, SEARCH) == 0.4
    by_step = ml_collections.ConfigDict({"stop": "step", "beam_size": 3})
    assert workdir.load_threshold(tmp_path, 5, by_step) is None


def test_the_log_is_cut_back_to_the_restored_step(tmp_path):
    log = workdir.MetricsLog(tmp_path, restored_step=0)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 0.5})
    log.write("validation", 2, {"mAP": 10.0})
    with (tmp_path / workdir.METRICS).open("a") as file:
        file.write('{"kind": "train", "st')  # killed in the middle of a line
    log = workdir.MetricsLog(tmp_path, restored_step=2)
    assert log.has_validation(2)
    assert not log.has_validation(3)
    log.write("train", 3, {"loss": 0.25})
    lines = (tmp_path / workdir.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 2, 3]
    assert json.loads(lines[-1])["loss"] == 0.25
