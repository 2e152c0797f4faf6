"""How a program ends: its exit codes, and the one exception that stands for a mistake."""

# LOST: another process of the run; EX_UNAVAILABLE of sysexits.h. STOPPED: EX_TEMPFAIL.
DONE, MISTAKE, LOST, STOPPED = 0, 2, 69, 75


class UserError(Exception):
    """A wrong flag, config field, file or folder.

    The message is one line: it names what is wrong and how to put it right. Entry points print it
    to stderr without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """What a library says of its error, without what it lists behind the first line."""
    return str(error).strip().split("\n")[0]
