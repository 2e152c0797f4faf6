import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm import parallel
from attn_lstm.errors import UserError
from attn_lstm.parallel import AXIS, REPLICATED, SPLIT


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    core_on_chip: int = 0
    platform: str = "tpu"


def test_the_mesh_holds_all_devices_under_one_axis():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == (AXIS,)
    assert mesh.size == len(jax.devices()) == 4


def test_devices_stand_in_the_order_of_process_and_id_however_a_slice_lists_them():
    # A v5e of 4x4 chips has hosts of 2x2: row by row, its chips belong to hosts in turn.
    chips = [
        Chip(4 * y + x, process_index=2 * (y // 2) + x // 2) for y in range(4) for x in range(4)
    ]
    mesh = parallel.make_mesh(chips)
    assert [chip.process_index for chip in mesh.devices] == sorted(c.process_index for c in chips)
    assert [chip.id for chip in mesh.devices[:8]] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_two_devices_of_one_chip_are_two_of_the_mesh():
    cores = [Chip(i, process_index=0, core_on_chip=i % 2) for i in range(8)]
    assert list(parallel.make_mesh(cores).devices) == cores


def test_processes_of_a_slice_that_are_not_connected_are_told_the_flag(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match=r"one of 4.*--distributed"):
        parallel.make_mesh()


def test_rows_are_split_over_devices_and_come_back_in_order():
    mesh = parallel.make_mesh()
    batch = {"x": np.arange(24.0).reshape(8, 3), "id": np.arange(8)}
    placed = parallel.shard_batch(batch, mesh)
    assert {s.data.shape for s in placed["x"].addressable_shards} == {(2, 3)}
    jax.tree.map(np.testing.assert_array_equal, parallel.gather(placed), batch)


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"6 rows.*4 devices"):
        parallel.shard_batch(np.zeros((6, 2)), parallel.make_mesh())


def test_a_mapped_step_sums_gradients_over_devices():
    mesh = parallel.make_mesh()

    def step(w, x):
        gradient = jax.grad(lambda w: (w * x).sum())(w)
        return jax.lax.psum(gradient, AXIS)

    mapped = parallel.map_over_devices(
        step, mesh, in_specs=(REPLICATED, SPLIT), out_specs=REPLICATED
    )
    x = np.arange(8.0, dtype=np.float32)
    assert float(mapped(jnp.float32(2.0), parallel.shard_batch(x, mesh))) == x.sum()


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prefetching_loses_and_reorders_nothing(count):
    mesh = parallel.make_mesh()
    batches = (np.full((4,), i) for i in range(count))
    seen = [int(batch[0]) for batch in parallel.prefetch(batches, mesh)]
    assert seen == list(range(count))


def test_products_of_float32_are_float32_also_in_gradients_and_loops():
    mesh = parallel.make_mesh()

    def step(w, x):
        def loss(w):
            return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=2)[0].sum()

        return jax.lax.psum(jax.grad(loss)(w), AXIS)

    mapped = parallel.map_over_devices(
        step, mesh, in_specs=(REPLICATED, SPLIT), out_specs=REPLICATED
    )
    text = mapped.lower(jnp.ones((3, 3)), jnp.ones((4, 3))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 3
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_one_ahead_keeps_the_items_and_takes_one_more(count):
    taken = []
    given = (taken.append(i) or i for i in range(count))
    for seen, item in enumerate(parallel.one_ahead(given)):
        assert item == seen
        assert len(taken) == min(seen + 2, count)
    assert len(taken) == count
