"""Rows, heads and readers that other installed packages bring."""

from importlib.metadata import entry_points

from attn_lstm.errors import UserError, first_line

GROUP = "attn_lstm.plugins"


def load_plugins() -> None:
    """Imports the modules that packages name in their entry points `attn_lstm.plugins`.

    Such a module adds to `methods.METHODS`, `models.heads.HEADS` or `data.READERS`.

    Raises:
      UserError: one of them cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # whatever the code of others raises
            package = entry.dist.name if entry.dist else "a package"
            raise UserError(
                f"{package}, which names {entry.value} in its entry points {GROUP!r}, cannot be "
                f"imported ({type(error).__name__}: {first_line(error)}): mend or uninstall it"
            ) from error
