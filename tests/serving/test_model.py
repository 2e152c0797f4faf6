"""A trained network as a Python object, against the evaluation of the same checkpoint."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import attn_lstm
from attn_lstm.config import resolve
from attn_lstm.data import load_split
from attn_lstm.errors import UserError
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.measures import thresholds
from attn_lstm.ordering import frequency_rank
from attn_lstm.parallel import make_mesh
from attn_lstm.rows import create_row
from attn_lstm.runs import split_pass, tuned, workdir
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.opened import Opened, open_checkpoint
from attn_lstm.serving.model import Model, open_model
from tests.small_run import train_with_sets_of_any_size

# Of 4 devices, as all tests have them, neither is a multiple.
BATCHES = {"train.batch_size": 6, "eval.batch_size": 6}


@pytest.fixture(scope="module")
def files(coco_folder):
    return sorted((coco_folder / "val2014").iterdir())


@pytest.fixture(scope="module")
def trained(tiny_config, files, tmp_path_factory):
    """A run on one device, and a threshold under which label sets differ in size."""
    directory = tmp_path_factory.mktemp("run")
    fields = {"search.stop": "step", "train.steps": 4, "train.log_every": 4, **BATCHES}
    train_with_sets_of_any_size(tiny_config(**fields), directory, files)
    return directory


@pytest.fixture(scope="module")
def model(trained):
    return attn_lstm.load_model(trained)


def untrained(config) -> Model:
    """A model with random parameters."""
    config, mesh = resolve(config), make_mesh()
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    row = create_row(config, 3)
    init = jax.jit(lambda key: row.network.init(key, images, emit_most_confident, steps=1))
    variables = init(jax.random.key(1))
    table = workdir.LabelTable("coco", ("red", "green", "blue"), (3, 2, 1), images=48)
    return Model(Opened(config, row, table, 1, variables, "f"), config.search.threshold, mesh)


def assert_same(first, second, rtol=1e-5):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert [label.name for label in a.labels] == [label.name for label in b.labels]
        np.testing.assert_allclose(a.scores, b.scores, rtol)
        for one, other in zip(a.labels, b.labels, strict=True):
            np.testing.assert_allclose(one.probability, other.probability, rtol)
            np.testing.assert_allclose(one.attention, other.attention, rtol, atol=1e-7)


def test_files_of_a_split_are_predicted_as_evaluation_predicts_them(trained, model, files):
    config, mesh = workdir.load_config(trained), make_mesh(jax.devices()[:1])
    opened = open_checkpoint(config, trained, "best", mesh)
    split = load_split(config.data, "test")
    inputs = Inputs(config, opened.row, split, opened.variables, trained, views=1, say=print)
    (expected,) = split_pass.predict_split(
        split_pass.map_eval_step(opened.row, mesh),
        opened.variables,
        inputs.evaluation(),
        frequency_rank(jnp.asarray(opened.table.counts)),
        [model.threshold],
        mesh,
    )
    assert model.step == opened.step
    assert model.label_names == split.label_names
    predictions = model.predict(files)
    sizes = {len(prediction.labels) for prediction in predictions}
    assert len(sizes) > 1
    for i, prediction in enumerate(predictions):
        sequence = expected.sequence[i][expected.sequence[i] >= 0]
        assert [label.name for label in prediction.labels] == [
            split.label_names[label] for label in sequence
        ]
        assert [label.step for label in prediction.labels] == list(range(1, len(sequence) + 1))
        np.testing.assert_allclose(prediction.scores, expected.scores[i], rtol=1e-5)
        for t, label in enumerate(prediction.labels):
            assert label.probability == pytest.approx(expected.probabilities[i, t], rel=1e-5)
            assert label.attention.shape == (4, 4)
            assert label.attention.dtype == np.float32
            assert label.attention.sum() == pytest.approx(1, rel=1e-5)
            assert label.attention.argmax() == expected.peaks[i, t]


def test_paths_arrays_and_pillow_images_are_one(model, files, tmp_path):
    photo = Image.open(files[0]).resize((70, 50))
    photo.save(tmp_path / "photo.png")
    pixels = np.asarray(photo)
    grey = pixels[..., 0]
    predictions = model.predict(
        [tmp_path / "photo.png", str(tmp_path / "photo.png"), pixels, photo, grey,
         grey[..., None].repeat(3, -1), Image.fromarray(grey)]
    )  # fmt: skip
    assert_same(predictions[:3], predictions[1:4])
    assert_same(predictions[4:6], predictions[5:7])


def test_the_threshold_is_the_one_of_evaluation(trained, model):
    config = workdir.load_config(trained)
    assert model.threshold == tuned.load_threshold(trained, 4, config.search).value
    assert model.threshold_origin == "tuned by eval.py --tune"
    config.search.beam_size = 3
    assert open_model(config, trained, "best").threshold == thresholds.DEFAULT_THRESHOLD
    config.search.threshold = 0.123
    assert open_model(config, trained, "best").threshold == 0.123


def test_the_number_of_images_at_once_changes_nothing_and_compiles_few_shapes(model, files):
    model = Model(model._opened, model.threshold, model._mesh)
    together = model.predict(files)
    assert_same(model.predict(files[:1]), together[:1])
    assert len(model._programs) == 2
    for count in (5, 8, 10, 1, 3, 4, 0):
        assert_same(model.predict(files[:count]), together[:count])
        assert_same(list(model.predict_stream(iter(files[:count]), 1)), together[:count])
    assert len(model._programs) == 2
    for count in range(1, 10):
        assert_same(model.predict(files, batch_size=count), together)
        assert_same(model.predict(files[:count]), together[:count])
    assert len(model._programs) == 2
    assert_same(model.predict(files, batch_size=17), together)
    assert len(model._programs) == 3


def test_a_bad_image_keeps_its_place_in_a_stream_and_ends_a_list(model, files, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"this is no picture")
    images = [*files[:3], bad, *files[3:], np.zeros((3, 3)), tmp_path / "none.png"]
    outcomes = list(model.predict_stream(images, batch_size=4))
    assert [i for i, o in enumerate(outcomes) if isinstance(o, UserError)] == [3, 11, 12]
    assert_same([o for o in outcomes if not isinstance(o, UserError)], model.predict(files))
    assert "bad.jpg" in str(outcomes[3])
    assert "images[11] is float64[3, 3]" in str(outcomes[11])
    assert "none.png" in str(outcomes[12])
    with pytest.raises(UserError, match=r"bad\.jpg"):
        model.predict(images)


def test_a_stream_is_read_three_batches_ahead_at_most(model, files):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield files[taken % len(files)]

    stream = model.predict_stream(endless(), batch_size=4)
    for seen in range(1, 14):
        next(stream)
        assert taken <= seen + 12
    stream.close()


@pytest.mark.parametrize(
    "method", ["order_free_no_attention", "resnet_baseline", "order_free", "ml_decoder"]
)
def test_only_rows_that_look_somewhere_have_attention(tiny_config, files, method):
    model = untrained(tiny_config(method, **{"search.threshold": 0.0}))
    labels = [label for prediction in model.predict(files) for label in prediction.labels]
    assert labels
    assert model.attends == (method in ("order_free", "ml_decoder"))
    assert all((label.attention is not None) == model.attends for label in labels)


def test_a_single_image_of_any_kind_is_a_list_of_one(model, files):
    pixels = np.asarray(Image.open(files[0]))
    (expected,) = model.predict([files[0]])
    for image in (files[0], str(files[0]), files[0].read_bytes(), pixels, Image.open(files[0]),
                  pixels[None]):  # fmt: skip
        assert_same(model(image), [expected])


def test_a_folder_is_the_images_below_it_also_in_a_list(model, files, tmp_path):
    (tmp_path / "b").mkdir()
    for name, file in zip(("b/1.jpg", "c.jpg", "a.jpg"), files, strict=False):
        (tmp_path / name).write_bytes(file.read_bytes())
    (tmp_path / "notes.txt").touch()
    found = model.predict(tmp_path)
    assert [p.name for p in found] == [str(tmp_path / x) for x in ("a.jpg", "b/1.jpg", "c.jpg")]
    assert_same(found, model.predict([files[2], files[0], files[1]]))
    assert_same(
        model.predict([files[3], tmp_path]), model.predict([files[3], *files[2:3], *files[:2]])
    )


def test_an_image_of_the_web_is_fetched_once(model, files, web_server):
    url = web_server({"/a.jpg": files[0].read_bytes()})
    (found,) = model.predict(f"{url}/a.jpg?size=full")
    assert_same([found], model.predict(files[0]))
    assert found.name == f"{url}/a.jpg?size=full"
    assert found.picture().size == Image.open(files[0]).size
    assert web_server.asked == ["/a.jpg?size=full"]


def test_a_threshold_of_a_call_is_the_model_s_own_elsewhere(trained, model, files):
    config = workdir.load_config(trained)
    config.search.threshold = 0.0
    assert_same(model.predict(files, threshold=0.0), open_model(config, trained, "best")(files))
    assert all(not prediction.labels for prediction in model(files, threshold=1.0))
    with pytest.raises(UserError, match=r"threshold is 1\.5"):
        model(files, threshold=1.5)


def test_what_is_no_image_is_a_mistake(model, files, tmp_path):
    one = np.zeros((8, 8, 3), np.uint8)
    for images in (str(files[0]), files[0].read_bytes(), one, Image.fromarray(one)):
        with pytest.raises(UserError, match="give a list"):
            next(model.predict_stream(images))
    with pytest.raises(UserError, match="images is a int"):
        model.predict(3)
    with pytest.raises(UserError, match="holds no image"):
        model.predict(tmp_path)
    with pytest.raises(UserError, match=r"images\[1\]: .*not an image"):
        model.predict([files[0], b"nothing"])
    with pytest.raises(UserError, match="batch_size is 0"):
        model.predict(files, batch_size=0)


def test_a_device_is_named_when_the_model_is_loaded(trained, files):
    model = attn_lstm.load_model(trained, device="cpu:1")
    assert [*model._mesh.devices.flat] == [jax.devices()[1]]
    assert len(model.predict(files[0])) == 1
    with pytest.raises(UserError, match=r"device='abacus': .*cpu"):
        attn_lstm.load_model(trained, device="abacus")


def test_a_folder_that_is_no_run_and_a_step_that_is_not_there_are_mistakes(trained, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        attn_lstm.load_model(tmp_path)
    with pytest.raises(UserError, match="77"):
        attn_lstm.load_model(str(trained), step=77)
    assert attn_lstm.load_model(trained, step="latest").step == 4


def test_the_package_itself_imports_no_jax_and_predicting_no_tensorflow(trained, files):
    code = (
        "import sys, attn_lstm; assert not {'jax', 'tensorflow', 'matplotlib'} & {*sys.modules}; "
        "sys.modules['tensorflow'] = None; "  # as if it were not installed
        f"assert len(attn_lstm.load_model({str(trained)!r}).predict([{str(files[0])!r}])) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="load_models"):
        _ = attn_lstm.load_models
