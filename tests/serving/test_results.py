"""What a prediction shows of itself: numbers, tables, pictures, and galleries that stand alone."""

import base64
import html.parser
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from attn_lstm.errors import UserError
from attn_lstm.reports.overlay import overlay
from attn_lstm.serving.results import ImagePrediction, ImagePredictions, PredictedLabel

NAME = '<img src=x onerror="alert(1)">'
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
MAPS = np.random.default_rng(1).dirichlet(np.ones(4), 2).reshape(2, 2, 2).astype(np.float32)


def predicted(name="a.jpg", source=PIXELS, label=NAME, score=None):
    labels = (
        PredictedLabel("dog", 0.75, 1, MAPS[0], score), PredictedLabel(label, 0.25, 2, MAPS[1])
    )  # fmt: skip
    return ImagePrediction(labels, np.zeros(3, np.float32), name, source)


def none_predicted():
    return ImagePrediction((), np.zeros(3, np.float32), "empty.jpg", PIXELS)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def sources(self):
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


def test_a_repr_is_short_and_names_the_labels():
    prediction = predicted(label="cat\n")
    assert repr(prediction) == r"<a.jpg: dog 0.75, cat\n 0.25>"
    assert repr(prediction.labels[0]) == "<dog 0.75>"
    assert repr(none_predicted()) == "<empty.jpg: no label>"
    many = repr(ImagePredictions([prediction] * 1000))
    assert len(many) < 1000 and many.endswith("… 1000 images]")
    assert repr(ImagePredictions([prediction])) == f"[{prediction!r}]"


def test_a_dictionary_is_what_a_line_of_json_says():
    assert predicted(score=0.5).to_dict() == {
        "image": "a.jpg",
        "labels": [
            {"name": "dog", "probability": 0.75, "step": 1, "score": 0.5},
            {"name": NAME, "probability": 0.25, "step": 2},
        ],
    }
    assert json.loads(json.dumps(predicted().to_dict())) == predicted().to_dict()


def test_a_table_has_a_row_a_label():
    pandas = pytest.importorskip("pandas")
    table = ImagePredictions(
        [predicted(score=0.5), none_predicted(), predicted("b.jpg")]
    ).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert [*table.columns] == ["image", "step", "label", "probability", "score"]
    assert table["image"].tolist() == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert table["label"].tolist() == ["dog", NAME] * 2
    assert table["score"].tolist()[0] == 0.5 and table["score"].isna().sum() == 3
    assert len(predicted().to_pandas()) == 2


def test_without_pandas_a_table_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for one in (predicted(), ImagePredictions()):
        with pytest.raises(UserError, match="pip install pandas"):
            one.to_pandas()


def test_overlays_of_an_image_share_their_scale():
    prediction = predicted()
    for chosen, attention in zip(prediction.labels, MAPS, strict=True):
        expected = overlay(PIXELS, attention, "squash", float(MAPS.max()))
        for label in (chosen, chosen.name):
            np.testing.assert_array_equal(np.asarray(prediction.overlay(label)), expected)
    assert prediction.plot().width > prediction.picture().width
    with pytest.raises(UserError, match="no label 'cat'; its labels: dog, <img"):
        prediction.overlay("cat")
    nowhere = ImagePrediction((PredictedLabel("dog", 0.5, 1, None),), np.zeros(1), "a", PIXELS)
    with pytest.raises(UserError, match="looks nowhere"):
        nowhere.overlay("dog")


def test_a_picture_is_the_users_own_also_of_a_pillow_image_and_bytes():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    for source in (PIXELS, Image.fromarray(PIXELS), file.getvalue()):
        prediction = predicted(source=source)
        prediction.picture().paste("white", (0, 0, 40, 30))
        np.testing.assert_array_equal(np.asarray(prediction.picture()), PIXELS)


def test_a_gallery_stands_alone_and_runs_nothing_that_a_name_says():
    shown = Page(ImagePredictions([predicted(NAME, score=0.5), none_predicted()])._repr_html_())
    assert {tag for tag, _ in shown.tags} <= {"div", "b", "img", "figure", "figcaption", "small"}
    assert not any(name.startswith("on") for _, given in shown.tags for name in given)
    assert len(shown.sources()) == 4
    for source in shown.sources():
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (40, 30)
    assert shown.text.count(NAME) == 2
    assert "1. dog 0.75 score 0.500" in shown.text and "empty.jpg: no label" in shown.text


def test_a_gallery_of_many_shows_some_and_says_so(tmp_path):
    image = tmp_path / "gone.jpg"
    shown = Page(ImagePredictions([predicted(source=image)] * 30)._repr_html_())
    assert shown.sources() == []
    assert "gone.jpg: No such file" in shown.text and "2. <img" in shown.text
    assert "… and 6 more" in shown.text
