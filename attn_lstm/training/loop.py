"""The run: batch → step → log → save → validate, until the last step."""

import functools
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from attn_lstm import inference, parallel, results, weights, workdir
from attn_lstm.config import resolve, validate
from attn_lstm.data import load_split
from attn_lstm.data.split import Split
from attn_lstm.inputs import Inputs
from attn_lstm.models.network import create_network
from attn_lstm.objective import loss_names
from attn_lstm.ordering import frequency_rank
from attn_lstm.parallel import AXIS, REPLICATED, SPLIT
from attn_lstm.training.checkpoint import Checkpoints
from attn_lstm.training.state import TrainState, create_optimizer, create_schedule, create_state
from attn_lstm.training.step import make_train_step
from attn_lstm.training.writers import Clock, Writers

PyTree = Any


class Stop:
    """Set by SIGTERM and SIGINT: the loop then saves after the running step and ends."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        else:
            self._before = {}
        return self

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(config: ml_collections.ConfigDict, directory: Path, mesh: Mesh) -> bool:
    """Trains a config in a work directory, going on from what is there.

    Args:
      config: as `configs/common.py` lays it out.
      directory: the work directory; made when missing.
      mesh: of all devices.

    Returns:
      True when the last step is done, False when SIGTERM or SIGINT stopped it (all is saved).

    Raises:
      UserError: a mistake in the config, the data or the directory.
    """
    config = resolve(config)
    validate(config, mesh.size)
    splits = {name: load_split(config.data, name) for name in ("train", "validation")}
    if jax.process_index() == 0:
        workdir.save_config(directory, config)
        workdir.save_labels(directory, label_table(splits["train"]))
    run = Run(config, directory, mesh, splits)
    try:
        return run.go()
    finally:
        run.close()


def label_table(split: Split) -> workdir.LabelTable:
    """What the run must remember of its training split."""
    counts = tuple(int(n) for n in split.labels.sum(axis=0))
    return workdir.LabelTable(split.dataset, split.label_names, counts)


class Run:
    """The pieces of one run, and its loop."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        directory: Path,
        mesh: Mesh,
        splits: dict[str, Split],
    ):
        self.config, self.mesh, self.splits = config, mesh, splits
        table = label_table(splits["train"])
        self.rank = frequency_rank(jnp.asarray(table.counts))
        self.schedule = create_schedule(config.optimizer, config.train.steps)
        self.optimizer = create_optimizer(
            config.optimizer,
            self.schedule,
            joins_at=config.backbone.unfreeze_step,
            # A backbone that starts from random parameters learns as fast as the head.
            scale=config.optimizer.backbone_scale if config.backbone.weights else 1.0,
        )
        self.num_labels = len(table.names)
        self.eval_step = inference.map_eval_step(config, len(table.names), mesh)
        self.meta = {"dataset": table.dataset, "labels": list(table.names)}
        self.meta["fingerprint"] = splits["train"].fingerprint

        def create() -> TrainState:
            return create_state(
                create_network(config, self.num_labels),
                self.optimizer,
                config.data.image_size,
                config.seed,
                config.backbone.frozen,
                config.ema.decay > 0,
                loss_names(config),
            )

        self.latest = Checkpoints(directory / "checkpoints" / "latest", config.train.keep)
        self.best = Checkpoints(directory / "checkpoints" / "best", keep=1)
        steps = self.latest.steps()
        if steps:
            self.state = self.latest.restore_state(steps[-1], jax.eval_shape(create), mesh)
        else:
            replicated = jax.sharding.NamedSharding(mesh, REPLICATED)
            state = jax.jit(create, out_shardings=replicated)()
            self.state = parallel.replicate(with_pretrained(config, state), mesh)
        self.writers = Writers(directory, int(self.state.step), jax.process_index() == 0)
        self.inputs = {
            name: Inputs(
                config,
                split,
                self.state.variables,
                directory,
                views=config.cache.views if name == "train" else 1,
                say=self.writers.say,
            )
            for name, split in splits.items()
        }

    def go(self) -> bool:
        """Runs to the last step, or until a signal asks to stop; True for the former."""
        config, step = self.config, int(self.state.step)
        self.writers.say(self._opening(step))
        if step and self._validates(step) and self.writers.needs_validation(step):
            self.validate(step)  # stopped between its save and its validation
        clock = Clock(config.train.batch_size, config.train.steps)
        clock.start(step)
        batches = parallel.prefetch(self.inputs["train"].training(step), self.mesh)
        with Stop() as stop:
            while step < config.train.steps and not stop.asked:
                train_step = self.train_step(self._frozen(step))
                self.state = train_step(self.state, next(batches), self.rank)
                step += 1
                if step % config.train.log_every == 0:
                    self.log(step, clock)
                if self._saves(step) or stop.asked:
                    self.latest.save(self.state, self.meta)
                if self._validates(step):
                    self.validate(step)
                    clock.start(step)
        self.latest.wait()
        done = step == config.train.steps
        self.writers.say("done" if done else f"stopped at step {step}; saved, start again to go on")
        return done

    def _opening(self, step: int) -> str:
        sizes = ", ".join(f"{len(s)} {name}" for name, s in self.splits.items())
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        return (
            f"{self.config.method} on {self.splits['train'].dataset} ({sizes} images), "
            f"{parameters:,} parameters, {self.mesh.size} {jax.default_backend()} device(s), "
            + (f"going on from step {step}" if step else "from the start")
        )

    def _frozen(self, step: int) -> bool:
        """Whether the backbone rests in the update that follows `step` finished ones."""
        return self.config.backbone.frozen or step < self.config.backbone.unfreeze_step

    @functools.cache  # noqa: B019  a run lives as long as its process
    def train_step(self, frozen: bool) -> Callable[..., TrainState]:
        network = create_network(self.config, self.num_labels, AXIS, frozen)
        return parallel.map_over_devices(
            make_train_step(self.config, network, self.optimizer),
            self.mesh,
            in_specs=(REPLICATED, SPLIT, REPLICATED),
            out_specs=REPLICATED,
            donate=(0,),
        )

    def _saves(self, step: int) -> bool:
        return step % self.config.train.checkpoint_every == 0 or step == self.config.train.steps

    def _validates(self, step: int) -> bool:
        return step % self.config.train.eval_every == 0 or step == self.config.train.steps

    def log(self, step: int, clock: Clock) -> None:
        """Writes the means since the last line and starts new sums."""
        totals = {name: float(value) for name, value in self.state.totals.items()}
        self.state = self.state.replace(totals=jax.tree.map(jnp.zeros_like, self.state.totals))
        images = totals.pop("images")
        values = {f"loss_{name}": total / images for name, total in totals.items()}
        values["loss"] = sum(values.values())
        values["learning_rate"] = float(self.schedule(step - 1))
        rate, left = clock.lap(step)
        self.writers.training(step, values, rate)
        parts = " ".join(f"{name} {total / images:.3f}" for name, total in totals.items())
        self.writers.say(
            f"step {step}/{self.config.train.steps}  loss {values['loss']:.3f} ({parts})  "
            f"lr {values['learning_rate']:.1e}  {rate:.0f} images/s  {left} left"
        )

    def validate(self, step: int) -> None:
        """Finds the figures on the validation split; keeps the state if it is the best yet."""
        (predictions,) = inference.predict_split(
            self.eval_step,
            self.state.variables,
            self.inputs["validation"].evaluation(),
            self.rank,
            [inference.threshold_or_default(self.config.search.threshold)],
            self.mesh,
        )
        figures = results.figures(predictions)
        name = self.config.train.best_figure
        kept = self.best.steps()
        if not kept or figures[name] > self.best.meta(kept[-1])["figures"][name]:
            self.best.save(self.state, {**self.meta, "figures": figures})
            self.best.wait()
        # Last: a line in the log says that all that belongs to this validation is done.
        self.writers.validation(step, figures)
        self.writers.say(
            f"step {step}/{self.config.train.steps}  validation: "
            + "  ".join(f"{n} {figures[n]:.1f}" for n in ("C-F1", "O-F1", "mAP"))
            + f"  loss {figures['loss']:.3f}"
        )

    def close(self) -> None:
        """Waits for what is still being written."""
        self.latest.close()
        self.best.close()
        self.writers.close()


def with_pretrained(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """The state with the backbone's parameters from `config.backbone.weights`, if any."""
    path = config.backbone.weights
    if not path:
        return state
    if config.backbone.name == "mobilenet_v2":
        loaded = weights.load_mobilenet_v2(path)
    else:
        loaded = weights.load_backbone(path, config.backbone.depth)

    def put(into: PyTree, collection: str) -> PyTree:
        return {**into, "backbone": loaded[collection]} if collection in loaded else into

    return state.replace(
        params=put(state.params, "params"),
        batch_stats=put(state.batch_stats, "batch_stats"),
        average=state.average and put(state.average, "params"),
    )
