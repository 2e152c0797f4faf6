"""What a compiled program does, read from its text: bytes, products, collectives, callbacks.

XLA's own counts have the body of a loop once however often it runs, and there are none for GPUs.
Here a loop counts as often as XLA knows that it goes round.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16,
         "u16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64,
         "f8e4m3fn": 8, "f8e5m2": 8}  # fmt: skip

# Names for values that are there already, and the second half of what runs beside others.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
         "partition-id", "replica-id", "optimization-barrier", "opt-barrier",
         "async-update"}  # fmt: skip
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_PRODUCTS = ("convolution", "dot")
_SLICES = ("dynamic-slice", "slice", "gather")
_PRODUCT_CALLS = re.compile(r"cudnn|cublas|onednn|matmul|conv", re.IGNORECASE)
_CALLBACK_CALLS = re.compile(r"callback", re.IGNORECASE)
_HOST = ("infeed", "outfeed", "send", "recv")

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    shape: str  # as it is written; of a tuple the shapes of its parts in parentheses
    opcode: str
    operands: tuple[str, ...]  # names
    attributes: str  # all that stands behind the operands
    root: bool  # of its computation


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices."""

    opcode: str
    bytes: int  # that each device gives
    times: int  # a call


Computation = dict[str, Instruction]


class Program:
    """A compiled program, of one device.

    Args:
      text: as `jax.stages.Compiled.as_text` gives it.
      trips: how often a loop goes round of which XLA does not know.
    """

    def __init__(self, text: str, trips: int = 1):
        self._trips = trips
        self._computations: dict[str, Computation] = {}
        self._entry = ""
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                current = self._computations[head[2]] = {}
                if head[1]:
                    self._entry = head[2]
            elif found := _read(line):
                current[found.name] = found

    def bytes(self) -> int:
        """Bytes that a call reads from the device's memory and writes to it."""
        return sum(
            times * self._traffic(instruction, computation)
            for instruction, computation, times in self._running()
        )

    def collectives(self) -> list[Collective]:
        """All exchanges between devices."""
        return [
            Collective(opcode, _sum(computation[name].shape for name in found.operands), times)
            for found, computation, times in self._running()
            for opcode in _COLLECTIVES
            if found.opcode in (opcode, f"{opcode}-start")
        ]

    def products(self) -> list[tuple[str, ...]]:
        """The types of what is multiplied in each matrix product and convolution."""
        return [
            tuple(
                array[1]
                for name in instruction.operands[:2]
                for array in _ARRAY.finditer(computation[name].shape)
            )
            for computation in self._computations.values()
            for instruction in computation.values()
            if instruction.opcode in _PRODUCTS
            or (instruction.opcode == "custom-call" and _PRODUCT_CALLS.search(_target(instruction)))
        ]

    def callbacks(self) -> list[str]:
        """What the device asks of the host while it runs."""
        return [
            _target(instruction) or instruction.opcode
            for computation in self._computations.values()
            for instruction in computation.values()
            if instruction.opcode in _HOST or _CALLBACK_CALLS.search(_target(instruction))
        ]

    def _running(self) -> Iterator[tuple[Instruction, Computation, int]]:
        """What runs by itself, with its computation, and how often a call runs it."""
        yield from self._walk(self._entry, 1)

    def _walk(self, name: str, times: int) -> Iterator[tuple[Instruction, Computation, int]]:
        computation = self._computations[name]
        for instruction in computation.values():
            if instruction.opcode == "while":
                known = _TRIPS.search(instruction.attributes)
                rounds = int(known[1]) if known else self._trips
                (body,) = _BODY.findall(instruction.attributes)
                yield from self._walk(body, times * rounds)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for part in _called(instruction):
                    yield from self._walk(part, times)
            else:
                yield instruction, computation, times

    def _traffic(self, instruction: Instruction, computation: Computation) -> int:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0
        read = {name: _in_memory(computation[name].shape) for name in instruction.operands}
        written = _in_memory(instruction.shape)
        if opcode.endswith("-start"):  # its result holds what it reads as well
            written = max(0, written - sum(read.values()))
        if opcode == "fusion":
            (inside,) = (self._computations[name] for name in _called(instruction))
            return self._of_fusion(instruction, computation, inside)
        if opcode in _SLICES:
            return 2 * written
        if opcode in ("dynamic-update-slice", "scatter"):
            update = computation[instruction.operands[-1 if opcode == "scatter" else 1]]
            return 2 * _in_memory(update.shape)
        return sum(read.values()) + written

    def _of_fusion(
        self, instruction: Instruction, outside: Computation, inside: Computation
    ) -> int:
        """A fusion reads of an argument what it takes of it, and writes what changes."""
        parameters = {
            int(i.attributes.split(")")[0] or 0): i
            for i in inside.values()
            if i.opcode == "parameter"
        }
        total = 0
        for index, name in enumerate(instruction.operands):
            whole = _in_memory(outside[name].shape)
            total += min(whole, _taken(parameters[index], inside)) if whole else 0
        for root in _roots(inside):
            update = _updated(root, inside)
            total += _in_memory((update or root).shape) if _in_memory(instruction.shape) else 0
        return total


def _read(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    root, name, shape, opcode, rest = found.groups()
    operands, attributes = _split(rest)
    if opcode == "parameter":  # its number stands where others have operands
        return Instruction(name, shape, opcode, (), rest, bool(root))
    names = tuple(re.findall(r"%([\w.\-]+)", operands))
    return Instruction(name, shape, opcode, names, attributes, bool(root))


def _split(rest: str) -> tuple[str, str]:
    """What stands within the parentheses of an instruction, and what behind them."""
    depth = 1
    for index, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[:index], rest[index + 1 :]
    return rest, ""


def _target(instruction: Instruction) -> str:
    found = _TARGET.search(instruction.attributes)
    return found[1] if found else ""


def _called(instruction: Instruction) -> list[str]:
    names = _CALLED.findall(instruction.attributes)
    if branches := _BRANCHES.search(instruction.attributes):
        names += [name.strip().lstrip("%") for name in branches[1].split(",")]
    return names


def _sizes(shape: str) -> Iterator[int]:
    """Bytes of each array of a shape."""
    for kind, dimensions, _ in _ARRAY.findall(shape):
        size = _BITS.get(kind, 0)
        for length in filter(None, dimensions.split(",")):
            size *= int(length)
        yield size // 8


def _sum(shapes: Iterable[str]) -> int:
    return sum(size for shape in shapes for size in _sizes(shape))


def _in_memory(shape: str) -> int:
    """Bytes of a shape's arrays in the device's memory; a TPU keeps some on the chip."""
    layouts = [found[3] or "" for found in _ARRAY.finditer(shape)]
    return sum(
        size for size, layout in zip(_sizes(shape), layouts, strict=True) if "S(" not in layout
    )


def _taken(parameter: Instruction, inside: Computation) -> int:
    """Bytes that a fusion reads of an argument: slices, where it does nothing but slice it."""
    total = 0
    for user in inside.values():
        if parameter.name not in user.operands:
            continue
        if (
            user.opcode in ("dynamic-slice", "slice", "gather")
            and user.operands[0] == parameter.name
        ):
            total += _sum([user.shape])
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # changed in place
        elif user.opcode in ("bitcast", "get-tuple-element", "copy"):
            total += _taken(user, inside)
        else:
            return _sum([parameter.shape])
    return total


def _roots(inside: Computation) -> list[Instruction]:
    """What a fusion gives back; several where it is a tuple."""
    (root,) = (i for i in inside.values() if i.root)
    return [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]


def _updated(root: Instruction, inside: Computation) -> Instruction | None:
    """What is written into an array in place, if the fusion does nothing else with that."""
    while root.opcode in ("bitcast", "copy") and root.operands:
        root = inside[root.operands[0]]
    return inside[root.operands[1]] if root.opcode == "dynamic-update-slice" else None
