"""The devices that a run can be planned for, by what their makers say of them.

TPUs: docs.cloud.google.com/tpu/docs, the pages of v5e, v5p and v6e. GPUs: NVIDIA's data sheets
(dense products, SXM) and XLA's own descriptions of them, in hosts of eight as clouds rent them.
"""

import dataclasses
import math
import os
import re
import textwrap

from attn_lstm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """A kind of device, and the hosts that it stands in.

    Attributes:
      name: as users give it; platform: as JAX calls it.
      memory: bytes of one; usable: the part of it that JAX has for arrays by default.
      peak: FLOP/s by the type of what is multiplied; bandwidth: bytes/s of its memory. None where
        they are measured.
      link: bytes/s that it sends to its neighbours.
      per_host: devices in a host; cores: of a host, as its cloud counts them.
      network: bytes/s that a host sends to another, where `link` does not lead there.
      description: of a GPU, for XLA.
    """

    name: str
    platform: str
    memory: float
    usable: float
    peak: dict[str, float] | None
    bandwidth: float | None
    link: float
    per_host: int
    cores: int
    network: float | None = None
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that stand together.

    Attributes:
      topology: as `jax.experimental.topologies` takes it.
    """

    device: Device
    count: int
    topology: str

    @property
    def hosts(self) -> int:
        """That the devices stand in."""
        return math.ceil(self.count / self.device.per_host)

    @property
    def cores(self) -> float:
        """Of all hosts, as far as their devices are rented."""
        return self.count * self.device.cores / self.device.per_host


def _tpu(name: str, gigabytes: int, peak: float, bandwidth: float, link: float, per_host: int,
         cores: int) -> Device:  # fmt: skip
    # Six products of bfloat16 parts make one of float32.
    peaks = {"bfloat16": peak, "float32": peak / 6}
    memory = gigabytes * 2**30
    return Device(name, "tpu", memory, 0.98, peaks, bandwidth, link, per_host, cores)


def _gpu(name: str, memory: int, bfloat16: float, float32: float, bandwidth: float, link: float,
         cores: int, network: float, chip: dict[str, float], full_name: str) -> Device:  # fmt: skip
    description = textwrap.dedent(f"""\
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152 shared_memory_per_core: {chip["shared"]}
          shared_memory_per_block_optin: {chip["shared"] - 1024}
          core_count: {chip["cores"]} fpus_per_core: {chip["units"]} clock_rate_ghz: {chip["GHz"]}
          memory_bandwidth: {bandwidth:.0f} l2_cache_size: {chip["cache"]}
          device_memory_size: {memory} cuda_compute_capability {{ major: {chip["capability"]} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 12 }}
        runtime_version {{ major: 13 }}
        device_description_str: "{full_name}"
        """)
    peaks = {"bfloat16": bfloat16, "float32": float32}
    # JAX takes three quarters of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says else.
    return Device(
        name, "cuda", memory, 0.75, peaks, bandwidth, link, 8, cores, network, description
    )


_AMPERE = {"capability": 8, "cores": 108, "units": 64, "GHz": 1.41, "cache": 41_943_040,
           "shared": 167_936}  # fmt: skip
_HOPPER = {"capability": 9, "cores": 132, "units": 128, "GHz": 1.98, "cache": 52_428_800,
           "shared": 233_472}  # fmt: skip

_DEVICES = [
    _tpu("v5e", 16, 197e12, 819e9, 200e9, 4, 112),
    _tpu("v5p", 95, 459e12, 2765e9, 600e9, 4, 208),
    _tpu("v6e", 32, 918e12, 1640e9, 448e9, 4, 180),
    _gpu("a100", 85_100_068_864, 312e12, 19.5e12, 2039e9, 300e9, 96, 50e9, _AMPERE,
         "NVIDIA A100-SXM4-80GB"),
    _gpu("h100", 84_942_979_072, 989e12, 67e12, 3352e9, 450e9, 208, 400e9, _HOPPER,
         "NVIDIA H100 80GB HBM3"),
    _gpu("h200", 151_397_597_184, 989e12, 67e12, 4800e9, 450e9, 208, 400e9, _HOPPER,
         "NVIDIA H200 141GB HBM3e"),
]  # fmt: skip


def parse_target(text: str) -> Target:
    """What --on names: v5e:4x4, v5p:2x2x2, h100:8, cpu.

    Raises:
      UserError: no such device, or not so many of them.
    """
    name, _, shape = text.partition(":")
    if text == "cpu":
        return Target(_this_machine(), 1, "")
    device = next((device for device in _DEVICES if device.name == name), None)
    if device is None:
        known = ", ".join(device.name for device in _DEVICES)
        raise UserError(f"--on={text}: {name!r} is not known; give cpu, or one of {known}")
    if device.platform == "tpu":
        sides = 3 if device.name == "v5p" else 2
        if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (sides - 1), shape):
            example = "x".join("2" * sides)
            raise UserError(f"--on={text}: give the shape of the slice, as in {name}:{example}")
        return Target(device, math.prod(map(int, shape.split("x"))), text)
    if not re.fullmatch(r"[1-9]\d*", shape):
        raise UserError(f"--on={text}: give the number of GPUs, as in {name}:8")
    count = int(shape)
    hosts = math.ceil(count / device.per_host)
    if count % hosts:
        raise UserError(
            f"--on={text}: {count} GPUs do not fill hosts of {device.per_host} alike; give up to "
            f"{device.per_host}, or a multiple of them"
        )
    return Target(device, count, f"1x{hosts}x{count // hosts}")


def _this_machine() -> Device:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = os.cpu_count() or 1
    return Device("cpu", "cpu", memory, 1.0, None, None, math.inf, 1, cores)
