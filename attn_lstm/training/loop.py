"""The run: batch → step → log → save → validate, until the last step."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from attn_lstm import downloads, parallel, process, progress, remote, storage, weights
from attn_lstm.config import PLACES, resolve, used, validate
from attn_lstm.data import load_split
from attn_lstm.data.split import Split
from attn_lstm.data.statistics import label_statistics
from attn_lstm.errors import UserError
from attn_lstm.fields import flatten
from attn_lstm.measures import summary, thresholds
from attn_lstm.ordering import frequency_rank
from attn_lstm.parallel import REPLICATED
from attn_lstm.rows import create_row
from attn_lstm.runs import split_pass, workdir
from attn_lstm.runs.checkpoint import Checkpoints
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.state import TrainState, create_state, is_averaged
from attn_lstm.training import nonfinite
from attn_lstm.training.console import Clock, Console, Progress, device_memory
from attn_lstm.training.descent import Descent
from attn_lstm.training.fit import Fit, Pieces
from attn_lstm.training.memorise import Memory
from attn_lstm.training.optimizer import create_optimizer, create_schedule
from attn_lstm.training.samples import Samples
from attn_lstm.training.step import permitted_to_leave_out
from attn_lstm.training.stop import Stop, Stopped
from attn_lstm.training.writers import Writers

PyTree = Any


def train(config: ml_collections.ConfigDict, directory: Path, mesh: Mesh) -> bool:
    """Trains a config in a work directory, going on from what is there.

    Args:
      config: as `fields.default_config` lays it out.
      directory: the work directory; made when missing.
      mesh: of all devices.

    Returns:
      True when the last step is done, False when SIGTERM or SIGINT stopped it (all is saved).

    Raises:
      UserError: a mistake in the config, the data or the directory.
    """
    with Stop() as stop:
        try:
            return _train(resolve(config), directory, mesh, stop)
        except Stopped:
            if parallel.is_first_host():
                print(process.BEFORE_A_STEP, flush=True)
            return False


def _train(config: ml_collections.ConfigDict, directory: Path, mesh: Mesh, stop: Stop) -> bool:
    with contextlib.ExitStack() as stack:
        with parallel.agreed():
            validate(config, mesh.size)
            check_held = _hold_nothing
            if parallel.is_first_host():
                check_held = stack.enter_context(workdir.lock(directory))
            with progress.doing("reading the data set"):
                splits = load_splits(config.data)
            if parallel.is_first_host():
                workdir.save_config(directory, config)
        _check_shared(config, directory, splits)
        stop.check()
        with progress.doing("making the network"):
            run = Run(config, directory, mesh, splits, stop, check_held)
        try:
            done = run.go()
        except BaseException:
            # Of several hosts the others would not come to wait for each other here.
            if jax.process_count() == 1:
                run.close()
            raise
        run.close()
        return done


def load_splits(data_config: ml_collections.ConfigDict) -> dict[str, Split]:
    """What a run trains and validates on, with the labels of the training split in both."""
    train, validation = (load_split(data_config, name) for name in ("train", "validation"))
    names = train.label_names
    return {"train": train, "validation": validation.with_labels(names, "the train split")}


def _check_shared(
    config: ml_collections.ConfigDict, directory: Path, splits: dict[str, Split]
) -> None:
    """Checks that all hosts do the same, on the same data, in one work directory.

    Raises:
      UserError: on all hosts.
    """
    fields = sorted((name, repr(value)) for name, value in flatten(config) if name not in PLACES)
    fingerprints = {f"{name} split": split.fingerprint for name, split in splits.items()}
    parallel.check_same(
        {"config": hashlib.sha256(repr(fields).encode()).hexdigest(), **fingerprints}
    )
    with parallel.agreed():
        if not (directory / workdir.CONFIG).exists():
            raise UserError(
                f"{directory} is not the folder that process 0 writes to: give all processes a "
                "--workdir that they share"
            )


def label_table(split: Split) -> workdir.LabelTable:
    """What the run must remember of its training split."""
    counts = tuple(int(n) for n in split.labels.sum(axis=0))
    partial = split.known is not None
    return workdir.LabelTable(split.dataset, split.label_names, counts, len(split), partial)


def _hold_nothing() -> None:
    """For who has no lock on the work directory: another host, or a run that nobody disturbs."""


FITS: dict[str, type[Fit]] = {"descent": Descent, "memory": Memory}  # by `heads.Head.fit`


class Run:
    """The pieces of one run, and its loop."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        directory: Path,
        mesh: Mesh,
        splits: dict[str, Split],
        stop: Stop | None = None,
        check_held: Callable[[], None] = _hold_nothing,
    ):
        self.config, self.directory, self.mesh, self.splits = config, directory, mesh, splits
        self.stop = stop or Stop()  # one that is not entered hears nothing
        self.check_held = check_held  # as `workdir.lock` yields it
        table = label_table(splits["train"])
        self.rank = frequency_rank(jnp.asarray(table.counts))
        self.schedule = create_schedule(config.optimizer, config.train.steps)
        self.optimizer = create_optimizer(
            config.optimizer,
            self.schedule,
            joins_at=config.backbone.unfreeze_step,
            # A backbone that starts from random parameters learns as fast as the head.
            scale=config.optimizer.backbone_scale if config.backbone.weights else 1.0,
            resting_blocks=config.backbone.resting_blocks,
        )
        self.row = create_row(config, len(table.names), images=table.images, partial=table.partial)
        self.fit = FITS[self.row.fit]
        self.last_step = self.fit.last_step(config)
        self.eval_step = split_pass.map_eval_step(self.row, mesh)
        data = {
            "dataset": table.dataset,
            "labels": list(table.names),
            "fingerprint": splits["train"].fingerprint,
        }
        self.meta = {**data, "config": dict(flatten(config))}

        def create() -> TrainState:
            return create_state(
                self.row.network,
                self.optimizer,
                config.data.image_size,
                config.seed,
                config.backbone.frozen,
                is_averaged(config),
                self.row.objective.parts,
            )

        folder = directory / "checkpoints"
        self.latest = Checkpoints(folder / "latest", config.train.keep, check_held=check_held)
        self.best = Checkpoints(folder / "best", keep=1, needed=False, check_held=check_held)
        steps = self.latest.steps()
        with parallel.agreed():
            if steps:
                self.latest.check_meta(steps[-1], data)
                workdir.check_config(directory, self.latest.meta(steps[-1]).get("config"))
            if parallel.is_first_host():
                workdir.save_labels(directory, table)
                statistics = {name: label_statistics(split) for name, split in splits.items()}
                storage.write_json(directory / workdir.STATISTICS, statistics)
        if steps:
            self.state = self.latest.restore_state(steps[-1], jax.eval_shape(create), mesh)
        else:
            replicated = jax.sharding.NamedSharding(mesh, REPLICATED)
            state = jax.jit(create, out_shardings=replicated)()
            with parallel.agreed():
                state = with_pretrained(config, state)
            self.state = parallel.replicate(state, mesh)
        self.left_out = int(self.state.left_out.count)
        first = parallel.is_first_host()
        self.console = Console(self.last_step, active=first)
        with parallel.agreed():
            self.writers = Writers(
                directory, int(self.state.step), active=first, fields=used(config)
            )
        self.samples = Samples(config, splits["validation"], self.console.say)
        self.inputs = {
            name: Inputs(
                config,
                self.row,
                split,
                self.state.variables,
                directory,
                views=self.fit.views(config) if name == "train" else 1,
                say=self.console.say,
                check=self.stop.check,
            )
            for name, split in splits.items()
        }

    def go(self) -> bool:
        """Runs to the last step, or until a signal asks to stop; True for the former.

        Raises:
          Stopped: the signal came before the first step.
          UserError: as `train`.
        """
        step = int(self.state.step)
        with self.console.moving(step):
            return self._go(step)

    def _go(self, step: int) -> bool:
        config = self.config
        self.console.say(self._opening(step))
        self.check()
        if (
            step
            and self._validates(step)
            and parallel.from_first_host(self.writers.needs_validation(step))
        ):
            self.validate(step)  # stopped between its save and its validation
        clock, paces = Clock(config.train.batch_size, config.train.steps), False
        update = self.start(step)
        if step < self.last_step and self.stop.asked():
            raise Stopped
        asked = False
        while step < self.last_step and not asked:
            self.state = update(self.state, step)
            step += 1
            if not paces:  # the first update compiled
                jax.block_until_ready(self.state.step)
                clock.start(step)
                paces = self.stop.saves = True
            self.console.advance(step)
            asked = self.stop.asked()
            saves, validates = asked or self._saves(step), self._validates(step)
            logs = step % config.train.log_every == 0
            if logs or saves or validates:
                self.check_held()
                self.check()
            if logs:
                self.log(step, clock)
            elif self.console.is_stale():
                self.console.renew(step, self.progress(step, clock))
            if saves or validates:
                clock.stop()
                if saves:
                    self.latest.save(self.state, self.meta)
                if validates:
                    self.validate(step)
                clock.start(step)
        self.latest.wait()
        self.check_held()
        if parallel.is_first_host():
            workdir.add_seconds(self.directory, clock.seconds)
        self.latest.read_back(self.state, self.mesh)
        self.best.read_back(self.state, self.mesh)
        done = step == self.last_step
        if done:
            self.writers.finished()
        self.console.say("done" if done else f"stopped at step {step}; saved, start again to go on")
        return done

    def start(self, step: int) -> Fit:
        """The updates from `step` finished ones on."""
        pieces = Pieces(
            self.config,
            self.row,
            self.optimizer,
            self.mesh,
            self.splits,
            self.inputs,
            self.rank,
            say=self.console.say,
            check=self.stop.check,
        )
        return self.fit(pieces, step)

    def _opening(self, step: int) -> str:
        sizes = ", ".join(f"{len(s)} {name}" for name, s in self.splits.items())
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        return (
            f"{self.config.method} on {self.splits['train'].dataset} ({sizes} images), "
            f"{parameters:,} parameters, {self.mesh.size} {jax.default_backend()} device(s)"
            + (f" of {jax.process_count()} processes, " if jax.process_count() > 1 else ", ")
            + (f"going on from step {step}" if step else "from the start")
        )

    def _saves(self, step: int) -> bool:
        return step % self.config.train.checkpoint_every == 0 or step == self.last_step

    def _validates(self, step: int) -> bool:
        return step % self.config.train.eval_every == 0 or step == self.last_step

    def check(self) -> None:
        """Reports the last update that was left out, if there is a new one.

        Raises:
          UserError: on all hosts; more are left out than the run may leave out.
        """
        count, permitted = int(self.state.left_out.count), permitted_to_leave_out(self.config)
        if count == self.left_out and count <= permitted:
            return
        self.left_out = count
        step = int(self.state.left_out.step)
        images = self.inputs["train"].training_images(step - 1)
        report = nonfinite.describe(self.state.left_out, self.schedule, images)
        path = self.directory / f"nonfinite-{step}.json"
        if parallel.is_first_host():
            storage.write_json(path, report)
        names = ", ".join(report["not_finite"])
        what = f"not finite in update {step}: {names} (see {remote.shown(path)})"
        if count <= permitted:
            self.console.say(f"{what}; left out, {count} so far")
            return
        self.latest.wait()
        if permitted:
            what = f"{count} updates left out of {permitted} permitted; {what}"
            again = f"config.train.max_skipped above {permitted}"
        else:
            again = "config.train.on_nonfinite=skip to leave such updates out"
        raise UserError(
            f"{what}; look at the images of its batch, lower config.optimizer.learning_rate or "
            f"give config.optimizer.clip_norm in another --workdir, or go on with {again}"
        )

    def progress(self, step: int, clock: Clock) -> Progress:
        """What is known after so many updates; waits for the devices."""
        totals = {name: float(value) for name, value in self.state.totals.items()}
        images = totals.pop("images")
        means = {name: total / images for name, total in totals.items() if images}
        learning_rate = float(self.schedule(max(0, step - 1 - self.left_out)))
        epoch = step * self.config.train.batch_size / len(self.splits["train"])
        return Progress(epoch, means, learning_rate, *clock.pace(step), device_memory())

    def log(self, step: int, clock: Clock) -> None:
        """Writes the means since the last line and starts new sums."""
        known = self.progress(step, clock)
        self.state = self.state.replace(totals=jax.tree.map(jnp.zeros_like, self.state.totals))
        values = {f"loss_{name}": mean for name, mean in known.losses.items()}
        if values:
            values["loss"] = sum(values.values())
        values["learning_rate"] = known.learning_rate
        if self.config.train.on_nonfinite == "skip":
            values["left_out"] = self.left_out
        self.writers.training(step, values, known.rate)
        self.console.report(step, known)

    def validate(self, step: int) -> None:
        """Finds the figures on the validation split; keeps the state if it is the best yet."""
        doing = f"step {step}/{self.last_step}  validating"
        with progress.doing(doing):
            predictions, maps = split_pass.predict_with_maps(
                self.eval_step,
                self.state.variables,
                self.inputs["validation"].evaluation(doing),
                self.rank,
                thresholds.threshold_or_default(self.config.search.threshold),
                self.mesh,
            )
            figures = summary.figures(predictions, self.splits["validation"].label_names)
            name = self.config.train.best_figure
            kept = self.best.steps()
            if not kept or figures[name] > self.best.meta(kept[-1])["figures"][name]:
                self.best.save(self.state, {**self.meta, "figures": figures})
                self.best.wait()
            first = parallel.is_first_host()
            pictures = self.samples.draw(predictions, maps) if first else {}
        top3 = {f"top-3/{name}": value for name, value in summary.top3_figures(predictions).items()}
        # Last: a line in the log says that all that belongs to this validation is done.
        self.writers.validation(step, {**figures, **top3}, pictures)
        self.console.say(
            f"step {step}/{self.last_step}  validation: "
            + "  ".join(f"{n} {figures[n]:.1f}" for n in ("C-F1", "O-F1", "mAP"))
            + (f"  loss {figures['loss']:.3f}" if self.row.objective.parts else "")
        )

    def close(self) -> None:
        """Waits for what is still being written."""
        self.latest.close()
        self.best.close()
        self.writers.close()


def with_pretrained(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
    """The state with the backbone's parameters from `config.backbone.weights`, if any."""
    if not config.backbone.weights:
        return state
    path = downloads.on_disk(config.backbone.weights)
    if config.backbone.name == "mobilenet_v2":
        loaded = weights.load_mobilenet_v2(path)
    elif config.backbone.preset:
        loaded = weights.load_preset(path, config.backbone.preset)
    else:
        loaded = weights.load_backbone(path, config.backbone.depth)

    def put(into: PyTree, collection: str) -> PyTree:
        return {**into, "backbone": loaded[collection]} if collection in loaded else into

    return state.replace(
        params=put(state.params, "params"),
        collections={
            **state.collections,
            "batch_stats": put(state.collections["batch_stats"], "batch_stats"),
        },
        average=state.average and put(state.average, "params"),
    )
