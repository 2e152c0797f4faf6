"""What joins the labels that a file lists in one cell, told by what dividing at it would do.

'red, blue' may be one label or two. If it is two, dividing turns many labels that few images have
into few labels that many have, and which stand alone, or in another order, elsewhere. No name of a
label does that: the parts of 'traffic light' occur nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attn_lstm.data.files import shown

BAR = "|"
LIST = "list"  # as Python and NumPy write a list of texts: ['red', 'blue'], ['red' 'blue']

# Marks that names of labels seldom hold: where parts recur, they are taken for separators.
_LIKELY = ",;"
_NEVER = "'\"()[]{}.|"  # parts of names, or dealt with otherwise
_RECURRING = 1.5  # labels in which a part occurs, on average
_FREE = 2 / 3  # of the parts: stand alone, or both first and last
_LISTED = 5  # labels named in the question

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


def divide(text: str, separator: str) -> list[str]:
    """The labels of a cell; the empty cell has none.

    Args:
      text: the cell.
      separator: a mark, with or without space around it; space alone, for any run of it; or
        `LIST`.
    """
    if separator == LIST:
        inner = text.strip()
        if _is_list(inner):
            inner = inner[1:-1]
        quoted = [first or second for first, second in _QUOTED.findall(inner)]
        text, separator = ("\0".join(quoted), "\0") if quoted else (inner, ",")
    if not text.strip():
        return []
    return [part.strip() for part in text.split(separator.strip() or None)]


def question(labels: Iterable[str]) -> str | None:
    """What to ask of labels that look joined by something else than bars; None where none does.

    Args:
      labels: as they are, divided at bars alone.
    """
    whole = {label.strip() for label in labels if label.strip()}
    separator = _guess(whole)
    if separator is None:
        return None
    parts = {part for label in whole for part in divide(label, separator) if part}
    joined = sorted(label for label in whole if label not in parts)
    listed, found = (
        ", ".join(shown(name) for name in sorted(names)[:_LISTED])
        + (", ..." if len(names) > _LISTED else "")
        for names in (joined, parts)
    )
    return (
        f"labels look joined: {listed}; divided at {_named(separator)}, {len(whole)} labels become "
        f"{len(parts)}: {found}. Set data.separator={_quoted(separator)} to divide them, or "
        f"data.separator={_quoted(BAR)} to keep them as they are"
    )


def _named(separator: str) -> str:
    return {LIST: "the commas of their lists", " ": "spaces"}.get(separator, repr(separator))


def _quoted(separator: str) -> str:
    """For a shell."""
    return separator if separator == LIST else f"'{separator}'"


def _guess(whole: set[str]) -> str | None:
    if whole and sum(map(_is_list, whole)) * 2 > len(whole):
        return LIST
    marks = {character for label in whole for character in label if not character.isalnum()}
    marks = {" " if mark.isspace() else mark for mark in marks} - {*_NEVER}
    likely = [mark for mark in _LIKELY if mark in marks]
    # Spaces last: there may be some around another mark.
    for mark in [*likely, *sorted(marks - {*likely}, reverse=True)]:
        if _joins(mark, whole):
            return mark
    return None


def _is_list(text: str) -> bool:
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _joins(mark: str, whole: set[str]) -> bool:
    """Whether the parts between the marks are labels of their own."""
    divided = [[part for part in divide(label, mark) if part] for label in whole]
    joined = [parts for parts in divided if len(parts) > 1]
    if not joined:
        return False
    parts = {part for parts in joined for part in parts}
    places: dict[str, set[str]] = {part: set() for part in parts}
    occurrences = 0
    for label in divided:
        for place, part in enumerate(label):
            if part in parts:
                occurrences += 1
                alone, first = len(label) == 1, place == 0
                places[part].add("alone" if alone else "first" if first else "behind")
    if occurrences < _RECURRING * len(parts):
        return False
    if mark in _LIKELY:
        return True
    free = sum("alone" in at or len(at) > 1 for at in places.values())
    return len(joined) > 1 and free >= _FREE * len(parts)
