"""A plan: every step of a run compiled, and what follows of that for memory, time and input."""

import dataclasses
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ml_collections

from attn_lstm.config import validate
from attn_lstm.data.pipeline import Augment
from attn_lstm.plan.compiling import (
    Facts,
    Refused,
    Request,
    compile_step,
    measure_input,
    measure_machine,
)
from attn_lstm.plan.estimate import Bounds, find_bounds, largest_batch
from attn_lstm.plan.sizes import Sizes, find_sizes
from attn_lstm.plan.targets import Target, parse_target
from attn_lstm.rows import create_row


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step that a run repeats.

    Attributes:
      name: for the user; step: as `Request` names it.
      calls: in the whole run; batch: images of a call.
      decodes: images are decoded for it, where others read features.
    """

    name: str
    step: str
    calls: int
    batch: int
    decodes: bool


@dataclasses.dataclass(frozen=True)
class Planned:
    """A stage that was compiled: what it takes, and its least time; or why it is refused."""

    stage: Stage
    facts: Facts | Refused
    bounds: Bounds | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
      config: resolved for the target.
      rate: images/s that a core of this machine decodes.
      largest: images of all devices that a training step has room for; None where that was not
        found.
      record: bytes of an image's kept features, and kept: of how many images; 0 without a cache.
    """

    config: ml_collections.ConfigDict
    target: Target
    sizes: Sizes
    stages: list[Planned]
    rate: float
    largest: int | None
    record: float
    kept: int


def make_plan(
    config: ml_collections.ConfigDict, on: str, say: Callable[[str], None] = lambda _: None
) -> Plan:
    """Compiles the steps of a run for devices that need not be there, and estimates.

    Args:
      config: as docs/config.md lays it out.
      on: as --on names the devices.
      say: gets a line on each thing that takes a while.

    Raises:
      UserError: a mistake in the config or in `on`, or what compiles is not installed.
    """
    target = parse_target(on)
    config = _resolved(config, target)
    validate(config, target.count)
    sizes = find_sizes(config.data)
    if target.device.peak is None:
        say("measuring this machine")
        peak, bandwidth = measure_machine(config.to_dict())
        device = dataclasses.replace(target.device, peak={config.dtype: peak}, bandwidth=bandwidth)
        target = dataclasses.replace(target, device=device)
    stages, kept = _stages(config, sizes)
    rate = math.inf
    if any(stage.decodes for stage in stages):
        say("measuring how fast this machine decodes photographs")
        rate = measure_input(config.to_dict())

    def request(step: str, batch: int) -> Request:
        return Request(step, config.to_dict(), on, sizes.labels, sizes.train, batch)

    def compile_one(step: str, batch: int) -> Facts | Refused:
        say(f"compiling: {step}, {batch} images on {on}")
        return compile_step(request(step, batch))

    asked = {(stage.step, stage.batch) for stage in stages}
    learning = [stage for stage in stages if stage.step == "train"]
    if learning:
        asked |= {("train", batch) for batch in _two_batches(learning[0].batch, target.count)}
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        waiting = {key: pool.submit(compile_one, *key) for key in sorted(asked)}
        compiled = {key: future.result() for key, future in waiting.items()}

    planned = []
    for stage in stages:
        facts = compiled[stage.step, stage.batch]
        seconds = stage.batch / (rate * target.cores) if stage.decodes else 0.0
        limits = None
        if isinstance(facts, Facts):
            limits = find_bounds(facts, target, config.dtype, seconds)
        planned.append(Planned(stage, facts, limits))
    largest = None
    if learning:
        batches = _two_batches(learning[0].batch, target.count)
        both = {batch: compiled["train", batch] for batch in batches}
        points = {n: facts.memory for n, facts in both.items() if isinstance(facts, Facts)}
        if len(points) == len(both):
            largest = largest_batch(points, target)
    record = 0.0
    if kept and isinstance(facts := compiled["encode", config.eval.batch_size], Facts):
        record = facts.returned * target.count / config.eval.batch_size
    return Plan(config, target, sizes, planned, rate, largest, record, kept)


def _resolved(config: ml_collections.ConfigDict, target: Target) -> ml_collections.ConfigDict:
    """The config as it would be resolved on the target."""
    resolved = ml_collections.ConfigDict(config)
    if resolved.dtype == "auto":
        resolved.dtype = "float32" if target.device.platform == "cpu" else "bfloat16"
    if config.data.name != "digits":  # which are made where they are not
        resolved.data.path = config.data.path or "data that are not at hand"
    return resolved.lock()


def _stages(config: ml_collections.ConfigDict, sizes: Sizes) -> tuple[list[Stage], int]:
    """The steps of a run, and how many images' features it keeps."""
    row = create_row(config, sizes.labels, images=sizes.train)
    learns, encoded = row.fit == "descent", row.encoded
    train, evaluate, steps = config.train, config.eval, config.train.steps
    stages, kept = [], 0
    if encoded:
        augmented = Augment.from_config(config.data.augment) != Augment()
        views = config.cache.views if augmented and learns else 1
        kept = views * sizes.train + sizes.validation
        calls = math.ceil(kept / evaluate.batch_size)
        stages.append(Stage("features", "encode", calls, evaluate.batch_size, True))
    if learns:
        resting = 0 if config.backbone.frozen else min(config.backbone.unfreeze_step, steps)
        for name, step, calls in (
            ("training, head alone", "train_frozen", resting),
            ("training", "train", steps - resting),
        ):
            if calls:
                stages.append(Stage(name, step, calls, train.batch_size, not encoded))
    validations = math.ceil(steps / train.eval_every) if learns else 1
    calls = validations * math.ceil(sizes.validation / evaluate.batch_size)
    stages.append(Stage("validation", "evaluate", calls, evaluate.batch_size, not encoded))
    return stages, kept


def _two_batches(batch: int, count: int) -> tuple[int, int]:
    """The batch that is asked for, and one of another size."""
    each = batch // count
    return (batch, each // 2 * count) if each > 1 else (batch, 2 * batch)
