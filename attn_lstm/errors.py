"""The one exception that stands for a mistake of the user, not a defect of the program."""


class UserError(Exception):
    """A wrong flag, config field, file or folder.

    The message is one line: it names what is wrong and how to put it right. Entry points print it
    to stderr without a traceback and exit with code 2.
    """
