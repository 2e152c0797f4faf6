"""Figure 3: which images, what is drawn of them, and that it can be read."""

import dataclasses
import itertools

import matplotlib.text
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from PIL import Image

from attn_lstm.config import resolve
from attn_lstm.data import FileSource, load_split
from attn_lstm.errors import UserError
from attn_lstm.reports import attention_figure, gallery
from attn_lstm.runs import pictures
from tests.reports.examples import made_up_predictions

NAMES = ("person", "teddy bear", "stop sign", "cat")


def example(
    sequence=(0, 2, 1), true=(0, 1, 3), names=NAMES, shape=(30, 40, 3), attend=True, steps=18
):
    rng = np.random.default_rng(0)
    padded = np.full(steps, -1, np.int32)
    padded[: len(sequence)] = sequence
    truth = np.zeros(len(names), bool)
    truth[list(true)] = True
    maps = rng.dirichlet(np.full(9, 0.3), steps).astype(np.float16) if attend else None
    image = rng.integers(0, 255, shape, np.uint8)
    predicted = (padded, rng.random(steps, np.float32), maps)
    return gallery.make_example("a.jpg", image, names, predicted, truth, "squash")


def texts(figure):
    return [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def frames(figure):
    return [
        frame
        for axes in figure.axes
        for frame in axes.findobj(Rectangle)
        if frame is not axes.patch and not frame.get_fill()
    ]


def extents(figure):
    """Of every text and every image, in pixels, shrunk by half a pixel."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts(figure)]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    return [Bbox.from_extents(b.x0 + 0.5, b.y0 + 0.5, b.x1 - 0.5, b.y1 - 0.5) for b in boxes]


def assert_readable(figure):
    boxes = extents(figure)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    width, height = figure.bbox.width, figure.bbox.height
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_labels_stand_in_the_order_of_prediction_and_wrong_ones_are_marked():
    figure = attention_figure.draw(example())
    captions = [t for t in texts(figure) if t.get_text()[0].isdigit()]
    assert [t.get_text() for t in captions] == ["1 ✓ person", "2 ✗ stop sign", "3 ✓ teddy bear"]
    right, wrong, _ = (to_hex(t.get_color()) for t in captions)
    assert right != wrong
    (frame,) = frames(figure)
    assert to_hex(frame.get_edgecolor()) == wrong
    assert frame.get_linestyle() != "-"  # which print without colours shows too
    assert len(figure.axes) == 4  # the image and three maps


def test_true_and_missed_labels_are_listed():
    shown = [t.get_text() for t in texts(attention_figure.draw(example()))]
    assert shown[shown.index("True") + 1] == "person, teddy bear, cat"
    assert shown[shown.index("Missed") + 1] == "cat"
    nothing = attention_figure.draw(example(sequence=(), true=()))
    shown = [t.get_text() for t in texts(nothing)]
    assert shown[shown.index("True") + 1] == shown[shown.index("Missed") + 1] == "none"
    assert_readable(nothing)


def test_a_row_that_looks_nowhere_lists_its_labels():
    figure = attention_figure.draw(example(attend=False))
    shown = " ".join(t.get_text() for t in texts(figure))
    assert "1 ✓ person" in shown and "2 ✗ stop sign" in shown
    assert len(figure.axes) == 1
    assert_readable(figure)


def test_names_are_text_and_not_formulas():
    names = ("$x^2$", r"\alpha_1", "a_b", "c")
    shown = [t.get_text() for t in texts(attention_figure.draw(example(names=names)))]
    assert "1 ✓ $x^2$" in shown
    assert attention_figure.render(attention_figure.draw(example(names=names))).ndim == 3


@settings(max_examples=12)
@given(
    st.lists(st.text("abcdefgh _-'$", min_size=1, max_size=60), min_size=1, max_size=18),
    st.integers(10, 90),
    st.integers(10, 90),
    st.booleans(),
)
def test_no_text_overlaps_another_or_leaves_the_page(names, height, width, attend):
    sequence = tuple(range(len(names)))
    drawn = example(sequence, sequence[::2], tuple(names), (height, width, 3), attend)
    assert_readable(attention_figure.draw(drawn))


def test_eighteen_long_names_and_a_long_image_name_wrap():
    names = tuple(f"a label with quite a long name, number {i}" for i in range(18))
    drawn = example(tuple(range(18)), range(0, 18, 2), names)
    drawn = dataclasses.replace(drawn, image_id="folder/" + "x" * 300 + ".jpg")
    figure = attention_figure.draw(drawn)
    assert len(figure.axes) == 19
    assert_readable(figure)


def test_equal_examples_are_equal_pixels():
    first, again = (attention_figure.render(attention_figure.draw(example())) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_the_page_holds_every_figure_under_its_heading():
    figures = [np.full((50, 60, 3), value, np.uint8) for value in (10, 20, 30)]
    page = attention_figure.sheet({"Best": figures, "Worst": [], "Asked": figures[:1]}, "title")
    assert page.dtype == np.uint8 and page.shape[1:] == (120, 3)
    for value, times in ((10, 2), (20, 1), (30, 1)):
        exact = (page == value).all(-1)
        places = [(y, x) for y in range(len(page) - 49) for x in (0, 60)]
        assert sum(exact[y : y + 50, x : x + 60].all() for y, x in places) == times


# ----------------------------------------------------------------------------- which images


def predictions_of(predicted, truth, loss):
    made = made_up_predictions(len(loss), len(truth[0]))
    return dataclasses.replace(
        made,
        labels=np.array(predicted, bool),
        truth=np.array(truth, bool),
        losses={"map": np.array(loss, np.float32)},
    )


def test_f1_of_an_image_by_hand():
    predicted = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    truth = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    np.testing.assert_allclose(gallery.image_f1(predicted, truth), [0.5, 1, 1, 0])


def test_ties_go_by_labels_then_by_loss():
    truth = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]
    predicted = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    predictions = predictions_of(predicted, truth, [0.9, 0.5, 0.1, 0.1, 0.5, 0.5, 0.5])
    best, worst = gallery.best_and_worst(predictions, 4)
    assert best.tolist() == [1, 2, 0, 3]
    assert worst.tolist() == [4, 5, 6]


@given(st.integers(1, 12), st.integers(0, 15), st.integers(0, 20), st.integers(0, 5))
def test_no_image_is_shown_twice(images, count, size, seed):
    predictions = made_up_predictions(images, seed=seed)
    best, worst = gallery.best_and_worst(predictions, count)
    chosen = [*best, *worst]
    assert len(chosen) == len(set(chosen)) == min(2 * count, images)
    rows = gallery.covering(predictions, chosen, size).tolist()
    assert rows[: len(chosen)] == chosen
    assert len(rows) == len(set(rows)) == max(min(size, images), len(chosen))


def test_the_gallery_shows_every_label_that_has_room():
    predictions = made_up_predictions(200)
    rows = gallery.covering(predictions, [], 15)
    for kind in (
        predictions.labels & predictions.truth,
        predictions.truth & ~predictions.labels,
        predictions.labels & ~predictions.truth,
    ):
        np.testing.assert_array_equal(kind[rows].any(0), kind.any(0))


# ------------------------------------------------------------------------------------ files


@pytest.fixture
def drawn(tiny_config):
    """The test split's ten images, with predictions made up."""
    config = resolve(tiny_config())
    split = load_split(config.data, "test")
    predictions = dataclasses.replace(
        made_up_predictions(len(split), len(split.label_names)), truth=split.labels
    )
    maps = np.random.default_rng(0).dirichlet(np.ones(9), (len(split), 4)).astype(np.float16)
    result = {"method": "order_free", "dataset": "coco", "split": "test", "step": 4,
              "threshold": 0.5}  # fmt: skip
    return result, pictures.Examples(config, split, predictions, maps)


def test_figures_are_files_named_by_kind_place_and_image(drawn, tmp_path):
    result, examples = drawn
    pictures.write_figures(tmp_path / "figures", result, examples, 2, [3])
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert [name[:8] for name in names] == [
        "asked-01", "best-01-", "best-02-", "overview", "worst-01", "worst-02",
    ]  # fmt: skip
    assert names[0] == f"asked-01-{examples.data.image_ids[3]}.png"
    for name in names:
        with Image.open(tmp_path / "figures" / name) as image:
            assert image.mode == "RGB" and min(image.size) > 100


def test_figures_of_an_earlier_call_do_not_stay(drawn, tmp_path):
    result, examples = drawn
    pictures.write_figures(tmp_path, result, examples, 2, [])
    pictures.write_figures(tmp_path, result, examples, 1, [])
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == [
        "best-01-", "overview", "worst-01",
    ]  # fmt: skip


def test_images_are_drawn_as_they_are_on_disk(drawn):
    _, examples = drawn
    (shown,) = examples.of([2])
    assert shown.image.shape == (40, 40, 3)  # not the network's 32 pixels
    with Image.open(examples.data.images.name(2)) as image:
        difference = np.abs(np.asarray(image, np.int32) - shown.image)
    assert difference.max() <= 8  # two decoders
    assert shown.true == tuple(
        np.array(examples.data.label_names)[examples.data.labels[2]].tolist()
    )


def test_an_image_that_has_gone_since_is_named_in_one_line(drawn, tiny_config, tmp_path):
    _, examples = drawn
    files = FileSource(tmp_path, [f"{name}.jpg" for name in examples.data.image_ids])
    gone = dataclasses.replace(examples.data, images=files)
    with pytest.raises(UserError, match=r"cannot draw .*2\.jpg: ") as raised:
        pictures.Examples(tiny_config(), gone, examples.predictions, None).of([2])
    assert "\n" not in str(raised.value)


def test_an_image_that_is_not_there_is_named(drawn):
    _, examples = drawn
    known = examples.data.image_ids
    assert pictures.rows_of(examples.data, [known[4], known[1], known[4]]) == [4, 1]
    with pytest.raises(UserError, match=f"figure_ids=99999: .* is {known[9]}"):
        pictures.rows_of(examples.data, ["99999"])
    unread = dataclasses.replace(examples.predictions, image_id=np.array([0, 1, 3], np.int32))
    with pytest.raises(UserError, match="could not be read"):
        pictures.Examples(None, examples.data, unread, None).indices([2])
