"""What a run tells TensorBoard, read by TensorBoard's own reader."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from attn_lstm.errors import UserError
from attn_lstm.training.writers import Writers

FIELDS = {"seed": 0, "optimizer.learning_rate": 3e-4, "method": "order_free", "ema": False}


def test_a_restart_replaces_what_the_lost_stretch_had_written(tmp_path):
    before, after = (np.full((3, 4, 3), value, np.uint8) for value in (10, 20))
    lost = Writers(tmp_path, restored_step=0, active=True, fields=FIELDS)
    lost.training(5, {"loss": 2.0}, rate=100.0)
    lost.validation(5, {"mAP": 50.0}, {"a.jpg": before})
    lost.training(10, {"loss": 1.0}, rate=100.0)
    lost.validation(10, {"mAP": 55.0}, {"a.jpg": before})
    lost.close()
    again = Writers(tmp_path, restored_step=5, active=True, fields=FIELDS)
    again.training(10, {"loss": 0.5}, rate=100.0)
    again.validation(10, {"mAP": 60.0}, {"a.jpg": after})
    again.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    found = {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in ("train/loss", "validation/mAP", "train/images_per_second")
    }
    assert found == {
        "train/loss": [(5, 2.0), (10, 0.5)],
        "validation/mAP": [(5, 50.0), (10, 60.0)],
        "train/images_per_second": [(5, 100.0), (10, 100.0)],
    }
    pictures = [(event.step, read(event)) for event in board.Images("samples/a.jpg")]
    assert [step for step, _ in pictures] == [5, 10]
    np.testing.assert_array_equal([pixels for _, pixels in pictures], [before, after])


def test_a_restart_before_the_first_checkpoint_doubles_no_point(tmp_path):
    for loss in (2.0, 3.0):
        writers = Writers(tmp_path, restored_step=0, active=True, fields=FIELDS)
        writers.training(5, {"loss": loss}, rate=100.0)
        writers.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(5, 3.0)]


def read(event) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_tensorboards_table_of_runs_has_the_config_beside_the_figures(tmp_path):
    for run, rate, figure in (("a", 3e-4, 60.0), ("b", 1e-3, 70.0)):
        fields = {**FIELDS, "optimizer.learning_rate": rate}
        writers = Writers(tmp_path / run, restored_step=0, active=True, fields=fields)
        writers.validation(10, {"mAP": figure - 1, "C-F1": 5.0}, {})
        writers.validation(20, {"mAP": figure, "C-F1": 6.0}, {})
        if run == "b":
            writers.finished()
        writers.close()

    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    given = RequestContext(), Context(TBContext(data_provider=MultiplexerDataProvider(runs, "")))
    request = api_pb2.GetExperimentRequest()
    experiment = get_experiment.Handler(*given, "", request).run()
    assert {info.name for info in experiment.hparam_infos} == FIELDS.keys()
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN],
        slice_size=10,
    )
    groups = list_session_groups.Handler(*given, "", request).run().session_groups
    table = {
        group.hparams["optimizer.learning_rate"].number_value: (
            group.hparams["method"].string_value,
            group.hparams["ema"].bool_value,
            {value.name.tag: value.value for value in group.metric_values},
            group.sessions[0].status == api_pb2.STATUS_SUCCESS,
        )
        for group in groups
    }
    assert table == {
        3e-4: ("order_free", False, {"validation/mAP": 60.0, "validation/C-F1": 6.0}, False),
        1e-3: ("order_free", False, {"validation/mAP": 70.0, "validation/C-F1": 6.0}, True),
    }


def test_other_hosts_write_nothing(tmp_path):
    quiet = Writers(tmp_path, restored_step=0, active=False, fields=FIELDS)
    quiet.training(5, {"loss": 2.0}, rate=100.0)
    quiet.validation(5, {"mAP": 2.0}, {"a": np.zeros((2, 2, 3), np.uint8)})
    quiet.finished()
    quiet.close()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match="tensorboard"):
        Writers(tmp_path, restored_step=0, active=True, fields=FIELDS)
