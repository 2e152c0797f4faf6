"""How a program ends: its exit codes, and the one exception that stands for a mistake."""

import unicodedata

# LOST: another process of the run; EX_UNAVAILABLE of sysexits.h. STOPPED: EX_TEMPFAIL.
# INTERRUPTED: as shells call a process that SIGINT has ended.
DONE, MISTAKE, LOST, STOPPED, INTERRUPTED = 0, 2, 69, 75, 130


class UserError(Exception):
    """A wrong flag, config field, file or folder.

    The message is one line: it names what is wrong and how to put it right. Entry points print it
    to stderr without a traceback and exit with code 2.
    """

    def __str__(self) -> str:
        # It may quote the name of a file, or what stands in one.
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""A text as one line in which nothing steers a terminal: control characters as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if is_control(c) else c for c in text)


def is_control(character: str) -> bool:
    """Whether it ends a line or steers a terminal."""
    # Not str.isprintable: it refuses the narrow space in the names of macOS' screenshots, and the
    # joiners that some scripts are written with.
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """What a library says of its error, without what it lists behind the first line."""
    return str(error).strip().split("\n")[0]
