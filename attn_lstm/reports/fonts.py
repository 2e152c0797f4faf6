"""Fonts for names in any script: the one that Matplotlib brings along, and what the machine has."""

from __future__ import annotations

import functools
import unicodedata

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties

# It has the marks that figures use, and looks the same everywhere.
OWN = "DejaVu Sans"

SPELLED_OUT = (
    "[…]: characters that no font of this machine has, by their Unicode names or numbers; they are "
    "drawn once a font for their script is installed."
)

_NO_NAMES = "Last Resort"  # its glyphs are boxes


def fitting(font: FontProperties, text: str) -> FontProperties:
    """The font itself where it has all characters of a text, else one with others behind it."""
    found = families(text)
    if found == (OWN,):
        return font
    wider = font.copy()
    wider.set_family(list(found))
    return wider


def families(text: str) -> tuple[str, ...]:
    """`OWN`, and behind it the families that have what it lacks, as few as possible."""
    found, missing = [OWN], _drawn(text) - _characters(OWN)
    while missing:
        best = max(_others(), key=lambda name: len(missing & _characters(name)), default=OWN)
        if not missing & _characters(best):
            break
        found.append(best)
        missing -= _characters(best)
    return tuple(found)


def one_font(text: str) -> tuple[str, str]:
    """For who takes but one font: the file of the one with most of a text, and what it can draw."""
    best = max(families(text), key=lambda name: len(_drawn(text) & _characters(name)))
    return str(_file(best)), legible(text, (best,))


def legible(text: str, among: tuple[str, ...] | None = None) -> str:
    """A text in which characters that cannot be drawn are spelled out in brackets.

    Args:
      text: any.
      among: the families that may draw it; None for all of the machine.
    """
    usable = families(text) if among is None else among
    missing = _drawn(text).difference(*map(_characters, usable))
    if not missing:
        return text
    parts: list[str | list[str]] = []
    for character in text:
        if character not in missing:
            parts.append(character)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(_spelled(character))
        else:
            parts.append([_spelled(character)])
    return "".join(part if isinstance(part, str) else f"[{' '.join(part)}]" for part in parts)


def _drawn(text: str) -> set[str]:
    """The characters that need a glyph: neither space nor what only directs its neighbours."""
    return {c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc")}


def _spelled(character: str) -> str:
    """'7EA2' of an ideograph, 'ka' of a letter, 'dog face' of a picture."""
    name = unicodedata.name(character, f"-{ord(character):X}")
    if unicodedata.category(character) == "So":
        return name.lower()
    before, dash, number = name.rpartition("-")
    return number if dash and not before.endswith(" ") else name.rpartition(" ")[2].lower()


@functools.cache
def _others() -> tuple[str, ...]:
    names = {entry.name for entry in font_manager.fontManager.ttflist} - {OWN}
    return tuple(sorted(name for name in names if not name.startswith(_NO_NAMES)))


@functools.cache
def _characters(family: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(_file(family)).get_charmap()))


def _file(family: str) -> str:
    return font_manager.findfont(FontProperties(family=family))
