"""`eval.py`'s work: open a checkpoint, find its figures on a split, print and write them."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from attn_lstm import inference, results, workdir
from attn_lstm.config import validate
from attn_lstm.data import load_split
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError
from attn_lstm.inputs import Inputs
from attn_lstm.models.network import create_network
from attn_lstm.ordering import frequency_rank
from attn_lstm.prediction import emit_most_confident
from attn_lstm.reports.tables import markdown_table
from attn_lstm.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint of a work directory, ready to predict."""

    config: ml_collections.ConfigDict
    table: workdir.LabelTable
    step: int
    variables: dict  # on every device of the mesh


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
    network = create_network(config, len(table.names))
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
                variables = checkpoints.restore_variables(number, abstract, mesh)
                return Opened(config, table, number, variables)
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
    config: ml_collections.ConfigDict, directory: Path, step: str, split: str, mesh: Mesh
) -> None:
    """Prints the table row of a checkpoint and writes DIRECTORY/eval/SPLIT-STEP.json.

    τ is the config's, else the one tuned for this checkpoint, else the default.

    Raises:
      UserError: a mistake in config, directory or data.
    """
    opened = open_checkpoint(config, directory, step, mesh)
    data = _load(opened, split)
    tau, origin = _threshold(opened, directory)
    (predictions,) = _predict(opened, data, [tau], directory, mesh)
    result = {
        "method": config.method,
        "dataset": opened.table.dataset,
        "split": split,
        "fingerprint": data.fingerprint,
        "step": opened.step,
        "threshold": tau,
        "threshold_origin": origin,
        **results.report(predictions, data),
        "config": config.to_dict(),
    }
    if jax.process_index() == 0:
        path = directory / "eval" / f"{split}-{opened.step}.json"
        workdir.write_json(path, result)
        print(_describe(result), flush=True)
        print(f"written to {path}", flush=True)


def tune(
    config: ml_collections.ConfigDict, directory: Path, step: str, split: str, mesh: Mesh
) -> None:
    """Chooses τ for a checkpoint on a held-out split and keeps it in the work directory.

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
    data = _load(opened, split)
    candidates = _predict(opened, data, results.THRESHOLDS, directory, mesh)
    best = results.choose_threshold(candidates)
    tau = float(results.THRESHOLDS[best])
    if jax.process_index() == 0:
        workdir.save_threshold(directory, opened.step, config.search, tau)
        figures = results.figures(candidates[best])
        print(
            f"τ = {tau:.3f} for step {opened.step} ({config.search.stop}, beam "
            f"{config.search.beam_size}): {split} C-F1 {figures['C-F1']:.1f}  "
            f"O-F1 {figures['O-F1']:.1f}",
            flush=True,
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
    opened: Opened, data: Split, thresholds: Sequence[float], directory: Path, mesh: Mesh
) -> list[results.Predictions]:
    """The predictions for each threshold."""
    inputs = Inputs(
        opened.config,
        data,
        opened.variables,
        directory,
        views=1,
        say=functools.partial(print, flush=True) if jax.process_index() == 0 else lambda _: None,
    )
    return inference.predict_split(
        inference.map_eval_step(opened.config, len(opened.table.names), mesh),
        opened.variables,
        inputs.evaluation(),
        frequency_rank(jnp.asarray(opened.table.counts)),
        thresholds,
        mesh,
    )


def _threshold(opened: Opened, directory: Path) -> tuple[float, str]:
    """τ and where it comes from."""
    if opened.config.search.top_k:
        return 0.0, f"without effect: the {opened.config.search.top_k} best labels an image"
    if opened.config.search.threshold >= 0:
        return opened.config.search.threshold, "config.search.threshold"
    tuned = workdir.load_threshold(directory, opened.step, opened.config.search)
    if tuned is not None:
        return tuned, "tuned by eval.py --tune"
    return inference.DEFAULT_THRESHOLD, "default; eval.py --tune chooses one"


def _describe(result: dict) -> str:
    """The table row, the top-3 row, and what they stand on."""
    rows = {result["method"]: result, f"{result['method']}, top-3": result["top-3"]}
    sizes = result["set_size"]
    lines = [
        markdown_table(rows),
        f"{result['images']} images of {result['dataset']} {result['split']}, step "
        f"{result['step']}, τ = {result['threshold']:.3f} ({result['threshold_origin']}), labels "
        f"an image {sizes['predicted']:.2f} predicted, {sizes['true']:.2f} true, macro-F1 "
        f"{result['macro-F1']:.1f}, loss {result['loss']:.3f}",
    ]
    if result["unreadable_images"]:
        lines.append(f"{result['unreadable_images']} images could not be read and do not count")
    if "attention" in result.get("pointing", {}):
        pointing = result["pointing"]
        lines.append(
            f"attention peaks inside the label's box for {pointing['attention']:.1f} % of "
            f"{pointing['labels']} correct labels (a uniform map: {pointing['uniform']:.1f} %)"
        )
    return "\n".join(lines)
