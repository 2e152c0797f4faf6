"""A plan as text."""

from attn_lstm.plan.compiling import Refused
from attn_lstm.plan.planning import Plan, Planned
from attn_lstm.text import markdown_table

_MUCH_TO_READ = 1e9  # bytes/s a host: what a good local disk gives, and few shared ones

_ROWS = ("images a call", "calls", "GB held", "GFLOP", "GB read and written", "MB sent",
         "ms a call, at least", "limited by", "images/s, at most", "hours, at least")  # fmt: skip

_SHORT = {"bfloat16": "bf16", "float32": "f32"}  # XLA's names

_UNKNOWN = (
    "Not known: how near these devices come to their limits (each time above is the least that "
    "they allow; benchmarks/RESULTS.md has what was measured beside such times), the disks and the "
    "network that data come by, compiling and starting there, checkpoints, other users."
)


def render(plan: Plan) -> str:
    """Markdown; the figures of the table are those of one device."""
    columns = [_column(planned) for planned in plan.stages]
    table = markdown_table(
        ["a device", *(planned.stage.name for planned in plan.stages)],
        [[name, *cells] for name, *cells in zip(_ROWS, *columns, strict=True)],
    )
    lines = [*_memory_lines(plan), *_program_lines(plan), *_input_lines(plan), _UNKNOWN]
    return "\n".join([_headline(plan), "", table, "", *(f"- {line}" for line in lines)])


def _headline(plan: Plan) -> str:
    config, target, sizes = plan.config, plan.target, plan.sizes
    depth = f"-{config.backbone.depth}" if config.backbone.name == "resnet" else ""
    return (
        f"{config.method} on {config.data.name} ({sizes.train:,} training and "
        f"{sizes.validation:,} validation images, {sizes.labels} labels, {sizes.origin}): "
        f"{config.backbone.preset or config.backbone.name + depth}, "
        f"{config.data.image_size} pixels, {config.dtype}, on "
        f"{target.count} x {target.device.name} in {target.hosts} host(s)"
    )


def _column(planned: Planned) -> list[str]:
    """The cells of a stage, in the order of `_ROWS`."""
    stage, facts, bounds = planned.stage, planned.facts, planned.bounds
    cells = [f"{stage.batch}", f"{stage.calls:,}"]
    if isinstance(facts, Refused) or bounds is None:
        return cells + ["-"] * (len(_ROWS) - len(cells))
    return [
        *cells,
        f"{facts.memory / 1e9:.2f}",
        f"{facts.flops / 1e9:.1f}",
        f"{facts.bytes / 1e9:.2f}",
        f"{facts.sent / 1e6:.1f}",
        f"{1e3 * bounds.seconds:.2f}",
        bounds.limit,
        f"{stage.batch / bounds.seconds:,.0f}",
        f"{stage.calls * bounds.seconds / 3600:.2f}",
    ]


def _memory_lines(plan: Plan) -> list[str]:
    device = plan.target.device
    usable = device.usable * device.memory
    room = f"{usable / 1e9:.1f} of the {device.memory / 1e9:.1f} GB of a {device.name}"
    lines = []
    for planned in plan.stages:
        name, facts = planned.stage.name, planned.facts
        if isinstance(facts, Refused):
            lines.append(f"{name} DOES NOT COMPILE: {facts.reason}")
        elif facts.memory > usable:
            lines.append(f"{name} DOES NOT FIT: JAX has {room}")
    if plan.largest is not None:
        lines.append(
            f"largest batch for training: about {plan.largest:,} images, "
            f"{plan.largest // plan.target.count:,} a device, in {room} (by a straight line "
            "through two compiled batches)"
        )
    known = [(planned.stage.calls, planned.bounds) for planned in plan.stages if planned.bounds]
    if len(known) == len(plan.stages):
        seconds = sum(calls * bounds.seconds for calls, bounds in known)
        lines.append(f"the whole run: {seconds / 3600:.2f} hours at least")
    return lines


def _program_lines(plan: Plan) -> list[str]:
    """What should not be in a step, and is."""
    expected = f"{_SHORT[plan.config.dtype]} x {_SHORT[plan.config.dtype]}"
    lines = []
    for planned in plan.stages:
        if isinstance(planned.facts, Refused):
            continue
        name, products = planned.stage.name, planned.facts.products
        others = [f"{n} {kinds}" for kinds, n in products.items() if kinds != expected]
        if others:
            total = sum(products.values())
            lines.append(f"{name}: of {total} products {', '.join(others)} are not {expected}")
        if planned.facts.callbacks:
            lines.append(f"{name} asks the host while it runs: {planned.facts.callbacks[0]}")
    return lines


def _input_lines(plan: Plan) -> list[str]:
    lines, target = [], plan.target
    for planned in plan.stages:
        if planned.bounds is None:
            continue
        name = planned.stage.name
        wanted = planned.stage.batch / planned.bounds.of_devices
        if planned.stage.decodes:
            cores = wanted / plan.rate
            lines.append(
                f"{name} could take {wanted:,.0f} images/s, {wanted / target.hosts:,.0f} a host: "
                f"{cores:,.0f} cores where there are {target.cores:,.0f}, if each decodes "
                f"{plan.rate:.0f} photographs of 640 x 480 a second as one of this machine does"
                + ("; THE INPUT IS THE LIMIT" if cores > target.cores else "")
            )
        elif plan.record:
            read = wanted * plan.record / target.hosts
            lines.append(
                f"{name} could read {read / 1e9:.2f} GB/s of features a host"
                + ("; FEW DISKS GIVE THAT, keep them in memory" if read > _MUCH_TO_READ else "")
            )
    if plan.kept:
        lines.append(
            f"features of {plan.kept:,} images and views: {plan.kept * plan.record / 1e9:.1f} GB "
            f"of disk, {plan.record / 1e6:.2f} MB each"
        )
    return lines
