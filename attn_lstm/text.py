"""Tables as text whose columns stand under each other."""

from collections.abc import Iterable, Sequence

Lines = Iterable[Sequence[str]]


def plain_table(lines: Lines) -> str:
    """The first column to the left, the others, which hold figures, to the right."""
    return "\n".join("  ".join(line) for line in _justified(lines, narrowest=0))


def markdown_table(head: Sequence[str], rows: Lines) -> str:
    """As `plain_table` in Markdown, without a final newline."""
    escaped = [[text.replace("|", r"\|") for text in line] for line in (head, *rows)]
    # No column is narrower than the room of '59.4'.
    first, *rest = _justified(escaped, narrowest=4)
    widths = [len(text) for text in first]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *rest))


def _justified(lines: Lines, narrowest: int) -> list[list[str]]:
    lines = list(lines)
    widths = [max(narrowest, *map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])] for first, *others in lines
    ]
