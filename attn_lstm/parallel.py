"""One mesh over all devices of all hosts, steps mapped over it, and what hosts agree on."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from attn_lstm.compilation import compiler_options, with_whole_products
from attn_lstm.errors import UserError

AXIS = "batch"
SPLIT = PartitionSpec(AXIS)
SPLIT_SECOND = PartitionSpec(None, AXIS)
REPLICATED = PartitionSpec()

_MESSAGE_BYTES = 2048

PyTree = Any
T = TypeVar("T")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh 'batch' over `devices`, by default all devices of all hosts.

    They stand in the order of (process, id), so that each host's rows of a batch lie together, in
    the place that they have on a single host: random orders and dropout are then the same.
    `jax.make_mesh` would interleave the hosts of larger TPU slices, to save the network some way.

    Raises:
      UserError: the devices belong to several processes that are not connected.
    """
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"this process is one of {jax.process_count()} that share a TPU slice, and is not "
            "connected with the others: start train.py, eval.py or compare.py on all of its hosts "
            "with --distributed, or set TPU_PROCESS_BOUNDS and TPU_CHIPS_PER_PROCESS_BOUNDS to use "
            "this host alone, as docs/clusters.md says"
        )
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def devices_named(device: str | jax.Device) -> list[jax.Device]:
    """Devices of this host: all of a kind ('cpu', 'gpu', 'cuda', 'tpu'), or one ('cuda:1').

    Raises:
      UserError: this host has none of that name.
    """
    if isinstance(device, jax.Device):
        return [device]
    kind, colon, place = device.partition(":")
    try:
        devices = jax.local_devices(backend=kind)
        return [devices[int(place)]] if colon else devices
    except (RuntimeError, IndexError, ValueError):
        kinds = sorted({"cpu", *(each.platform for each in jax.local_devices())})
        raise UserError(
            f"device={device!r}: this host has none of that name; its kinds are "
            f"{', '.join(kinds)}, and '{kinds[0]}:0' is the first of its kind"
        ) from None


def divisible(rows: int, devices: int) -> int:
    """The next number of rows that divides over the devices."""
    return rows + -rows % devices


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Places this host's rows of a batch on its devices: leaves [B_host,...] -> global [B,...].

    Raises:
      ValueError: the rows do not divide over the host's devices.
    """
    sharding = NamedSharding(mesh, SPLIT)
    local = max(1, len(mesh.local_devices))
    rows = len(jax.tree.leaves(batch)[0])
    if rows % local:
        raise ValueError(f"{rows} rows of this host do not divide over its {local} devices")
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same values on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def map_over_devices(
    step: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: Any,
    out_specs: Any,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compiles `step`, written for one device's rows, over the mesh.

    Inside, collectives name the axis `AXIS`, as under `jax.pmap`; specs are `SPLIT` (rows over
    devices) and `REPLICATED`. `donate` names arguments whose memory the result may reuse. Products
    of float32 numbers are float32 also where a device has something faster.
    """
    # Unchecked: gradients of replicated parameters are then each device's own, and the step
    # says itself where they are summed.
    mapped = jax.shard_map(
        with_whole_products(step),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
    )
    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(mapped, donate_argnums=donate, compiler_options=options)


def prefetch(batches: Iterable[PyTree], mesh: Mesh, size: int = 2) -> Iterator[PyTree]:
    """`shard_batch` of each batch, `size` of them ahead: transfers run beside the computation."""
    batches = iter(batches)
    queue = collections.deque(shard_batch(b, mesh) for b in itertools.islice(batches, size))
    while queue:
        yield queue.popleft()
        queue.extend(shard_batch(b, mesh) for b in itertools.islice(batches, 1))


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each when the one behind it has been taken, too.

    Of results that devices still compute, the next one is asked for before the last is waited for.
    """
    items = iter(items)
    for last in itertools.islice(items, 1):
        for item in items:
            yield last
            last = item
        yield last


def gather(tree: PyTree) -> PyTree:
    """Global arrays, split over hosts or not, as NumPy arrays on every host."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, jax.device_get(tree))
    return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """A block that hosts leave together: all of them with an error, if one of them has one.

    So no host waits for another that has ended. What one of them writes in the block is there for
    all when they leave it. Inside, hosts must not wait for each other.

    Raises:
      UserError: where the block raises it, as it is; on other hosts with the number of that process
        before it.
    """
    if jax.process_count() == 1:
        yield
        return
    own = None
    try:
        yield
    except UserError as error:
        own = error
    messages = _exchange(str(own) if own else "")
    if own:
        raise own
    for index, message in enumerate(messages):
        if message:
            raise UserError(f"process {index} of {len(messages)}: {message}")


def check_same(values: dict[str, str]) -> None:
    """Compares values, by the names they have for users, with those of the first host.

    Raises:
      UserError: on all hosts, if one of them differs.
    """
    if jax.process_count() == 1:
        return
    first, *others = [text.split("\n") for text in _exchange("\n".join(values.values()))]
    for index, other in enumerate(others, 1):
        for name, there, here in zip(values, first, other, strict=True):
            if there != here:
                raise UserError(
                    f"process {index} has another {name} than process 0: start all of them with "
                    "the same flags and the same data"
                )


def is_first_host() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def from_first_host(value: bool) -> bool:
    """The first host's value, on every host."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _exchange(text: str) -> list[str]:
    """The texts of all hosts, cut off behind some length, in the order of their processes."""
    encoded = text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    rows = multihost_utils.process_allgather(np.frombuffer(encoded, np.uint8))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]
