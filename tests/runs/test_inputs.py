import itertools
from pathlib import Path

import numpy as np
import pytest

from attn_lstm.config import resolve, validate
from attn_lstm.data import load_split
from attn_lstm.errors import UserError
from attn_lstm.rows import create_row
from attn_lstm.runs.inputs import Inputs


def inputs(config, root: Path, split: str) -> Inputs:
    data, row = load_split(config.data, split), create_row(resolve(config), 3)
    return Inputs(config, row, data, {}, root, views=1, say=print)


def test_the_limit_of_pixels_reaches_training_and_evaluation(tiny_config, tmp_path):
    for pixels, good in ((1600, True), (1599, False)):  # images are 40 x 40
        config = tiny_config(**{"data.max_pixels": pixels, "data.on_bad_image": "skip"})
        training = inputs(config, tmp_path, "train").training(0)
        evaluation = inputs(config, tmp_path, "test").evaluation()
        for batch in itertools.chain(itertools.islice(training, 3), evaluation):
            assert batch.mask[batch.image_id >= 0].all() == good
            assert batch.mask.any() == good


def test_any_batch_size_evaluates_each_image_once_on_any_number_of_devices(tiny_config, tmp_path):
    for size, rows in ((1, 4), (6, 8), (8, 8)):  # tests have 4 devices
        config = tiny_config(**{"eval.batch_size": size})
        batches = [*inputs(config, tmp_path, "test").evaluation()]
        assert {len(batch.mask) for batch in batches} == {rows}
        seen = [row for batch in batches for row in batch.image_id if row >= 0]
        assert seen == [*range(10)]


def test_some_rows_alone_are_evaluated_in_their_order(tiny_config, tmp_path):
    given = inputs(tiny_config(), tmp_path, "test")
    wanted = np.array([1, 4, 5, 7, 8, 9, 0, 2, 6])  # more than the 8 rows of a batch
    batches = [*given.evaluation(rows=wanted)]
    assert [row for batch in batches for row in batch.image_id if row >= 0] == wanted.tolist()
    whole = next(given.evaluation())
    np.testing.assert_array_equal(batches[0].inputs[0], whole.inputs[1])


def test_a_limit_of_pixels_that_cannot_be_kept_is_refused(tiny_config):
    for pixels in (0, 178_956_971):
        with pytest.raises(UserError, match=r"config\.data\.max_pixels"):
            validate(tiny_config(**{"data.max_pixels": pixels}), 4)
    validate(tiny_config(), 4)
