"""Names in any script: drawn where a font has them, spelled out where none does."""

import warnings

import matplotlib.font_manager
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties

from attn_lstm.reports import attention_figure, charts, fonts, overlay
from tests.reports.test_attention_figure import example, texts

CAR = "红色 汽车"  # DejaVu has no ideographs


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A font of the machine that has the ideographs of `CAR` as squares, and nothing else."""
    pen = TTGlyphPen(None)
    for point in ((100, 0), (900, 0), (900, 800), (100, 800)):
        (pen.moveTo if point == (100, 0) else pen.lineTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square" for character in CAR if character != " "})
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    manager = matplotlib.font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [*manager.ttflist])
    manager.addfont(tmp_path / "squares.ttf")
    fonts._others.cache_clear()
    yield "Squares"
    fonts._others.cache_clear()
    fonts._characters.cache_clear()


@pytest.mark.parametrize(
    "text", ["tv/monitor", "a\u202fb", "✓ ✗ ·", "é ü ß", "кошка", "سيارة", "שלום", ""]
)
def test_what_the_own_font_has_is_drawn_by_it(text):
    base = FontProperties(family=fonts.OWN, size=9)
    assert fonts.families(text) == (fonts.OWN,)
    assert fonts.fitting(base, text) is base
    assert fonts.legible(text) == text


def test_a_font_of_the_machine_draws_what_the_own_one_lacks(installed):
    assert fonts.families(f"a {CAR}") == (fonts.OWN, installed)
    assert fonts.legible(CAR) == CAR
    wider = fonts.fitting(FontProperties(family=fonts.OWN, size=9, weight="bold"), CAR)
    assert wider.get_family() == [fonts.OWN, installed]
    assert (wider.get_size(), wider.get_weight()) == (9, "bold")
    file, text = fonts.one_font(CAR)
    assert file.endswith("squares.ttf") and text == CAR
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of glyphs that are missing
        figure = attention_figure.draw(example(names=(CAR, "b", "c", "d")))
        attention_figure.render(figure)
    assert any(CAR in text.get_text() for text in texts(figure))
    assert not any("[…]" in text.get_text() for text in texts(figure))


def test_what_no_font_has_is_spelled_out():
    assert fonts.legible(CAR) == "[7EA2 8272] [6C7D 8F66]"
    assert fonts.legible("हिन्दी x") == "[ha i na virama da ii] x"
    assert fonts.legible("한글") == "[han geul]"
    assert fonts.legible("dog 🐕") == "dog [dog]"
    assert fonts.legible("\U0003fffe") == "[3FFFE]"


def test_figures_of_such_names_have_a_legend_and_no_warning():
    names = (CAR, "हिन्दी", "한글", "cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = attention_figure.draw(example(names=names))
        attention_figure.render(figure)
        plain = attention_figure.draw(example())
        overlay.draw_panels(
            np.zeros((20, 30, 3), np.uint8), CAR, [(CAR, np.ones((3, 3)))], "squash"
        )
        charts.co_occurrence(np.eye(4), names)
    shown = " ".join(text.get_text() for text in texts(figure))
    assert "[7EA2 8272] [6C7D 8F66]" in shown and "[han geul]" in shown
    assert "[…]: characters that no font of this machine has" in shown
    assert not any("[…]" in text.get_text() for text in texts(plain))


@given(st.text(max_size=30))
def test_whatever_a_name_holds_the_fonts_have_what_is_drawn(text):
    drawn = fonts.legible(text)
    assert fonts.legible(drawn) == drawn
    assert fonts._drawn(drawn) <= set().union(*map(fonts._characters, fonts.families(text)))
