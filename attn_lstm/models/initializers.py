"""How output layers start."""

import math

import flax.linen as nn


def label_prior(num_labels: int, prior: float | None = None) -> nn.initializers.Initializer:
    """Biases with which each of C independent labels starts at the probability `prior`, or 1/C.

    An image has few of many labels. From probabilities of 1/2 the first updates would only push
    biases down: with C = 260 that took most of a run of 700 updates.
    """
    if prior is None:
        return nn.initializers.constant(-math.log(max(num_labels - 1, 1)))
    return nn.initializers.constant(math.log(prior) - math.log1p(-prior))
