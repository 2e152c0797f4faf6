"""From what was compiled and what a device can do: the least time of a step, and of a run."""

import dataclasses
import math

from attn_lstm.plan.compiling import Facts
from attn_lstm.plan.targets import Target


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a call takes at least, by what it needs; all of it may go on at once."""

    products: float
    memory: float
    network: float
    input: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all of them, the input too."""
        return max(dataclasses.astuple(self))

    @property
    def of_devices(self) -> float:
        """Of the devices alone, however fast the input is."""
        return max(self.products, self.memory, self.network)

    @property
    def limit(self) -> str:
        """What takes the longest."""
        values = dataclasses.asdict(self)
        return max(values, key=values.__getitem__)


def find_bounds(facts: Facts, target: Target, dtype: str, input_seconds: float = 0.0) -> Bounds:
    """The least time of a call on known devices.

    Args:
      dtype: the type that most products are computed in.
      input_seconds: until all hosts together have a batch ready.

    Raises:
      ValueError: the devices are still to be measured.
    """
    device = target.device
    if device.peak is None or device.bandwidth is None:
        raise ValueError(f"it is not known what a {device.name} can do")
    return Bounds(
        products=facts.flops / device.peak[dtype],
        memory=facts.bytes / device.bandwidth,
        network=_network_seconds(facts.sent, target),
        input=input_seconds,
    )


def _network_seconds(sent: int, target: Target) -> float:
    """Of sums over all devices: in a ring each sends all of it twice, less its own share."""
    device, count = target.device, target.count
    speed = device.link
    if target.hosts > 1 and device.network is not None:
        speed = min(speed, device.network / device.per_host)
    return 2 * sent * (count - 1) / count / speed


def largest_batch(points: dict[int, int], target: Target) -> int | None:
    """Images of all devices that fit, by a straight line through two compiled batches.

    Args:
      points: bytes that one device holds, by the images of all devices; two of them.

    Returns:
      None where memory does not grow with the batch; 0 where not even one image a device fits.
    """
    (small, low), (large, high) = sorted((n // target.count, m) for n, m in points.items())
    each = (high - low) / (large - small)
    if each <= 0:
        return None
    usable = target.device.usable * target.device.memory
    return max(0, math.floor(small + (usable - low) / each)) * target.count
