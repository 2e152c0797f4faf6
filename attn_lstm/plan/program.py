"""What `compiling` starts: compiles a step of a run, or measures this machine.

    python -m attn_lstm.plan.program compile|limits|input < QUESTION.json

The question is on standard input, the answer the last line of standard output, both JSON.
"""

import collections
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attn_lstm import parallel
from attn_lstm.data.split import Batch, Split
from attn_lstm.errors import first_line
from attn_lstm.parallel import REPLICATED, SPLIT
from attn_lstm.plan.compiling import MISSING, Facts, Request
from attn_lstm.plan.flops import flops_of
from attn_lstm.plan.hlo import Program
from attn_lstm.plan.limits import measure_limits
from attn_lstm.plan.targets import Target, parse_target
from attn_lstm.rows import Row, create_row
from attn_lstm.runs.features import map_encoder
from attn_lstm.runs.split_pass import map_eval_step
from attn_lstm.runs.state import TrainState, create_state, init_variables, is_averaged
from attn_lstm.training.optimizer import create_optimizer, create_schedule
from attn_lstm.training.step import map_train_step

PyTree = Any

_PHOTOGRAPHS, _SIDES = 64, (480, 640)


def main(what: str) -> None:
    """Answers one question."""
    question = json.load(sys.stdin)
    answers = {"compile": _compile, "limits": _limits, "input": _input}
    print(json.dumps(answers[what](question)))


# ------------------------------------------------------------------------------------- compiling


def _compile(question: dict[str, Any]) -> dict[str, Any]:
    request = Request(**question)
    target = parse_target(request.target)
    try:
        mesh = parallel.make_mesh(find_devices(target))
    except (RuntimeError, ValueError) as error:
        packages = "libtpu" if target.device.platform == "tpu" else "jax-cuda13-plugin"
        return {
            MISSING: f"--on={request.target} needs {packages} of this JAX ({first_line(error)}): "
            "pip install 'attn_lstm[plan]'"
        }
    return compile_for(mesh, request)


def compile_for(mesh: Mesh, request: Request) -> dict[str, Any]:
    """`Facts` of a step over a mesh, or why it is refused, in JSON's types."""
    config = ml_collections.ConfigDict(request.config).lock()
    row = create_row(config, request.labels, images=request.images)
    step, args = _STEPS[request.step](config, row, mesh, request)
    traced = step.trace(*args)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return {"refused": " ".join(str(error).split())[:400]}
    program = Program(compiled.as_text(), trips=config.decoder.max_labels)
    exchanged = program.collectives()
    return dataclasses.asdict(
        Facts(
            flops=flops_of(traced, trips=config.decoder.max_labels),
            bytes=program.bytes(),
            memory=_held(compiled),
            returned=compiled.memory_analysis().output_size_in_bytes,
            sent=sum(each.bytes * each.times for each in exchanged),
            products=dict(collections.Counter(" x ".join(kinds) for kinds in program.products())),
            collectives=dict(collections.Counter(each.opcode for each in exchanged)),
            callbacks=program.callbacks(),
        )
    )


def find_devices(target: Target) -> Sequence[Any]:
    """The devices of a target; CPUs are this machine's, others need not be there."""
    if target.device.platform == "cpu":
        return jax.devices("cpu")[: target.count]
    if target.device.platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=target.topology).devices
    return topologies.get_topology_desc(
        platform="cuda", topology=target.topology, target_config=target.device.description
    ).devices


def _held(compiled: jax.stages.Compiled) -> int:
    """Bytes that a call holds on one device: arguments, results and everything between."""
    memory: Any = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


def _train(
    config: ml_collections.ConfigDict, row: Row, mesh: Mesh, request: Request
) -> tuple[Any, tuple[PyTree, ...]]:
    frozen = config.backbone.frozen or request.step == "train_frozen"
    optimizer = create_optimizer(
        config.optimizer,
        create_schedule(config.optimizer, config.train.steps),
        joins_at=config.backbone.unfreeze_step,
        scale=config.optimizer.backbone_scale,
        resting_blocks=config.backbone.resting_blocks,
    )

    def create() -> TrainState:
        return create_state(
            row.network,
            optimizer,
            config.data.image_size,
            config.seed,
            config.backbone.frozen,
            is_averaged(config),
            row.objective.parts,
        )

    step = map_train_step(config, row, optimizer, mesh, frozen=frozen)
    state = _abstract(jax.eval_shape(create), mesh, REPLICATED)
    return step, (state, _batch(config, row, mesh, request), _rank(request, mesh))


def _evaluate(
    config: ml_collections.ConfigDict, row: Row, mesh: Mesh, request: Request
) -> tuple[Any, tuple[PyTree, ...]]:
    variables = _variables(config, row, mesh)
    threshold = _abstract(jax.ShapeDtypeStruct((1,), jnp.float32), mesh, REPLICATED)
    batch = _batch(config, row, mesh, request)
    return map_eval_step(row, mesh), (variables, batch, _rank(request, mesh), threshold)


def _encode(
    config: ml_collections.ConfigDict, row: Row, mesh: Mesh, request: Request
) -> tuple[Any, tuple[PyTree, ...]]:
    backbone = {
        collection: {"backbone": tree["backbone"]}
        for collection, tree in _variables(config, row, mesh).items()
        if "backbone" in tree
    }
    images = _abstract(_images(config, request.batch), mesh, SPLIT)
    return map_encoder(row.network, mesh, config.cache.dtype), (backbone, images)


_STEPS = {"train": _train, "train_frozen": _train, "evaluate": _evaluate, "encode": _encode}


def _variables(config: ml_collections.ConfigDict, row: Row, mesh: Mesh) -> PyTree:
    shapes = jax.eval_shape(
        lambda: init_variables(row.network, config.data.image_size, jax.random.key(0))
    )
    return _abstract(shapes, mesh, REPLICATED)


def _batch(config: ml_collections.ConfigDict, row: Row, mesh: Mesh, request: Request) -> Batch:
    count = request.batch
    inputs = _images(config, count)
    if row.encoded:
        features = jax.eval_shape(
            lambda x: row.network.init_with_output(jax.random.key(0), x, method="encode")[0], inputs
        )
        inputs = jax.ShapeDtypeStruct(features.shape, config.cache.dtype)
    shapes: dict[str, Any] = {
        "inputs": inputs,
        "labels": jax.ShapeDtypeStruct((count, request.labels), jnp.float32),
        "mask": jax.ShapeDtypeStruct((count,), bool),
        "image_id": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    return _abstract(Batch(**shapes), mesh, SPLIT)


def _images(config: ml_collections.ConfigDict, count: int) -> jax.ShapeDtypeStruct:
    size = config.data.image_size
    return jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)


def _rank(request: Request, mesh: Mesh) -> PyTree:
    return _abstract(jax.ShapeDtypeStruct((request.labels,), jnp.int32), mesh, REPLICATED)


def _abstract(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    """The shapes of a tree, on the devices of a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


# ------------------------------------------------------------------------------------- measuring


def _limits(config: dict[str, Any]) -> dict[str, float]:
    peak, bandwidth = measure_limits(config["dtype"])
    return {"peak": peak, "bandwidth": bandwidth}


def _input(fields: dict[str, Any]) -> dict[str, float]:
    """The rate of the training's own pipeline, on pictures of the size of COCO's and Flickr's."""
    from PIL import Image

    from attn_lstm.data import FileSource, pipeline

    config = ml_collections.ConfigDict(fields)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        small = random.integers(0, 256, (_SIDES[0] // 8, _SIDES[1] // 8, 3), np.uint8)
        picture = Image.fromarray(small).resize(_SIDES[::-1], Image.Resampling.BICUBIC)
        path = Path(folder) / "photograph.jpg"
        picture.save(path, quality=90)
        split = Split(
            dataset="planned",
            name="train",
            label_names=("any",),
            image_ids=tuple(map(str, range(_PHOTOGRAPHS))),
            labels=np.ones((_PHOTOGRAPHS, 1), bool),
            images=FileSource("", [str(path)] * _PHOTOGRAPHS),
        )
        batches = pipeline.train_batches(
            split,
            batch_size=_PHOTOGRAPHS,
            image_size=config.data.image_size,
            resize=config.data.resize,
            augment=pipeline.Augment.from_config(config.data.augment),
            seed=0,
            start_step=0,
            on_bad_image="error",
            process_index=0,
            process_count=1,
        )
        for _ in range(3):  # starts the threads, and empties what they have read ahead
            next(batches)
        start, rounds = time.monotonic(), 0
        while time.monotonic() - start < 3:
            next(batches)
            rounds += 1
        seconds = time.monotonic() - start
    return {"rate": rounds * _PHOTOGRAPHS / seconds / len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    main(sys.argv[1])
