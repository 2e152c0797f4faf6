"""`eval.py`'s work: open a checkpoint, find its figures on a split, print and write them."""

import functools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel, progress, remote, storage
from attn_lstm.data import load_split
from attn_lstm.data.split import Batch, Split
from attn_lstm.errors import UserError
from attn_lstm.fields import flatten
from attn_lstm.measures import calibration, summary, thresholds
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.predictions import Predictions, cut
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.ordering import frequency_rank
from attn_lstm.reports.terminal import describe
from attn_lstm.runs import pictures, split_pass, tuned, workdir
from attn_lstm.runs.deletion import deletion
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.opened import Opened, find_threshold, open_checkpoint
from attn_lstm.runs.split_pass import EvalStep


def evaluate(
    config: ml_collections.ConfigDict,
    directory: Path,
    step: str,
    split: str,
    mesh: Mesh,
    *,
    figures: int = 0,
    figure_ids: Sequence[str] = (),
    report: bool = False,
    report_images: int | None = None,
) -> dict[str, Any]:
    """Prints the table row of a checkpoint and writes DIRECTORY/eval/SPLIT-STEP.json.

    τ is the config's, else the one tuned for this checkpoint, else the default.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: a number, 'best' or 'latest'.
      split: 'train', 'validation' or 'test'.
      mesh: of all devices.
      figures: so many of the best and of the worst images are drawn with their attention, into
        DIRECTORY/figures/SPLIT-STEP.
      figure_ids: names of images to draw there too.
      report: also write DIRECTORY/eval/SPLIT-STEP.html.
      report_images: in its gallery; None for some.

    Returns:
      what the JSON file holds.

    Raises:
      UserError: a mistake in config, directory or data, or an image that is not in the split.
    """
    with progress.doing("reading the checkpoint"):
        opened = open_checkpoint(config, directory, step, mesh)
    with parallel.agreed(), progress.doing("reading the data set"):
        data = _load(opened, split)
        asked = pictures.rows_of(data, figure_ids)
        tau, origin = find_threshold(opened, directory)
        fitted = tuned.load_calibration(directory, opened.step, config.search)
    cut = tau.of(data.label_names)
    inputs = _inputs(opened, data, directory)
    predictions, maps = split_pass.predict_with_maps(*_pass(opened, inputs, mesh), cut, mesh)
    with progress.doing("counting"):
        counts = summary.report(predictions, data, opened.table.counts, fitted, maps)
    if maps is not None:
        with progress.doing("taking regions away"):
            counts["deletion"] = deletion(
                opened.row, opened.variables, inputs, predictions, maps, mesh
            )
    result = {
        "method": config.method,
        "dataset": opened.table.dataset,
        "split": split,
        "fingerprint": data.fingerprint,
        "step": opened.step,
        "threshold": tau.value,
        "threshold_origin": origin,
        "parameters": _count_parameters(opened.variables["params"]),
        **counts,
        "config": config.to_dict(),
    }
    for label, own in tau.by_label.items():
        result["per_class"][label]["threshold"] = own
    with parallel.agreed():
        if parallel.is_first_host():
            path = directory / "eval" / f"{split}-{opened.step}.json"
            kept = path.with_suffix(".npz")
            storage.write_json(path, result)
            storage.write_bytes(kept, summary.to_npz(predictions, data))
            print(describe(result), flush=True)
            print(f"written to {remote.shown(path)}, the predictions to {kept.name}", flush=True)
            examples = pictures.Examples(opened.config, data, predictions, maps, fitted)
            if figures or figure_ids:
                folder = directory / "figures" / f"{split}-{opened.step}"
                with progress.doing("drawing figures"):
                    pictures.write_figures(folder, result, examples, figures, asked)
                print(f"figures written to {remote.shown(folder)}", flush=True)
            if report:
                page = path.with_suffix(".html")
                command = _command(opened, directory, split, tau, figures)
                with progress.doing("drawing the report"):
                    pictures.write_report(page, result, examples, figures, command, report_images)
                print(f"report written to {remote.shown(page)}", flush=True)
    return result


def _count_parameters(params: dict[str, Any]) -> dict[str, int]:
    """Numbers in the backbone, and in all that stands on it."""
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    backbone = sizes.pop("backbone", 0)
    return {"backbone": backbone, "head": sum(sizes.values())}


def tune(
    config: ml_collections.ConfigDict, directory: Path, step: str, split: str, mesh: Mesh
) -> None:
    """Chooses τ for a checkpoint on a held-out split, calibrates its scores, and keeps both.

    Raises:
      UserError: the split is the test split; or as `evaluate`.
    """
    if split == "test":
        raise UserError(
            "--tune on the test split would choose τ on what it is judged by; "
            "give --split=validation"
        )
    if config.search.top_k:
        raise UserError(
            f"--tune has nothing to choose: this row predicts config.search.top_k="
            f"{config.search.top_k} labels an image"
        )
    with progress.doing("reading the checkpoint"):
        opened = open_checkpoint(config, directory, step, mesh)
    with parallel.agreed(), progress.doing("reading the data set"):
        data = _load(opened, split)
    candidates = _candidates(opened, data, directory, mesh)
    best = thresholds.choose(candidates, config.search.thresholds)
    chosen = candidates[best]
    tau = Threshold(float(thresholds.GRID[best]))
    if config.search.thresholds == "per_class":
        own = thresholds.choose_by_label(
            chosen.scores, chosen.truth, data.label_names, tau.value, chosen.known
        )
        tau = Threshold(tau.value, own)
        chosen = cut(chosen, tau.of(data.label_names))
    fitted = calibration.fit(*chosen.judged_pairs())
    with parallel.agreed():
        if parallel.is_first_host():
            tuned.save_threshold(directory, opened.step, config.search, tau)
            tuned.save_calibration(directory, opened.step, config.search, fitted)
            print(_describe_choice(opened, split, tau, chosen, fitted), flush=True)


def _candidates(opened: Opened, data: Split, directory: Path, mesh: Mesh) -> list[Predictions]:
    """The predictions for each τ of the grid."""
    if opened.row.by_path:
        return _predict(opened, data, thresholds.GRID, directory, mesh)
    # The scores do not depend on τ: one pass, cut at each.
    (scored,) = _predict(opened, data, [0.0], directory, mesh)
    return [cut(scored, tau) for tau in thresholds.GRID]


def _describe_choice(
    opened: Opened,
    split: str,
    tau: Threshold,
    chosen: Predictions,
    fitted: Calibration,
) -> str:
    search, names = opened.config.search, ("C-F1", "O-F1", "macro-F1")
    figures = summary.figures(chosen, opened.table.names)
    by = (
        f"{search.stop}, beam {search.beam_size}"
        if search.decide == "path"
        else f"scores {search.scores}"
    )
    own = f", {len(tau.by_label)} labels with their own" if tau.by_label else ""
    error = summary.calibration_report(chosen, fitted)
    told = (
        ""
        if error["error"] is None
        else f"; calibration error of the predicted labels {error['error']:.1f}, then "
        f"{error['calibrated_error']:.1f} points"
    )
    return (
        f"τ = {tau.value:.3f}{own} for step {opened.step} ({by}): {split} "
        + "  ".join(f"{name} {figures[name]:.1f}" for name in names)
        + told
    )


def _load(opened: Opened, split: str) -> Split:
    """The split, with the columns of the labels that the checkpoint was trained on.

    Raises:
      UserError: as `load_split`, or an image has another label.
    """
    data = load_split(opened.config.data, split)
    return data.with_labels(opened.table.names, "the checkpoint")


def _predict(
    opened: Opened,
    data: Split,
    taus: Sequence[float | np.ndarray] | np.ndarray,
    directory: Path,
    mesh: Mesh,
) -> list[Predictions]:
    """The predictions for each τ, or each row of τ by label."""
    inputs = _inputs(opened, data, directory)
    return split_pass.predict_split(*_pass(opened, inputs, mesh), taus, mesh)


def _inputs(opened: Opened, data: Split, directory: Path) -> Inputs:
    return Inputs(
        opened.config,
        opened.row,
        data,
        opened.variables,
        directory,
        views=1,
        say=functools.partial(print, flush=True) if parallel.is_first_host() else lambda _: None,
    )


def _pass(
    opened: Opened, inputs: Inputs, mesh: Mesh
) -> tuple[EvalStep, dict[str, Any], Iterator[Batch], jax.Array]:
    """What every pass over a split needs: step, variables, batches, rank of the labels."""
    return (
        split_pass.map_eval_step(opened.row, mesh),
        opened.variables,
        inputs.evaluation(),
        frequency_rank(jnp.asarray(opened.table.counts)),
    )


def _command(opened: Opened, directory: Path, split: str, tau: Threshold, figures: int) -> str:
    """The command that gives the same report, also when another single τ is tuned later."""
    kept, now = dict(flatten(workdir.load_config(directory))), dict(flatten(opened.config))
    changed = {name: value for name, value in now.items() if kept.get(name) != value}
    if not opened.config.search.top_k and not tau.by_label:
        changed["search.threshold"] = tau.value
    place = remote.shown(directory)
    words = ["python", "eval.py", f"--workdir={place}", f"--step={opened.step}",
             f"--split={split}", "--report", *([f"--figures={figures}"] if figures else []),
             *(f"--config.{name}={value}" for name, value in changed.items())]  # fmt: skip
    return shlex.join(words)
