"""`eval.py`'s work: open a checkpoint, find its figures on a split, print and write them."""

import dataclasses
import functools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import calibration, illustration, inference, parallel, results, thresholds, workdir
from attn_lstm.calibration import Calibration
from attn_lstm.config import flatten, has_decoder, validate
from attn_lstm.data import load_split
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError
from attn_lstm.inputs import Inputs
from attn_lstm.models.network import create_network
from attn_lstm.ordering import frequency_rank
from attn_lstm.prediction import emit_most_confident
from attn_lstm.reports.tables import markdown_table
from attn_lstm.thresholds import Threshold
from attn_lstm.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint of a work directory, ready to predict."""

    config: ml_collections.ConfigDict
    table: workdir.LabelTable
    step: int
    variables: dict  # on every device of the mesh
    fingerprint: str  # of the training split


def open_checkpoint(
    config: ml_collections.ConfigDict, directory: Path, step: str, mesh: Mesh
) -> Opened:
    """Restores the variables of a checkpoint; the optimizer's state is not read.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: a number, 'best' or 'latest'.
      mesh: of all devices.

    Raises:
      UserError: a mistake in the config, no such checkpoint, or one of another network.
    """
    validate(config, mesh.size)
    table = workdir.load_labels(directory)
    network = create_network(config, len(table.names), images=table.images)
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    abstract = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x, emit_most_confident, steps=1), images
    )
    abstract = {"batch_stats": {}, **abstract}
    folders = (
        ("best",) if step == "best" else ("latest",) if step == "latest" else ("latest", "best")
    )
    for folder in folders:
        path = directory / "checkpoints" / folder
        if not path.is_dir():
            continue
        checkpoints = Checkpoints(path, keep=None)
        try:
            number = _find(checkpoints.steps(), step)
            if number is not None:
                checkpoints.check_meta(
                    number, {"dataset": table.dataset, "labels": list(table.names)}
                )
                variables = checkpoints.restore_variables(number, abstract, mesh)
                fingerprint = checkpoints.meta(number)["fingerprint"]
                return Opened(config, table, number, variables, fingerprint)
        finally:
            checkpoints.close()
    raise UserError(
        f"{directory} holds no checkpoint {step!r}: train it first, or give --step=best, latest "
        "or the step of a checkpoint that is there"
    )


def _find(steps: list[int], step: str) -> int | None:
    if step in ("best", "latest"):
        return steps[-1] if steps else None
    if not step.isdecimal():
        raise UserError(f"--step={step!r} is neither a number, nor 'best', nor 'latest'")
    return int(step) if int(step) in steps else None


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

    Returns:
      what the JSON file holds.

    Raises:
      UserError: a mistake in config, directory or data, or an image that is not in the split.
    """
    opened = open_checkpoint(config, directory, step, mesh)
    with parallel.agreed():
        data = _load(opened, split)
        asked = illustration.rows_of(data, figure_ids)
        tau, origin = find_threshold(opened, directory)
        fitted = workdir.load_calibration(directory, opened.step, config.search)
    maps, cut = None, tau.of(data.label_names)
    if figures or figure_ids or report:
        predictions, maps = _predict_with_maps(opened, data, cut, directory, mesh)
    else:
        (predictions,) = _predict(opened, data, [cut], directory, mesh)
    result = {
        "method": config.method,
        "dataset": opened.table.dataset,
        "split": split,
        "fingerprint": data.fingerprint,
        "step": opened.step,
        "threshold": tau.value,
        "threshold_origin": origin,
        "parameters": _count_parameters(opened.variables["params"]),
        **results.report(predictions, data, opened.table.counts, fitted),
        "config": config.to_dict(),
    }
    for label, own in tau.by_label.items():
        result["per_class"][label]["threshold"] = own
    with parallel.agreed():
        if jax.process_index() == 0:
            path = directory / "eval" / f"{split}-{opened.step}.json"
            kept = path.with_suffix(".npz")
            workdir.write_json(path, result)
            workdir.write_bytes(kept, results.to_npz(predictions, data))
            print(_describe(result), flush=True)
            print(f"written to {path}, the predictions to {kept.name}", flush=True)
            examples = illustration.Examples(opened.config, data, predictions, maps)
            if figures or figure_ids:
                folder = directory / "figures" / f"{split}-{opened.step}"
                illustration.write_figures(folder, result, examples, figures, asked)
                print(f"figures written to {folder}", flush=True)
            if report:
                page = path.with_suffix(".html")
                command = _command(opened, directory, split, tau, figures)
                illustration.write_report(page, result, examples, figures, command)
                print(f"report written to {page}", flush=True)
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
    opened = open_checkpoint(config, directory, step, mesh)
    with parallel.agreed():
        data = _load(opened, split)
    candidates = _candidates(opened, data, directory, mesh)
    best = thresholds.choose(candidates, config.search.thresholds)
    chosen = candidates[best]
    tau = Threshold(float(thresholds.GRID[best]))
    if config.search.thresholds == "per_class":
        own = thresholds.choose_by_label(chosen.scores, chosen.truth, data.label_names, tau.value)
        tau = Threshold(tau.value, own)
        chosen = results.cut(chosen, tau.of(data.label_names))
    fitted = calibration.fit(chosen.scores, chosen.truth)
    with parallel.agreed():
        if jax.process_index() == 0:
            workdir.save_threshold(directory, opened.step, config.search, tau)
            workdir.save_calibration(directory, opened.step, config.search, fitted)
            print(_describe_choice(opened, split, tau, chosen, fitted), flush=True)


def _candidates(
    opened: Opened, data: Split, directory: Path, mesh: Mesh
) -> list[results.Predictions]:
    """The predictions for each τ of the grid."""
    if opened.config.search.decide == "path" and has_decoder(opened.config):
        return _predict(opened, data, thresholds.GRID, directory, mesh)
    # The scores do not depend on τ: one pass, cut at each.
    (scored,) = _predict(opened, data, [0.0], directory, mesh)
    return [results.cut(scored, tau) for tau in thresholds.GRID]


def _describe_choice(
    opened: Opened,
    split: str,
    tau: Threshold,
    chosen: results.Predictions,
    fitted: Calibration,
) -> str:
    search, names = opened.config.search, ("C-F1", "O-F1", "macro-F1")
    figures = results.figures(chosen)
    by = (
        f"{search.stop}, beam {search.beam_size}"
        if search.decide == "path"
        else f"scores {search.scores}"
    )
    own = f", {len(tau.by_label)} labels with their own" if tau.by_label else ""
    error = results.calibration_report(chosen, fitted)
    return (
        f"τ = {tau.value:.3f}{own} for step {opened.step} ({by}): {split} "
        + "  ".join(f"{name} {figures[name]:.1f}" for name in names)
        + f"; calibration error {error['error']:.1f}, then {error['calibrated_error']:.1f} points"
    )


def _load(opened: Opened, split: str) -> Split:
    """The split, checked to have the labels that the checkpoint was trained on."""
    data = load_split(opened.config.data, split)
    if data.label_names != opened.table.names:
        raise UserError(
            f"{opened.config.data.path or data.dataset}: its {len(data.label_names)} labels are "
            f"not the {len(opened.table.names)} that the checkpoint was trained on"
        )
    return data


def _predict(
    opened: Opened,
    data: Split,
    taus: Sequence[float] | Sequence[np.ndarray] | np.ndarray,
    directory: Path,
    mesh: Mesh,
) -> list[results.Predictions]:
    """The predictions for each τ, or each row of τ by label."""
    return inference.predict_split(*_pass(opened, data, directory, mesh), taus, mesh)


def _predict_with_maps(
    opened: Opened, data: Split, tau: float | np.ndarray, directory: Path, mesh: Mesh
) -> tuple[results.Predictions, np.ndarray | None]:
    """The predictions for a τ and their attention maps, float16[N,T,K]."""
    return inference.predict_with_maps(*_pass(opened, data, directory, mesh), tau, mesh)


def _pass(opened: Opened, data: Split, directory: Path, mesh: Mesh) -> tuple:
    """What every pass over a split needs: step, variables, batches, rank of the labels."""
    inputs = Inputs(
        opened.config,
        data,
        opened.variables,
        directory,
        views=1,
        say=functools.partial(print, flush=True) if jax.process_index() == 0 else lambda _: None,
    )
    return (
        inference.map_eval_step(opened.config, len(opened.table.names), mesh),
        opened.variables,
        inputs.evaluation(),
        frequency_rank(jnp.asarray(opened.table.counts)),
    )


def find_threshold(opened: Opened, directory: Path) -> tuple[Threshold, str]:
    """τ and where it comes from."""
    search = opened.config.search
    if search.top_k:
        return Threshold(0.0), f"without effect: the {search.top_k} best labels an image"
    if search.threshold >= 0:
        return Threshold(search.threshold), "config.search.threshold"
    tuned = workdir.load_threshold(directory, opened.step, search)
    if tuned is None:
        default = Threshold(inference.DEFAULT_THRESHOLD)
        return default, "default; eval.py --tune chooses one"
    own = f"; {len(tuned.by_label)} labels have their own" if tuned.by_label else ""
    return tuned, f"tuned by eval.py --tune{own}"


def _describe(result: dict) -> str:
    """The table row, the top-3 row, and what they stand on."""
    rows = {result["method"]: result, f"{result['method']}, top-3": result["top-3"]}
    sizes = result["set_size"]
    loss = f", loss {result['loss']:.3f}" if "loss" in result else ""
    lines = [
        markdown_table(rows),
        f"{result['images']} images of {result['dataset']} {result['split']}, step "
        f"{result['step']}, τ = {result['threshold']:.3f} ({result['threshold_origin']}), labels "
        f"an image {sizes['predicted']:.2f} predicted, {sizes['true']:.2f} true, macro-F1 "
        f"{result['macro-F1']:.1f}{loss}",
    ]
    if result["unreadable_images"]:
        lines.append(f"{result['unreadable_images']} images could not be read and do not count")
    calibrated = result["calibration"]
    if "calibrated_error" in calibrated:
        lines.append(
            f"calibration error of the scores {calibrated['error']:.1f} points, "
            f"{calibrated['calibrated_error']:.1f} when calibrated on the validation split"
        )
    if "attention" in result.get("pointing", {}):
        pointing = result["pointing"]
        lines.append(
            f"attention peaks inside the label's box for {pointing['attention']:.1f} % of "
            f"{pointing['labels']} correct labels (a uniform map: {pointing['uniform']:.1f} %)"
        )
    return "\n".join([*lines, *_describe_diagnostics(result["diagnostics"])])


def _describe_diagnostics(diagnosis: dict) -> list[str]:
    """Lines on the order of emission, and on where labels are found."""
    lines = []
    orders = [
        f"{name.replace('_', ' ')} {order['kendall_tau']:+.2f} on {order['images']} images"
        for name, order in diagnosis["order"].items()
        if order["kendall_tau"] is not None
    ]
    if orders:
        lines.append(f"order of emission (Kendall's rank correlation): {', '.join(orders)}")
    if diagnosis["repeating_sequences"]:
        lines.append(f"{diagnosis['repeating_sequences']} sequences name a label twice")
    groups = [f"{size}: {f['O-F1']:.1f}" for size, f in diagnosis["by_true_labels"].items()]
    sizes = [
        f"{size} {objects['recall']:.1f}"
        for size, objects in diagnosis.get("recall_by_object_size", {}).items()
    ]
    recall = f"; recall of objects {', '.join(sizes)}" if sizes else ""
    return [*lines, f"O-F1 by true labels {', '.join(groups)}{recall}"]


def _command(opened: Opened, directory: Path, split: str, tau: Threshold, figures: int) -> str:
    """The command that gives the same report, also when another single τ is tuned later."""
    kept, now = dict(flatten(workdir.load_config(directory))), dict(flatten(opened.config))
    changed = {name: value for name, value in now.items() if kept.get(name) != value}
    if not opened.config.search.top_k and not tau.by_label:
        changed["search.threshold"] = tau.value
    words = ["python", "eval.py", f"--workdir={directory}", f"--step={opened.step}",
             f"--split={split}", "--report", *([f"--figures={figures}"] if figures else []),
             *(f"--config.{name}={value}" for name, value in changed.items())]  # fmt: skip
    return shlex.join(words)
