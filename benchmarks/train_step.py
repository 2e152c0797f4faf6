r"""Training steps a second through the whole network: ours, and the same one in PyTorch.

    python -m benchmarks.train_step [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batch=N] [--rounds=N] [--dtypes=float32,bfloat16] [--torch=eager,compiled]

Both start from the same weights, learn from the backbone on, with batch statistics and Adam, and
take turns in one process. Before any timing their losses must agree, also after an update.
"""

import statistics

import torch

from attn_lstm import errors
from attn_lstm.data.split import Batch
from benchmarks import measure, torch_peer, workload
from benchmarks.roofline import floor


class PeerTraining:
    """As `workload.Training`: a call is an update of the peer, and gives the loss before it."""

    def __init__(self, peer: torch_peer.Peer, batch: Batch, kind: str, dtype: str, rate: float):
        self.forward = torch_peer.run_as(peer.train(), kind, dtype)
        self.images, self.labels = map(torch_peer.to_device, (batch.inputs, batch.labels))
        self.optimizer = torch.optim.AdamW(peer.parameters(), lr=rate, weight_decay=0.0, fused=True)

    def __call__(self) -> float:
        """An update; the loss before it."""
        self.optimizer.zero_grad()
        label_logits, logits, *_ = self.forward(self.images)
        loss = torch_peer.loss(label_logits, logits, self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()


# How far apart the losses of the first two updates may be, by compute type: Adam makes every entry
# of the first one as large as the learning rate, however small the gradient and its error.
_TOLERANCES = {"float32": (1e-4, 1e-2), "bfloat16": (1e-2, 5e-2)}


def _check(losses: dict[tuple[str, str], list[float]]) -> None:
    """Raises `AssertionError` unless all sides compute the same."""
    wanted = next(iter(losses.values()))
    for (name, dtype), found in losses.items():
        for a, b, tolerance in zip(wanted, found, _TOLERANCES[dtype], strict=True):
            assert abs(a - b) <= tolerance * a, f"{name}, {dtype}: losses {found}, not {wanted}"


def main() -> int:
    """Prints the table; returns the exit code."""
    size = workload.chosen_size()
    batch = workload.with_labels(workload.random_images(size.batch, size.image_size))
    print(f"{measure.machine()}; PyTorch {torch.__version__}\n{size}")
    sides = {}
    for dtype in torch_peer.DTYPES.value:
        config = workload.configure(size, dtype=dtype)
        ours = sides["ours", dtype] = workload.Training(config, batch)
        for kind in torch_peer.KINDS.value:
            peer = torch_peer.create_peer(ours.state.variables, size)
            sides[f"PyTorch, {kind}", dtype] = PeerTraining(
                peer, batch, kind, dtype, config.optimizer.learning_rate
            )
    losses = {side: [step(), step()] for side, step in sides.items()}
    _check(losses)
    seconds = measure.alternate(sides, workload.ROUNDS.value, warm_up=0)
    rows = []
    for (name, dtype), times in seconds.items():
        median = statistics.median(times)
        ratio = measure.median_ratio(times, of=seconds["ours", dtype])
        shown = f"{1e3 * median:.0f}", f"{size.batch / median:.1f}", f"{ratio:.2f}"
        rows.append((f"{name}, {dtype}", *shown, *(f"{x:.3f}" for x in losses[name, dtype])))
    columns = ("training step", "ms (median)", "images/s", "time / ours", "loss", "next loss")
    measure.print_table(f"ResNet-{size.depth} and attention LSTM", columns, rows)
    for dtype in torch_peer.DTYPES.value:
        ours = sides["ours", dtype]
        print(floor(ours.flops(), measure.cost(ours.compiled)[1], dtype)[1])
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
