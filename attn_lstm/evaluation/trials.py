"""Settings of a row chosen on the validation split, by as many trials as every other row has.

Rows that share the settings which were chosen for one of them are not compared fairly: a set head
may need another learning rate than an LSTM. The first trial is the config as it stands; the others
are points of a scrambled Halton sequence over the row's few fields (Halton 1960), which fill their
space evenly for any number of trials, and are the same on every start.
"""

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from jax.sharding import Mesh
from scipy.stats import qmc

from attn_lstm import parallel, storage
from attn_lstm.config import resolve
from attn_lstm.fields import flatten
from attn_lstm.models.heads import head_of
from attn_lstm.runs.checkpoint import Checkpoints
from attn_lstm.text import plain_table
from attn_lstm.training.loop import train

TRIALS = "trials.json"  # of a row: what was tried, and what it came to

_SEED = 0  # of the sequence


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers from one to another, evenly on the scale of their logarithms if that is asked for."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, place: float) -> float:
        """The number at a place from 0 to 1, to three digits."""
        low, high = (map(math.log, (self.low, self.high)) if self.logarithmic else
                     (self.low, self.high))  # fmt: skip
        value = low + place * (high - low)
        return float(f"{math.exp(value) if self.logarithmic else value:.3g}")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Some values, each as likely as the others."""

    values: Sequence[float | str]

    def at(self, place: float) -> float | str:
        """The value at a place from 0 to below 1."""
        return self.values[int(place * len(self.values))]


Space = Mapping[str, Between | OneOf]

# Of every row that learns.
_SHARED: Space = {
    "optimizer.learning_rate": Between(1e-4, 1e-2, logarithmic=True),
    "optimizer.weight_decay": OneOf((0.0, 1e-3, 1e-2, 1e-1, 1.0)),
    "decoder.dropout": Between(0.0, 0.7),
}
_CHANNELS: Space = {"decoder.feature_dropout": Between(0.0, 0.7)}
_QUERIES: Space = {"set_head.layers": OneOf((1, 2)), "set_head.dropout": Between(0.0, 0.3)}

# Beside these, of a head and of a loss.
_OF_HEAD: Mapping[str, Space] = {
    "attention_lstm": _CHANNELS,
    "cnn_rnn": _CHANNELS,
    "query2label": {**_CHANNELS, **_QUERIES},
    "ml_decoder": {**_CHANNELS, **_QUERIES},
    "csra": {
        **_CHANNELS,
        "set_head.heads": OneOf((1, 2, 4, 6, 8)),
        "set_head.residual": Between(0.05, 1.0, logarithmic=True),
    },
}
_OF_LOSS: Mapping[str, Space] = {
    "asymmetric": {
        "asymmetric.gamma_neg": Between(0.0, 6.0),
        "asymmetric.clip": Between(0.0, 0.1),
    },
    "focal": {"focal.gamma": Between(0.5, 4.0)},
}
# Of the config's own number of steps.
_LENGTHS = (0.5, 1.0, 2.0)


def space_of(config: ml_collections.ConfigDict) -> Space:
    """The fields of a row that trials choose; none for a row that learns nothing."""
    if head_of(config).fit != "descent":
        return {}
    lengths = OneOf([max(1, round(length * config.train.steps)) for length in _LENGTHS])
    return {
        **_SHARED,
        "train.steps": lengths,
        **_OF_HEAD.get(config.head, {}),
        **_OF_LOSS.get(config.loss, {}),
    }


def points(config: ml_collections.ConfigDict, count: int) -> list[dict[str, Any]]:
    """What is tried, by field: the config's own values first.

    Args:
      config: of the row.
      count: of trials, at least 1; a row without anything to choose has one.
    """
    space, own = space_of(config), dict(flatten(config))
    tried = [{name: own[name] for name in space}]
    if space and count > 1:
        for places in qmc.Halton(len(space), rng=_SEED).random(count - 1):
            fields = zip(space.items(), places, strict=True)
            tried.append({name: field.at(place) for (name, field), place in fields})
    return tried


def choose(
    config: ml_collections.ConfigDict, directory: Path, count: int, mesh: Mesh
) -> ml_collections.ConfigDict | None:
    """The config with the fields of the best trial; says what was tried.

    The best is by `config.train.best_figure` of the best checkpoint, on the validation split. A
    trial that is done is not made again: DIRECTORY/trials.json holds it.

    Args:
      config: of a row, unresolved, with the seed of the trials.
      directory: of the row; the trials lie in DIRECTORY/trials/NUMBER.
      count: of trials.
      mesh: of all devices.

    Returns:
      None when a signal stopped it (all is saved).
    """
    figure, done = config.train.best_figure, _read(directory / TRIALS)
    for number, fields in enumerate(points(config, count)):
        if any(trial["fields"] == fields for trial in done):
            continue
        if parallel.is_first_host():
            print(f"== {config.method}, trial {number + 1} of {count}: {_told(fields)}", flush=True)
        run = directory / "trials" / f"{number:03}"
        if not train(resolve(_changed(config, fields)), run, mesh):
            return None
        done.append({"fields": fields, figure: _best(run, figure)})
        with parallel.agreed():
            if parallel.is_first_host():
                storage.write_json(directory / TRIALS, done)
                shutil.rmtree(run / "checkpoints")  # its figures stay; nobody goes on from it
    best = max(done, key=lambda trial: trial[figure])
    if parallel.is_first_host():
        print(_table(config.method, figure, done), flush=True)
    return _changed(config, best["fields"])


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    done = storage.read_json(path)
    if not isinstance(done, list) or not all(isinstance(trial, dict) for trial in done):
        raise storage.damaged(path, "a list of trials is expected")
    return done


def _changed(
    config: ml_collections.ConfigDict, fields: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    changed = config.copy_and_resolve_references().unlock()
    changed.update_from_flattened_dict(fields)
    every = min(changed.train.eval_every, changed.train.steps)
    changed.train.eval_every = every  # a shorter run is validated, too
    return changed.lock()


def _best(run: Path, figure: str) -> float:
    """The figure of the run's best checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints" / "best", keep=None)
    try:
        return checkpoints.meta(checkpoints.steps()[-1])["figures"][figure]
    finally:
        checkpoints.close()


def _told(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _table(method: str, figure: str, done: Sequence[Mapping[str, Any]]) -> str:
    ranked = sorted(done, key=lambda trial: -trial[figure])
    lines = [[f"{trial[figure]:.1f}", _told(trial["fields"])] for trial in ranked]
    return f"{method}, by {figure} on the validation split\n" + plain_table(lines)
