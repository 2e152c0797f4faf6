r"""What follows the backbone beside the backbone: attention, T steps and a beam, against a ResNet.

    python -m benchmarks.beam_search [--size=small|medium|large] [--depth=152] [--image_size=448] \
        [--batch=N] [--rounds=N] [--dtype=float32] [--beam=3]
"""

import statistics
from functools import partial

from absl import flags

from attn_lstm import errors
from attn_lstm.plan.flops import matmul_flops
from benchmarks import measure, workload
from benchmarks.roofline import floor

_BEAM = flags.DEFINE_integer("beam", 3, "paths kept")


def main() -> int:
    """Prints the table; returns the exit code."""
    size, beam = workload.chosen_size(), _BEAM.value
    config = workload.configure(size, dtype=workload.DTYPE.value, search__beam_size=beam)
    narrow = workload.configure(size, dtype=workload.DTYPE.value, search__beam_size=1)
    variables = workload.create_variables(config)
    row, one_path = workload.row_of(config), workload.row_of(narrow)
    images = workload.random_images(size.batch, size.image_size)

    search = row.decide
    encode = workload.jit(partial(row.network.apply, method="encode"))
    features = encode(variables, images)
    whole = workload.jit(search).lower(variables, features, 0.0).compile()
    # What is not returned is not computed: the greedy pass that finds the scores.
    path = workload.jit(lambda *arguments: search(*arguments).sequence)
    greedy = workload.jit(lambda *arguments: one_path.decide(*arguments).sequence)
    backbone = f"ResNet-{size.depth} at {size.image_size} pixels"
    sides = {
        backbone: partial(encode, variables, images),
        f"{size.steps} steps, beam of {beam}, scores": partial(whole, variables, features, 0.0),
        f"{size.steps} steps, beam of {beam}": partial(path, variables, features, 0.0),
        f"{size.steps} steps, beam of 1": partial(greedy, variables, features, 0.0),
        # With random weights no first label is as probable as that: the search ends at once.
        f"beam of {beam}, all closed after a step": partial(path, variables, features, 0.99),
    }
    print(f"{measure.machine()}\n{size}, {workload.DTYPE.value}")
    seconds = measure.alternate(sides, workload.ROUNDS.value)
    rows = []
    for name, times in seconds.items():
        milliseconds = 1e3 * statistics.median(times)
        ratio = measure.median_ratio(times, of=seconds[backbone])
        each = milliseconds / size.batch
        rows.append((name, f"{milliseconds:.1f}", f"{each:.2f}", f"{100 * ratio:.1f} %"))
    columns = (f"{size.batch} images", "ms (median)", "ms an image", "of the backbone")
    measure.print_table("After the backbone", columns, rows)
    flops = matmul_flops(search, variables, features, 0.0, trips=size.steps)
    print("search and scores:", floor(flops, measure.cost(whole)[1], workload.DTYPE.value)[1])
    flops = matmul_flops(encode, variables, images)
    bytes_ = measure.cost(encode.lower(variables, images).compile())[1]
    print("backbone:", floor(flops, bytes_, workload.DTYPE.value)[1])
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
