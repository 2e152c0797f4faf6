"""Reading a compiled program, against XLA's own counts where it has them, and by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from attn_lstm import parallel
from attn_lstm.plan.hlo import Program

_LOOP = """HloModule loop, is_scheduled=true

%fused_computation (param_0.1: f32[18,128], param_1.2: s32[]) -> f32[1,128] {
  %param_0.1 = f32[18,128]{1,0} parameter(0)
  %param_1.2 = s32[] parameter(1)
  %constant.1 = s32[] constant(0)
  %dynamic-slice.1 = f32[1,128]{1,0} dynamic-slice(%param_0.1, %param_1.2, %constant.1), dynamic_slice_sizes={1,128}
  ROOT %exponential.1 = f32[1,128]{1,0} exponential(%dynamic-slice.1)
}

%body (arg: (s32[], f32[18,128], f32[1,128])) -> (s32[], f32[18,128], f32[1,128]) {
  %arg = (s32[], f32[18,128]{1,0}, f32[1,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %all = f32[18,128]{1,0} get-tuple-element(%arg), index=1
  %fusion = f32[1,128]{1,0} fusion(%all, %i), kind=kLoop, calls=%fused_computation
  %sum = f32[1,128]{1,0} all-reduce(%fusion), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[18,128]{1,0}, f32[1,128]{1,0}) tuple(%i, %all, %sum)
}

%condition (arg.1: (s32[], f32[18,128], f32[1,128])) -> pred[] {
  %arg.1 = (s32[], f32[18,128]{1,0}, f32[1,128]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[18,128], start: (s32[], f32[18,128], f32[1,128])) -> f32[1,128] {
  %x = f32[18,128]{1,0} parameter(0)
  %start = (s32[], f32[18,128]{1,0}, f32[1,128]{1,0}) parameter(1)
  %near = f32[18,128]{1,0:T(8,128)S(1)} copy(%x)
  %while = (s32[], f32[18,128]{1,0}, f32[1,128]{1,0}) while(%start), condition=%condition, body=%body, backend_config={TRIPS}
  ROOT %last = f32[1,128]{1,0} get-tuple-element(%while), index=2
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_goes_round_and_a_slice_as_what_it_takes():
    program = Program(_LOOP.replace("TRIPS", '"known_trip_count":{"n":"18"}'))
    row = 4 * 128
    # Each time a row, its place and the result; then the sum in and out; once x, kept on the chip.
    assert program.bytes() == 18 * (row + 4 + row + 2 * row) + 18 * row
    (found,) = program.collectives()
    assert (found.opcode, found.bytes, found.times) == ("all-reduce", row, 18)


def test_a_loop_of_unknown_length_goes_round_as_often_as_is_said():
    unknown = _LOOP.replace("TRIPS", "")
    assert Program(unknown, trips=3).collectives()[0].times == 3


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jnp.zeros(shape) for shape in shapes)).compile()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: x + 1, [(64, 128)]),
        (lambda x, y: jnp.tanh(x) * y, [(64, 128), (64, 128)]),
        (lambda x, y: x @ y, [(64, 32), (32, 16)]),
        (lambda x: (x @ x.T).sum(), [(64, 32)]),
    ],
)
def test_bytes_without_loops_are_those_that_xla_counts(function, shapes):
    program = compiled(function, *shapes)
    assert Program(program.as_text()).bytes() == pytest.approx(
        program.cost_analysis()["bytes accessed"], rel=0.05
    )


def test_the_types_of_products_and_what_is_asked_of_the_host():
    text = compiled(lambda x: jax.lax.scan(lambda h, _: (h @ h, None), x, length=4)[0], (8, 8))
    assert set(Program(text.as_text()).products()) == {("f32", "f32")}
    asks = compiled(lambda x: (jax.debug.callback(lambda _: None, x), x + 1)[1], (8, 8))
    assert Program(asks.as_text()).callbacks()
    assert not Program(text.as_text()).callbacks()


def test_sums_over_devices_are_found_with_their_size():
    mesh = parallel.make_mesh()

    def total(x):
        return jax.lax.psum(x, parallel.AXIS)

    mapped = parallel.map_over_devices(
        total, mesh, in_specs=parallel.SPLIT, out_specs=PartitionSpec()
    )
    program = Program(mapped.lower(jnp.zeros((8, 16))).compile().as_text())
    assert [(c.opcode, c.bytes) for c in program.collectives()] == [("all-reduce", 2 * 16 * 4)]
