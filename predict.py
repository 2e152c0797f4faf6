"""Predicts the labels of images with a trained network: one line of JSON an image.

    python predict.py --workdir=runs/digits photo.jpg pictures 'more/**/*.png'
    find pictures -name '*.jpg' | python predict.py --workdir=runs/digits --overlays=maps -

Takes files, folders (all images below), patterns in quotes, and - for a list on standard input.
Lines follow the order of the images: {"image", "labels": [{"name", "probability", "step"}, ...]}.
An image that cannot be read gives {"image", "error"}, and the rest goes on. Fields of the run's
config can be overridden: --config.search.threshold=0.3. Exit codes: 0 done, 2 a mistake in flags,
config or files, or not one image that could be read.
"""

import signal
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

from absl import flags

from attn_lstm import cli, errors

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_STEP = flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "images at once; default: config.eval.batch_size", lower_bound=1
)
_FORMAT = flags.DEFINE_enum("format", "jsonl", ["jsonl", "csv"], "of the lines")
_OUTPUT = flags.DEFINE_string("output", None, "file for the lines; default: standard output")
_OVERLAYS = flags.DEFINE_string(
    "overlays", None, "folder for pictures, one PNG an image with the attention map of each label"
)


def main(images: list[str]) -> int:
    """Predicts; returns the exit code."""
    from attn_lstm.serving.command import predict_images

    predict_images(
        flags.FLAGS.config,
        Path(_WORKDIR.value),
        _STEP.value,
        images,
        batch_size=_BATCH_SIZE.value,
        form=_FORMAT.value,
        output=Path(_OUTPUT.value) if _OUTPUT.value else None,
        overlays=Path(_OVERLAYS.value) if _OVERLAYS.value else None,
    )
    return errors.DONE


if __name__ == "__main__":
    cli.run(main, cli.define_workdir_config, positional=True, result_on_stdout=True)
