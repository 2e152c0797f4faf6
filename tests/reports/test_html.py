"""The page of an evaluation: complete, self-contained, safe, and its filter works."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from attn_lstm.measures import summary
from attn_lstm.measures.calibration import Calibration
from attn_lstm.reports.html import render_report
from tests.reports.examples import NAMES, made_up_examples, made_up_predictions, made_up_split

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def page(dataset="coco", attend=True, names=NAMES, fitted=None, measured=None, known=None):
    predictions = made_up_predictions(labels=len(names))
    if known is not None:
        predictions = dataclasses.replace(predictions, known=known, truth=predictions.truth & known)
    split = made_up_split(predictions, names)
    counts = predictions.truth.sum(0)
    result = {
        "method": "order_free",
        "dataset": dataset,
        "split": "test",
        "fingerprint": split.fingerprint,
        "step": 7,
        "threshold": 0.25,
        "threshold_origin": "tuned by eval.py --tune",
        **summary.report(predictions, split, counts, fitted),
        **(measured or {}),
        "config": {
            "seed": 3,
            "backbone": {"name": "resnet", "depth": 50, "weights": "/w/resnet50.pth"},
            "data": {"image_size": 224, "resize": "squash", "path": "<img src=x onerror=y>"},
            "search": {"decide": "path", "beam_size": 3, "stop": "path"},
        },
    }
    examples = made_up_examples(predictions, names, attend, fitted)
    return render_report(
        result, predictions, names, examples, "python eval.py --report", {"jax": "0.10"}
    )


class Elements(html.parser.HTMLParser):
    """(tag, attributes, text up to the next tag or its end) of every element."""

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        self._open = True

    def handle_endtag(self, tag):
        self._open = False

    def handle_data(self, data):
        if self._open:
            self.found[-1][2] += data

    def of(self, tag, **attributes):
        return [
            (given, text)
            for name, given, text in self.found
            if name == tag and attributes.items() <= given.items()
        ]


@pytest.fixture(scope="module")
def text():
    return page()


@pytest.fixture(scope="module")
def elements(text):
    return Elements(text)


def test_nothing_is_loaded_from_elsewhere(text, elements):
    for _, attributes, _ in elements.found:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#"))
    assert "@import" not in text and "url(" not in text
    ids = {attributes.get("id") for _, attributes, _ in elements.found}
    for attributes, _ in elements.of("a"):
        assert attributes["href"].startswith("#label=") or attributes["href"][1:] in ids


def test_names_are_text_wherever_they_stand(text, elements):
    ((_, script),) = elements.of("script")
    assert "alert" not in script
    assert "<script>alert" not in text and "onerror=y>" not in re.sub("&lt;.*?&gt;", "", text)
    (policy,) = (given["content"] for given, _ in elements.of("meta") if "http-equiv" in given)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy  # only this one runs
    assert "default-src 'none'" in policy
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text


def test_each_image_has_one_card_with_its_labels(elements):
    predictions = made_up_predictions()
    cards = elements.of("article")
    titles = [title.strip() for given, title in elements.of("h3") if title.strip().endswith(".jpg")]
    assert titles == [f"{i:03}.jpg" for i in range(12)]
    for i, (card, _) in enumerate(cards):
        right, wrong, missed = (
            {int(label) for label in card[f"data-{kind}"].split()}
            for kind in ("right", "wrong", "missed")
        )
        predicted, true = (
            set(np.flatnonzero(x[i]).tolist()) for x in (predictions.labels, predictions.truth)
        )
        assert (right, wrong, missed) == (predicted & true, predicted - true, true - predicted)


def test_wrong_labels_are_crossed_out_and_every_label_has_its_map(elements):
    predictions = made_up_predictions()
    emitted, wrong = predictions.labels.sum(), (predictions.labels & ~predictions.truth).sum()
    assert len(elements.of("s")) == wrong
    assert len(elements.of("li", **{"class": "wrong"})) == wrong
    maps = [g for g, _ in elements.of("img") if g["alt"].startswith("attention for")]
    assert len(maps) == emitted
    assert not [g for g, _ in Elements(page(attend=False)).of("img")
                if g["alt"].startswith("attention for")]  # fmt: skip


def test_labels_are_sorted_by_frequency(text):
    predictions = made_up_predictions()
    order = np.argsort(-predictions.truth.sum(0), kind="stable")
    table = text[text.index('<table class="labels">') :]
    links = re.findall(
        r'<td data-v="[^"]*"><a href="#label=(\d+)">', table[: table.index("</table>")]
    )
    assert [int(label) for label in links] == order.tolist()


def test_published_rows_stand_beside_ours_with_their_caveat(text):
    assert "order_free (here)" in text and "<td>62.1</td>" in text
    assert 'class="same"' in text
    assert "compare only as far as backbone, image\nsize and data are the same" in text
    assert "ResNet-50 (weights resnet50.pth), 224 pixels" in text
    assert "no figures for this data set" in page(dataset="folder")


def test_the_page_says_what_it_stands_on(text):
    split = made_up_split(made_up_predictions())
    assert split.fingerprint in text
    assert "python eval.py --report" in text
    assert "0.25 (tuned by eval.py --tune)" in text
    assert json.dumps("/w/resnet50.pth").strip('"') in text
    assert "jax 0.10" in text


def test_equal_evaluations_are_equal_pages(text):
    assert page() == text


def test_a_split_with_two_labels_and_nothing_else_has_a_page():
    assert page(names=("a", "b")).rstrip().endswith("</html>")


def test_the_measures_of_looking_stand_beside_what_they_must_beat():
    measured = {
        "looking": {"pairs": 9, "same_peak": 12.3, "total_variation": 0.654},
        "pointing": {"labels": 7, "attention": 61.2, "centre": 34.5, "uniform": 21.0},
        "deletion": {"own": 45.6, "random": 7.8, "others": 9.1},
    }
    cells = [text for _, text in Elements(page(measured=measured)).of("td")]
    for label, figure, beside in (
        ("share their peak", "12.3", "total variation of the maps 0.65"),
        ("in the label's box", "61.2", "the middle 34.5, an even map 21.0"),
        ("without the regions", "45.6", "random regions 7.8, the image's other labels 9.1"),
    ):
        (place,) = (i for i, text in enumerate(cells) if label in text)
        assert cells[place + 1 : place + 3] == [figure, beside]
    assert "Where it looks" not in page(measured={"looking": {"pairs": 0}, "pointing": {}})


def test_the_reliability_diagram_is_of_what_is_shown_of_predicted_labels(text):
    assert "score of every label)" in text and "probability of every label)" not in text
    calibrated = page(fitted=Calibration(slope=0.9, bias=-0.1))
    for kind in ("probability of predicted", "score of predicted", "probability of every"):
        assert f"{kind} label" in calibrated
    assert "own when it was predicted" in text and "shown of a label: calibrated" in calibrated


def test_a_calibrated_gallery_shows_the_raw_score_beside_the_probability(text):
    assert " · score " not in text and "the raw one" not in text
    calibrated = page(fitted=Calibration(slope=0.5, bias=0.0))
    assert re.search(r"<small>p 0\.\d\d · score 0\.\d\d", calibrated)
    assert "the score is the raw one" in calibrated


# ------------------------------------------------------------------------- in a real browser


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("kind", ["", "right", "wrong", "missed"])
def test_the_filter_shows_what_it_says(text, kind, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(text)
    label = 0
    finished = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         f"{path.as_uri()}#label={label}&kind={kind}&order=worst"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in finished.stderr  # nor what the page's policy would refuse
    elements = Elements(finished.stdout)
    shown = {
        title.strip()
        for (card, _), (_, title) in zip(
            elements.of("article"),
            [h for h in elements.of("h3") if h[1].strip().endswith(".jpg")],
            strict=True,
        )
        if "hidden" not in card
    }
    predictions = made_up_predictions()
    predicted, true = predictions.labels[:, label], predictions.truth[:, label]
    wanted = {
        "": predicted | true, "right": predicted & true,
        "wrong": predicted & ~true, "missed": true & ~predicted,
    }[kind]  # fmt: skip
    assert shown == {f"{i:03}.jpg" for i in np.flatnonzero(wanted)}
    f1 = [float(card["data-f1"]) for card, _ in elements.of("article")]
    assert f1 == sorted(f1)
    ((_, count),) = elements.of("output")
    assert count.startswith(f"{len(shown)} of 12 images")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_table_sorts_and_finds_and_an_image_opens(text, tmp_path):
    (tmp_path / "page.html").write_text(text)
    (tmp_path / "frame.html").write_text(
        '<iframe src="page.html" width="1280" height="800"></iframe><script>onload = () => {'
        "const page = frames[0].document, table = page.querySelector('.labels');"
        "const order = () => [...table.tBodies[0].rows].map((r) => r.cells[1].dataset.v);"
        "table.tHead.querySelectorAll('button')[1].click(); const falling = order();"
        "table.tHead.querySelectorAll('button')[1].click(); const rising = order();"
        "page.querySelector('#find').value = table.rows[1].cells[0].dataset.v;"
        "page.querySelector('#find').dispatchEvent(new Event('input'));"
        "const found = [...table.tBodies[0].rows].filter((r) => !r.hidden).length;"
        "page.querySelector('.looks img').click();"
        "document.title = JSON.stringify([falling, rising, found,"
        "page.querySelector('#large').open, page.querySelectorAll('main').length]) }</script>"
    )
    finished = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    ((_, title),) = Elements(finished.stdout).of("title")
    falling, rising, found, opened, mains = json.loads(title)
    counts = [*map(int, falling)]
    assert counts == sorted(made_up_predictions().truth.sum(0).tolist(), reverse=True)
    assert [*map(int, rising)] == sorted(counts)
    assert (found, opened, mains) == (1, True, 1)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(text, width, tmp_path):
    (tmp_path / "page.html").write_text(text)
    # A window of the browser itself may not be as narrow as a telephone's.
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" width="{width}" height="800" style="border:0"></iframe><script>'
        "onload = () => { const page = frames[0].document.documentElement; document.title = "
        "`${page.clientWidth} ${page.scrollWidth}` }</script>"
    )
    finished = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    ((_, title),) = Elements(finished.stdout).of("title")
    inside, needed = map(int, title.split())
    assert width - 20 <= inside <= width  # without the bar that scrolls down
    assert needed == inside


def test_labels_that_are_not_known_are_shown_as_neither_right_nor_wrong():
    known = np.random.default_rng(0).random((12, 5)) < 0.5
    known[:2] = True
    text = page(known=known)
    sequence = made_up_predictions().sequence
    unknown = ~np.take_along_axis(known, np.maximum(sequence, 0), 1) & (sequence >= 0)
    assert len(re.findall(r"<b>\d+ \? ", text)) == unknown.sum() > 0
    assert "A question mark stands before a label" in text
    assert "A question mark stands before a label" not in page()
