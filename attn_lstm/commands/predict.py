"""Predicts the labels of images with a trained network: one line of JSON an image.

    attn-lstm predict --workdir=runs/digits photo.jpg pictures 'more/**/*.png'
    find pictures -name '*.jpg' | attn-lstm predict --workdir=runs/digits --overlays=maps -

Takes files, URLs, folders (all images below), patterns in quotes, and - for a list on standard
input. What is written follows the order of the images; one that cannot be read says why, and the
rest goes on. Fields of the run's config can be overridden: --config.search.threshold=0.3.

  jsonl    a line an image: {"image", "labels": [{"name", "probability", "step", "score"}, ...]},
           the labels in the order of emission, and "overlay" with --overlays; or {"image", "error"}
  csv      image, labels, probabilities, steps, scores, overlay, error; several joined by |
  coco     one list of {"image_id": path, "category_id": from 1, "category_name", "score", "step",
           "probability"}
  parquet  a table with the fields of jsonl, into --output

Where the run was tuned the probability is the calibrated one, that the label is true, and the score
the raw one that it was made of. Elsewhere the probability is the network's own at the label's step
and stands alone; in coco it is the score.

Exit codes: 0 done, 2 a mistake in flags, config or files, or not one image that could be read.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
    flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
    flags.DEFINE_integer(
        "batch_size",
        None,
        "images at once at most: the next smaller power of two is taken; default: "
        "config.eval.batch_size",
        lower_bound=1,
    )
    flags.DEFINE_enum("format", "jsonl", ["jsonl", "csv", "coco", "parquet"], "of what is written")
    flags.DEFINE_string("output", None, "file for the lines; default: standard output")
    flags.DEFINE_string(
        "overlays",
        None,
        "folder for pictures, one PNG an image with the attention map of each label",
    )
    cli.define_workdir_config(argv)


def main(images: list[str]) -> int:
    """Predicts; returns the exit code."""
    from attn_lstm.serving.command import predict_images

    given = flags.FLAGS
    predict_images(
        given.config,
        Path(given.workdir),
        given.step,
        images,
        batch_size=given.batch_size,
        form=given.format,
        output=Path(given.output) if given.output else None,
        overlays=Path(given.overlays) if given.overlays else None,
    )
    return errors.DONE
