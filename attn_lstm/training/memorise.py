"""The row that learns by heart: the features of the training split, and how many to ask."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.data.split import Batch, Split
from attn_lstm.decision import Prediction
from attn_lstm.errors import UserError
from attn_lstm.measures import thresholds
from attn_lstm.models.knn import CANDIDATES, describe
from attn_lstm.models.network import create_network
from attn_lstm.parallel import REPLICATED, SPLIT, SPLIT_SECOND
from attn_lstm.runs import split_pass

PyTree = Any


def fit(
    config: ml_collections.ConfigDict,
    variables: dict[str, PyTree],
    split: Split,
    training: Iterable[Batch],
    validation: Iterable[Batch],
    mesh: Mesh,
    say: Callable[[str], None],
) -> PyTree:
    """The collection 'memory' of the network, on every device of the mesh.

    Args:
      config: resolved; k is `config.knn.neighbours`, or where that is 0 the candidate with the
        largest mean of C-F1 and O-F1 on the validation split.
      variables: the network's other collections.
      split: whose N images are remembered.
      training: this host's batches of that split, each image once; validation: of the split that
        k is chosen on.
      mesh: of all devices.
      say: gets a line on the choice.

    Raises:
      UserError: no training image could be read.
    """
    features, known = _describe_images(config, variables, split, training, mesh)
    memory = {
        "features": features,
        "labels": split.labels,
        "known": known,
        "count": np.int32(config.knn.neighbours),
    }
    memory = parallel.replicate(memory, mesh)
    if not config.knn.neighbours:
        variables = {**variables, "memory": {"neighbours": memory}}
        counts = sorted({min(count, int(known.sum())) for count in CANDIDATES})
        candidates = split_pass.predict_split(
            _counts_step(config, split.labels.shape[1], mesh),
            variables,
            validation,
            jnp.zeros(split.labels.shape[1]),
            counts,
            mesh,
        )
        count = counts[thresholds.choose(candidates)]
        say(f"k = {count} has the best validation figures of {', '.join(map(str, counts))}")
        memory["count"] = parallel.replicate(np.int32(count), mesh)
    return {"neighbours": memory}


def _describe_images(
    config: ml_collections.ConfigDict,
    variables: dict[str, PyTree],
    split: Split,
    batches: Iterable[Batch],
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Host arrays float32[N,D], as `describe` makes them, and bool[N], which could be read."""
    network = create_network(config, split.labels.shape[1])

    def step(variables: dict[str, PyTree], images: jax.Array) -> jax.Array:
        return describe(network.apply(variables, images, method="encode"))

    mapped = parallel.map_over_devices(step, mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT)
    features, known = None, np.zeros(len(split), bool)
    for batch in parallel.prefetch(batches, mesh):
        described = mapped(variables, batch.image)
        described, mask, rows = parallel.gather((described, batch.mask, batch.image_id))
        if features is None:
            features = np.zeros((len(split), described.shape[1]), np.float32)
        features[rows[mask]] = described[mask]
        known[rows[mask]] = True
    if features is None or not known.any():
        raise UserError(
            f"none of the {len(split)} images of {split.dataset} {split.name} could be read: "
            "there is nothing to carry labels over from"
        )
    return features, known


def _counts_step(
    config: ml_collections.ConfigDict, num_labels: int, mesh: Mesh
) -> split_pass.EvalStep:
    """As `split_pass.map_eval_step` makes it, with candidates for k in the place of thresholds."""
    network = create_network(config, num_labels)
    search = split_pass.make_search(config, network)
    threshold = thresholds.threshold_or_default(config.search.threshold)

    def step(
        variables: dict[str, PyTree], batch: Batch, rank: jax.Array, counts: jax.Array
    ) -> tuple[Prediction, dict[str, jax.Array]]:
        features = network.apply(variables, batch.image, method="encode")
        memory = variables["memory"]["neighbours"]

        def predict_with(count: jax.Array) -> Prediction:
            remembering = {**variables, "memory": {"neighbours": {**memory, "count": count}}}
            return search(remembering, features, threshold)

        # Mapped at once: the search for neighbours knows nothing of k, and is done once for all.
        return jax.vmap(predict_with)(counts), {}

    return parallel.map_over_devices(
        step,
        mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED, REPLICATED),
        out_specs=(SPLIT_SECOND, SPLIT),
    )
