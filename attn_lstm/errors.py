"""The one exception that stands for a mistake of the user, and what it quotes of others."""


class UserError(Exception):
    """A wrong flag, config field, file or folder.

    The message is one line: it names what is wrong and how to put it right. Entry points print it
    to stderr without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """What a library says of its error, without what it lists behind the first line."""
    return str(error).strip().split("\n")[0]
