"""What `eval.py --tune` keeps: τ and calibration, by checkpoint and kind of decision."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.storage import damaged, is_number, read_json, write_json

THRESHOLDS, CALIBRATION = "thresholds.json", "calibration.json"


def save_threshold(
    workdir: Path, step: int, search: ml_collections.ConfigDict, tau: Threshold
) -> None:
    """Keeps τ for one checkpoint and one kind of decision: a number, or an object by label."""
    value = dataclasses.asdict(tau) if tau.by_label else tau.value
    kept = _kept(workdir / THRESHOLDS, _is_threshold)
    write_json(workdir / THRESHOLDS, {**kept, _decision_key(step, search): value})


def load_threshold(workdir: Path, step: int, search: ml_collections.ConfigDict) -> Threshold | None:
    """The τ that was tuned for this checkpoint and kind of decision, None if none was."""
    value = _kept(workdir / THRESHOLDS, _is_threshold).get(_decision_key(step, search))
    if value is None:
        return None
    return Threshold(**value) if isinstance(value, dict) else Threshold(value)


def save_calibration(
    workdir: Path, step: int, search: ml_collections.ConfigDict, fitted: Calibration
) -> None:
    """Keeps what was fitted to the scores of one kind of one checkpoint."""
    kept = _kept(workdir / CALIBRATION, _is_calibration)
    key = _score_key(step, search)
    write_json(workdir / CALIBRATION, {**kept, key: dataclasses.asdict(fitted)})


def load_calibration(
    workdir: Path, step: int, search: ml_collections.ConfigDict
) -> Calibration | None:
    """What was fitted to this checkpoint's scores, None if nothing was."""
    value = _kept(workdir / CALIBRATION, _is_calibration).get(_score_key(step, search))
    return None if value is None else Calibration(**value)


def _kept(path: Path, is_value: Callable[[Any], bool]) -> dict[str, Any]:
    """An object from a file, empty before the first entry."""
    kept = read_json(path) if path.exists() else {}
    if not isinstance(kept, dict) or not all(map(is_value, kept.values())):
        raise damaged(path, "not what eval.py --tune keeps there")
    return kept


def _is_threshold(value: Any) -> bool:
    if not isinstance(value, dict):
        return is_number(value)
    by_label = value.get("by_label")
    return (
        value.keys() == {"value", "by_label"}
        and isinstance(by_label, dict)
        and all(map(is_number, (value["value"], *by_label.values())))
    )


def _is_calibration(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"slope", "bias"}
        and all(map(is_number, value.values()))
    )


def _decision_key(step: int, search: ml_collections.ConfigDict) -> str:
    """Names all that the best τ depends on."""
    if search.decide == "path":
        key = f"step={step} stop={search.stop} beam_size={search.beam_size}"
    else:
        key = f"{_score_key(step, search)} decide={search.decide}"
    return key if search.thresholds == "global" else f"{key} thresholds={search.thresholds}"


def _score_key(step: int, search: ml_collections.ConfigDict) -> str:
    """Names all that the scores depend on."""
    return f"step={step} scores={search.scores}"
