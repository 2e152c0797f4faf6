"""`compare.py`'s work: train and evaluate every method with every seed, and write the tables."""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel, storage
from attn_lstm.config import resolve, validate
from attn_lstm.errors import UserError
from attn_lstm.evaluation import evaluate
from attn_lstm.evaluation import trials as trial_runs
from attn_lstm.fields import flatten
from attn_lstm.measures import bootstrap, summary
from attn_lstm.measures.bootstrap import Difference, Resampled
from attn_lstm.reports import seeds_table
from attn_lstm.reports.seeds_table import Compared, Finished
from attn_lstm.reports.tables import COLUMNS, PUBLISHED
from attn_lstm.runs import workdir
from attn_lstm.training.loop import train
from attn_lstm.training.stop import Stop

ROW = "row.json"  # of a run that is finished


def compare(
    configs: Mapping[str, ml_collections.ConfigDict],
    directory: Path,
    seeds: int,
    mesh: Mesh,
    reference: str | None = None,
    trials: int = 1,
) -> bool:
    """Finishes what is not finished yet and writes DIRECTORY/table.{md,csv,json} after each run.

    A run lies in DIRECTORY/METHOD/seed-SEED, a work directory as `train.py` makes it. Its τ is
    chosen on the validation split, where its config leaves it open, and its best checkpoint is
    evaluated on the test split. All runs share the features of a frozen backbone, and methods that
    differ in their search alone the training of the first of them, with its best checkpoint.

    Args:
      configs: of each method, unresolved, with the first seed.
      directory: of the comparison; made when missing.
      seeds: N; the seeds are the config's and the N - 1 behind it.
      mesh: of all devices.
      reference: the method that all others are compared with; None for the one that
        `reports.seeds_table.reference_of` names.
      trials: of each row, by which `evaluation.trials` chooses its settings first; 1 for none.

    Returns:
      True when all is done, False when SIGTERM or SIGINT stopped it (all is saved).

    Raises:
      UserError: a mistake in a config, the data, or a run of another config in the directory;
        found before anything is trained.
    """
    if reference is not None and reference not in configs:
        raise UserError(
            f"--reference={reference} is no row of the table; choose one of: {', '.join(configs)}"
        )
    configs = {method: _sharing(config, directory) for method, config in configs.items()}
    if trials > 1:
        chosen = _chosen(configs, directory, trials, mesh)
        if chosen is None:
            return False
        configs = chosen
    plan = list(_plan(configs, directory, seeds))
    with parallel.agreed():
        for config, run in plan:
            validate(config, mesh.size)
            if (run / workdir.CONFIG).exists():
                workdir.save_config(run, config)
    trained: dict[str, Path] = {}  # what a run learns -> the first that does
    finished: list[Finished] = []  # known to the host that writes
    draws = Draws()
    with Stop() as stop:
        for config, run in plan:
            source = trained.setdefault(_training_of(config), run)
            if stop.asked():  # while the run before was evaluated
                if parallel.is_first_host():
                    print("stopped between two runs; start again to go on", flush=True)
                return False
            with parallel.agreed():
                done = parallel.is_first_host() and _is_finished(run)
            if not parallel.from_first_host(done):
                if parallel.is_first_host():
                    print(f"== {config.method}, seed {config.seed}", flush=True)
                if not _finish(config, run, source, mesh):
                    return False
            with parallel.agreed():
                if parallel.is_first_host():
                    finished.append(_read(run / ROW))
                    draws.add(finished[-1], run)
                    dataset = workdir.load_labels(run).dataset
                    _write_tables(finished, draws, reference, dataset, directory)
    if parallel.is_first_host():
        print((directory / "table.md").read_text(encoding="utf-8"), flush=True)
    return True


def _sharing(config: ml_collections.ConfigDict, directory: Path) -> ml_collections.ConfigDict:
    """The config with one place for the features of all runs."""
    changed = config.copy_and_resolve_references().unlock()
    changed.cache.path = config.cache.path or str(directory / "features")
    return changed.lock()


def _chosen(
    configs: Mapping[str, ml_collections.ConfigDict], directory: Path, count: int, mesh: Mesh
) -> dict[str, ml_collections.ConfigDict] | None:
    """The configs with what trials chose; None when a signal stopped them."""
    with parallel.agreed():
        for config in configs.values():
            validate(resolve(config), mesh.size)
    chosen = {}
    for method, config in configs.items():
        settled = trial_runs.choose(config, directory / method, count, mesh)
        if settled is None:
            return None
        chosen[method] = settled
    return chosen


def _plan(
    configs: Mapping[str, ml_collections.ConfigDict], directory: Path, seeds: int
) -> Iterator[tuple[ml_collections.ConfigDict, Path]]:
    """Resolved configs and their work directories; every method once before the next seed."""
    for number in range(seeds):
        for method, config in configs.items():
            changed = config.copy_and_resolve_references().unlock()
            changed.seed = config.seed + number
            yield resolve(changed), directory / method / f"seed-{changed.seed}"


def _is_finished(run: Path) -> bool:
    """Whether the run's row and the predictions it was counted from are there."""
    return (run / ROW).exists() and _predictions(run, _read(run / ROW)).exists()


def _predictions(run: Path, row: Finished) -> Path:
    return run / "eval" / f"test-{row.step}.npz"


def _training_of(config: ml_collections.ConfigDict) -> str:
    """What the parameters come from: all but how labels are decided on, and the row's name."""
    return repr([x for x in sorted(flatten(config)) if workdir.is_learned(x[0])])


def _finish(config: ml_collections.ConfigDict, run: Path, source: Path, mesh: Mesh) -> bool:
    """Trains, tunes and evaluates one run; False when a signal stopped it.

    Args:
      config: of the run; run: its directory.
      source: the finished run whose training it shares, or itself.
      mesh: of all devices.
    """
    with parallel.agreed():
        if parallel.is_first_host() and source != run and not (run / workdir.CONFIG).exists():
            _share(source, run, config)
    if not (run / workdir.TRAINED_AS).exists() and not train(config, run, mesh):
        return False
    if config.search.threshold < 0 and not config.search.top_k:
        evaluate.tune(config, run, "best", "validation", mesh)
    result = evaluate.evaluate(config, run, "best", "test", mesh)
    with parallel.agreed():
        if parallel.is_first_host():
            storage.write_json(run / ROW, dataclasses.asdict(_finished(config, run, result)))
    # The next run compiles other functions; those of this one would only take memory.
    jax.clear_caches()
    return True


def _share(source: Path, run: Path, config: ml_collections.ConfigDict) -> None:
    """Makes a work directory that has learned what another has, of files that are there once."""
    folder = "checkpoints"
    with storage.writing(run):
        shutil.rmtree(run / folder, ignore_errors=True)  # of a call that was killed
        shutil.copytree(source / folder, run / folder, copy_function=_link)
        for name in (workdir.LABELS, workdir.STATISTICS, workdir.SECONDS):
            shutil.copyfile(source / name, run / name)
    storage.write_json(run / workdir.TRAINED_AS, {"run": os.path.relpath(source, run)})
    workdir.save_config(run, config)  # at last: it says that the directory is whole


def _link(source: str, copy: str) -> None:
    """Checkpoints are never changed, so that two runs can have one file; else it is copied."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _finished(config: ml_collections.ConfigDict, run: Path, result: Mapping[str, Any]) -> Finished:
    return Finished(
        method=config.method,
        seed=config.seed,
        figures={name: result[name] for name in (*COLUMNS, "macro-F1")},
        top3=result["top-3"],
        threshold=result["threshold"],
        step=result["step"],
        parameters=result["parameters"],
        seconds=workdir.load_seconds(run),
        looking=seeds_table.looking_figures(result),
        trained_as=_trained_as(run),
    )


def _trained_as(run: Path) -> str | None:
    """The row whose training the run shares, if it does."""
    path = run / workdir.TRAINED_AS
    return (run / storage.read_json(path)["run"]).resolve().parent.name if path.exists() else None


def _read(path: Path) -> Finished:
    try:
        return Finished(**storage.read_json(path))
    except TypeError:
        raise UserError(
            f"{path} is not a row of this program: remove it, and the run is evaluated again"
        ) from None


class Draws:
    """The figures of every run on the same resamples of the test images."""

    def __init__(self) -> None:
        self.images = 0  # N
        self._truth: np.ndarray | None = None
        self._known: np.ndarray | None = None
        self._of: dict[tuple[str, int], Resampled] = {}  # by method and seed

    def add(self, row: Finished, run: Path) -> None:
        """Resamples a finished run.

        Raises:
          UserError: its predictions are damaged, of other images than those of the runs before, or
            not those that its row was counted from.
        """
        path = _predictions(run, row)
        labels, scores, truth, known = summary.read_npz(path)
        again = f"remove {run / ROW}, and the run is evaluated again"
        if self._truth is None:
            self._truth, self._known, self.images = truth, known, len(truth)
        if not (_equal(truth, self._truth) and _equal(known, self._known)):
            raise UserError(f"{path} is of other test images than the runs before it: {again}")
        resampled = bootstrap.resample(labels, scores, truth, known=known)
        figures = [row.figures[name] for name in bootstrap.FIGURES]
        if not np.allclose(resampled.observed, figures, rtol=1e-5, atol=0):
            raise UserError(f"{path} is of another evaluation than the run's row: {again}")
        self._of[row.method, row.seed] = resampled

    def differences(
        self, finished: Sequence[Finished], reference: str
    ) -> dict[str, dict[str, Difference]]:
        """The reference less each other row that shares a seed with it, by figure."""
        methods = seeds_table.by_method(finished)
        result = {}
        for other in methods:
            pairs = seeds_table.shared(methods, reference, other)
            if other == reference or not pairs:
                continue
            sides = zip(*pairs, strict=True)
            first, second = ([self._of[run.method, run.seed] for run in runs] for runs in sides)
            result[other] = bootstrap.differences(first, second)
        return result


def _equal(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _write_tables(
    finished: list[Finished], draws: Draws, reference: str | None, dataset: str, directory: Path
) -> None:
    published = PUBLISHED.get(dataset, {})
    if reference not in {run.method for run in finished}:
        reference = seeds_table.reference_of(finished)
    compared = Compared(reference, draws.images, draws.differences(finished, reference))
    storage.write_text(directory / "table.md", seeds_table.markdown(finished, published, compared))
    storage.write_text(directory / "table.csv", seeds_table.table_csv(finished))
    storage.write_json(
        directory / "table.json", seeds_table.table_json(finished, published, compared)
    )
