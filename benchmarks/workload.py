"""What the benchmarks time: the paper's network at a size of choice, on random pixels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import traverse_util
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.compilation import compiler_options, with_whole_products
from attn_lstm.config import resolve
from attn_lstm.data.split import Batch
from attn_lstm.plan.flops import matmul_flops
from attn_lstm.rows import Row, create_row
from attn_lstm.runs.state import TrainState, create_state, is_averaged
from attn_lstm.training.optimizer import create_optimizer, create_schedule
from attn_lstm.training.step import map_train_step
from configs import coco

LABELS = 80  # C, COCO's


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a network, its images and its batches."""

    depth: int  # of the ResNet
    image_size: int  # pixels
    batch: int  # images
    units: int  # of the LSTM and of the attention
    steps: int  # T


SIZES = {
    "small": Size(18, 64, 4, 16, 3),  # seconds: to see that a benchmark runs
    "medium": Size(50, 224, 8, 512, 18),  # minutes on 2 cores
    "large": Size(152, 448, 64, 512, 18),  # the paper's network, for an accelerator
}

_SIZE = flags.DEFINE_enum("size", "medium", list(SIZES), "of the network and its input")
_DEPTH = flags.DEFINE_integer("depth", None, "of the ResNet, instead of the size's")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "pixels, instead of the size's")
_BATCH = flags.DEFINE_integer("batch", None, "images, instead of the size's")
_STEPS = flags.DEFINE_integer("steps", None, "labels that are emitted, instead of the size's")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "compute type")
ROUNDS = flags.DEFINE_integer("rounds", 5, "timed calls of each function")


def chosen_size() -> Size:
    """What the flags ask for."""
    given = {
        "depth": _DEPTH.value,
        "image_size": _IMAGE_SIZE.value,
        "batch": _BATCH.value,
        "steps": _STEPS.value,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(SIZES[_SIZE.value], **given)


def configure(size: Size, method: str = "order_free", **fields: Any) -> ml_collections.ConfigDict:
    """A row of `configs/coco.py` at that size, resolved; `fields` as in `backbone__remat=True`.

    The backbone learns, and nothing is dropped, so that others can compute the same numbers.
    """
    config = coco.get_config(method).unlock()
    config.update_from_flattened_dict(
        {
            "backbone.depth": size.depth,
            "backbone.frozen": False,
            "data.image_size": size.image_size,
            "decoder.hidden": size.units,
            "decoder.attention": size.units,
            "decoder.max_labels": size.steps,
            "decoder.dropout": 0.0,
            "train.batch_size": size.batch,
            **{name.replace("__", "."): value for name, value in fields.items()},
        }
    )
    return resolve(config.lock())


def jit(function: Callable[..., Any]) -> Any:
    """As the library has its functions compiled."""
    options = compiler_options(jax.default_backend())
    return jax.jit(with_whole_products(function), compiler_options=options)


def create_variables(config: ml_collections.ConfigDict) -> dict:
    """Random parameters of the config's network, and its batch statistics.

    A residual block adds a tenth of what it would: with statistics that nothing was averaged into
    the features of a ResNet-152 would be as large as 1e8, and its probabilities exactly 0 and 1.
    """
    last = "bn3" if config.backbone.depth >= 50 else "bn2"

    def create() -> dict:
        variables = initial_state(config).variables
        return traverse_util.path_aware_map(
            lambda path, x: 0.1 * x if path[-2:] == (last, "scale") else x, variables
        )

    return jax.jit(create)()


def row_of(config: ml_collections.ConfigDict) -> Row:
    """The config's row for all labels."""
    return create_row(config, LABELS)


def initial_state(config: ml_collections.ConfigDict) -> TrainState:
    """A training that has not begun; pure, to be jitted."""
    row = row_of(config)
    return create_state(
        row.network,
        _optimizer(config),
        config.data.image_size,
        config.seed,
        config.backbone.frozen,
        is_averaged(config),
        row.objective.parts,
    )


class Training:
    """The loop's own step on one batch, again and again: a call is an update, and waits for it.

    Args:
      config: as `configure` makes it.
      batch: images, or in their place features.
    """

    def __init__(self, config: ml_collections.ConfigDict, batch: Batch):
        mesh = parallel.make_mesh()
        state = jax.jit(lambda: initial_state(config))()
        self.state = parallel.replicate(state, mesh)
        self._step = train_step(config, mesh)
        self._inputs = parallel.shard_batch(batch, mesh), parallel.replicate(rank(), mesh)
        self.compiled = self._step.lower(self.state, *self._inputs).compile()

    def __call__(self) -> float:
        """The batch's mean loss before the update."""
        before = self._total()
        self.state = self.compiled(self.state, *self._inputs)
        return (self._total() - before) / len(self._inputs[0].mask)

    def _total(self) -> float:
        """Of the losses of all images so far."""
        return sum(float(x) for name, x in self.state.totals.items() if name != "images")

    def flops(self) -> float:
        """Of one update."""
        return matmul_flops(self._step, self.state, *self._inputs)


def train_step(config: ml_collections.ConfigDict, mesh: Mesh) -> Callable[..., TrainState]:
    """`step(state, batch, rank) -> state` over the mesh, as the loop compiles it."""
    return map_train_step(
        config, row_of(config), _optimizer(config), mesh, frozen=config.backbone.frozen
    )


def _optimizer(config: ml_collections.ConfigDict) -> Any:
    schedule = create_schedule(config.optimizer, config.train.steps)
    return create_optimizer(config.optimizer, schedule, joins_at=0, scale=1.0)


def random_images(count: int, side: int) -> jax.Array:
    """uint8[count,side,side,3]."""
    random = np.random.default_rng(0)
    return jnp.asarray(random.integers(0, 256, (count, side, side, 3), np.uint8))


def random_features(count: int, regions: int, width: int, dtype: str = "float16") -> jax.Array:
    """[count,regions,width], not negative, as a backbone's last layer makes them."""
    random = np.random.default_rng(0)
    features = random.standard_normal((count, regions, width), np.float32)
    return jnp.asarray(np.maximum(features, 0), dtype)


def with_labels(images: jax.Array) -> Batch:
    """A batch of these images, or features, with some 3 labels each."""
    count = len(images)
    labels = np.random.default_rng(1).random((count, LABELS)) < 3 / LABELS
    return Batch(
        inputs=images,
        labels=jnp.asarray(labels, jnp.float32),
        mask=jnp.ones(count, bool),
        image_id=jnp.arange(count),
    )


def rank() -> jax.Array:
    """int32[C]; the order-free rows do not look at it."""
    return jnp.arange(LABELS)
