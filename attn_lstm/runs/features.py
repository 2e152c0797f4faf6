"""Features of a frozen backbone, computed once for each image and kept on disk."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel, progress
from attn_lstm.data.split import Batch, Split
from attn_lstm.errors import UserError
from attn_lstm.models.network import Network
from attn_lstm.parallel import REPLICATED, SPLIT

if TYPE_CHECKING:
    from attn_lstm.data.feature_store import FeatureStore

# To be raised when the same key no longer stands for the same features.
_VERSION = 3
_SHARD_ROWS = 512  # what is lost by a stop, and held in memory until it is written

_Features = np.ndarray | None  # [K,D] of an image, None of one that could not be read


def ensure_features(
    config: ml_collections.ConfigDict,
    network: Network,
    variables: dict[str, Any],
    split: Split,
    root: Path,
    *,
    views: int,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> tuple[FeatureStore, ...]:
    """The features of a split, computed as far as they are not kept yet.

    Shards are dealt out to the hosts; each computes its own on its own devices, and all wait for
    each other at the end. A stop on the way loses no finished shard.

    Args:
      config: resolved; `data`, `backbone`, `cache.dtype`, `eval.batch_size` (images computed at
        once on all devices), `seed` (of augmented views) and `data.on_bad_image` are used.
      network: its backbone, preprocessing and compute type make the features.
      variables: its parameters, of which only the backbone's are used.
      split: N images.
      root: folder of the stores, the same one on all hosts.
      views: at least 1, the plain view and augmented ones behind it. Where the config augments
        nothing, all views are the plain one and it is kept once.
      say: gets a line on what is computed.
      check: called for each image; ends the computation by what it raises.

    Returns:
      A complete store for each view.

    Raises:
      UserError: an image that cannot be read (unless they are skipped), a damaged store, a folder
        that cannot be written or is too small, or features that the type cannot hold.
    """
    from attn_lstm.data.feature_store import open_store
    from attn_lstm.data.pipeline import Augment, view_batches

    augment = Augment.from_config(config.data.augment)
    views = 1 if augment == Augment() else views
    backbone = jax.device_get(
        {
            collection: {"backbone": tree["backbone"]}
            for collection, tree in variables.items()
            if "backbone" in tree
        }
    )
    with parallel.agreed():
        key = _key(config, network, backbone, split)
        randomness = {**dataclasses.asdict(augment), "seed": config.seed}
        stores = tuple(
            open_store(root, {**key, "view": view, "augment": randomness if view else None})
            for view in range(views)
        )
        missing = [store.missing() for store in stores]
        _check_space(root, stores, missing)
        mesh = parallel.make_mesh(jax.local_devices())
        size = parallel.divisible(config.eval.batch_size, jax.device_count())
        encode = functools.partial(
            map_encoder(network, mesh, config.cache.dtype), parallel.replicate(backbone, mesh)
        )
        for view, (store, shards) in enumerate(zip(stores, missing, strict=True)):
            mine = [s for s in shards if s % jax.process_count() == jax.process_index()]
            if not mine:
                continue
            rows = np.concatenate([store.rows_of(shard) for shard in mine])
            name = f"features of {split.name}" + (f", view {view + 1}/{views}" * (views > 1))
            say(f"{name}: computing {len(rows)} of {len(split)} images into {store.folder}")
            batches = view_batches(
                split,
                rows,
                batch_size=size * mesh.size // jax.device_count(),
                image_size=config.data.image_size,
                resize=config.data.resize,
                augment=augment if view else Augment(),
                seed=config.seed,
                epoch=view,
                on_bad_image=config.data.on_bad_image,
                max_pixels=config.data.max_pixels,
            )
            computed = _reported(_computed(encode, batches, mesh), len(rows), name, check)
            for shard in mine:
                store.write(shard, list(itertools.islice(computed, len(store.rows_of(shard)))))
    with parallel.agreed():
        for store in stores:
            if absent := store.missing():
                raise UserError(
                    f"{store.path(absent[0])} is missing, though a host has written it: "
                    "config.cache.path must be one folder that all hosts share"
                )
    return stores


def _key(
    config: ml_collections.ConfigDict, network: Network, backbone: dict[str, Any], split: Split
) -> dict[str, Any]:
    """All that the plain features of a split depend on."""
    from attn_lstm.data.feature_store import pixel_digest

    size = config.data.image_size
    features = jax.eval_shape(
        functools.partial(network.apply, method="encode"),
        backbone,
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
    )
    return {
        "version": _VERSION,
        "dataset": split.dataset,
        "split": split.name,
        "images": len(split),
        "fingerprint": split.fingerprint,
        "pixels": pixel_digest(split),
        "image_size": size,
        "resize": config.data.resize,
        "mean": list(network.preprocessing.mean),
        "std": list(network.preprocessing.std),
        "backbone": config.backbone.name,
        "depth": config.backbone.depth if config.backbone.name == "resnet" else None,
        **({"preset": config.backbone.preset} if config.backbone.preset else {}),
        "parameters": _digest(backbone),
        "compute_dtype": jnp.dtype(network.dtype).name,
        "shape": list(features.shape[1:]),
        "dtype": config.cache.dtype,
        "shard_rows": _SHARD_ROWS,
    }


def _digest(tree: Any) -> str:
    """SHA-256 (hex) over the names, shapes and values of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        # An optimizer that adds 0 to a resting parameter turns -0 into 0.
        digest.update((array + np.zeros_like(array)).tobytes())
    return digest.hexdigest()


def _check_space(root: Path, stores: Iterable[FeatureStore], missing: Iterable[list[int]]) -> None:
    """Raises `UserError` if what is missing does not fit on the disk."""
    needed = sum(
        len(store.rows_of(shard)) * store.record_bytes
        for store, shards in zip(stores, missing, strict=True)
        for shard in shards
    )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"the features need {needed / 1e9:.1f} GB, but {root} has {free / 1e9:.1f} GB left: "
            "give another folder with config.cache.path, fewer config.cache.views, or "
            "config.cache.views=0 to keep none"
        )


def map_encoder(
    network: Network, mesh: Mesh, dtype: str
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """`encode(variables, uint8[B,H,W,3]) -> [B,K,D]` of type `dtype`, compiled over the mesh."""

    def encode(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        return network.apply(variables, images, method="encode").astype(dtype)

    return parallel.map_over_devices(encode, mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT)


def _computed(
    encode: Callable[[jax.Array], jax.Array], batches: Iterable[Batch], mesh: Mesh
) -> Iterator[_Features]:
    """The features of the rows of the batches, in order, without the padding."""
    running = (
        (batch.image_id, batch.mask, encode(batch.inputs))
        for batch in parallel.prefetch(batches, mesh)
    )
    # The devices compute a batch while the one before it is taken from them and written.
    queue = deque(itertools.islice(running, 2))
    while queue:
        rows, mask, features = map(np.asarray, queue.popleft())
        queue.extend(itertools.islice(running, 1))
        if not np.isfinite(features[mask]).all():
            raise UserError(
                f"features beyond the range of {features.dtype}: give config.cache.dtype=float32; "
                "if that says the same, config.backbone.weights are not fit for their network"
            )
        for row, good, feature in zip(rows.tolist(), mask.tolist(), features, strict=True):
            if row >= 0:
                yield feature if good else None


def _reported(
    features: Iterable[_Features], total: int, name: str, check: Callable[[], None]
) -> Iterator[_Features]:
    """The same, with their number on the line that moves, and `check` each time."""
    with progress.doing(name, total) as shown:
        for done, feature in enumerate(features, 1):
            check()
            shown.advance(done)
            yield feature
