"""Least times and the largest batch, by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.errors import UserError
from attn_lstm.plan.compiling import Facts
from attn_lstm.plan.estimate import find_bounds, largest_batch
from attn_lstm.plan.targets import parse_target

_FACTS = Facts(
    flops=197e9,
    bytes=int(8.19e9),
    memory=0,
    returned=0,
    sent=int(1e8),
    products={},
    collectives={},
    callbacks=[],
)


def test_a_call_takes_as_long_as_what_takes_longest():
    bounds = find_bounds(_FACTS, parse_target("v5e:4x4"), "bfloat16")
    assert bounds.products == pytest.approx(1e-3)
    assert bounds.memory == pytest.approx(10e-3)
    assert bounds.network == pytest.approx(2 * 1e8 * 15 / 16 / 200e9)
    assert (bounds.seconds, bounds.limit) == (bounds.memory, "memory")
    fed = find_bounds(_FACTS, parse_target("v5e:4x4"), "bfloat16", input_seconds=0.5)
    assert (fed.seconds, fed.limit) == (0.5, "input")


def test_one_device_sends_nothing_and_hosts_of_gpus_send_by_their_network():
    assert find_bounds(_FACTS, parse_target("h100:1"), "bfloat16").network == 0
    near = find_bounds(_FACTS, parse_target("h100:8"), "bfloat16").network
    far = find_bounds(_FACTS, parse_target("h100:16"), "bfloat16").network
    assert near == pytest.approx(2 * 1e8 * 7 / 8 / 450e9)
    assert far == pytest.approx(2 * 1e8 * 15 / 16 / (400e9 / 8))


@given(
    fixed=st.integers(1, 10**9),
    each=st.integers(1, 10**8),
    batches=st.lists(st.integers(1, 512), min_size=2, max_size=2, unique=True),
)
def test_the_largest_batch_fits_and_one_image_more_does_not(fixed, each, batches):
    target = parse_target("v5e:2x2")
    usable = target.device.usable * target.device.memory
    found = largest_batch({4 * n: fixed + n * each for n in batches}, target) / 4
    assert fixed + found * each <= usable * (1 + 1e-9)
    assert fixed + (found + 1) * each > usable * (1 - 1e-9)


def test_memory_that_does_not_grow_has_no_largest_batch():
    assert largest_batch({4: 10, 8: 10}, parse_target("v5e:2x2")) is None


def test_targets_have_their_devices_hosts_and_cores():
    slice_ = parse_target("v5e:4x8")
    assert (slice_.count, slice_.hosts, slice_.cores) == (32, 8, 8 * 112)
    assert parse_target("v5p:2x2x4").count == 16
    assert parse_target("h100:16").topology == "1x2x8"
    assert dataclasses.asdict(parse_target("cpu").device)["platform"] == "cpu"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("v9:2x2", "'v9' is not known"),
        ("v5e:16", "shape of the slice, as in v5e:2x2"),
        ("v5p:2x2", "as in v5p:2x2x2"),
        ("h100", "number of GPUs"),
        ("h100:9", "do not fill hosts"),
    ],
)
def test_what_is_no_target_is_refused_with_an_example(text, part):
    with pytest.raises(UserError, match=part):
        parse_target(text)
