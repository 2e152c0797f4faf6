"""What a function costs at least on this machine: the time that its FLOPs and its bytes take."""

from attn_lstm.plan.limits import measure_limits


def floor(flops: float, bytes_: float, dtype: str) -> tuple[float, str]:
    """The least seconds that this machine needs, by limits measured now, and a line that says why.

    Args:
      flops: of matrix products with operands of type `dtype`.
      bytes_: read and written.
    """
    peak, bandwidth = measure_limits(dtype)
    seconds = max(flops / peak, bytes_ / bandwidth)
    return seconds, (
        f"{flops / 1e9:.1f} GFLOP at {peak / 1e9:.0f} GFLOP/s ({dtype}), {bytes_ / 1e9:.2f} GB at "
        f"{bandwidth / 1e9:.1f} GB/s: {1e3 * seconds:.1f} ms at least"
    )
