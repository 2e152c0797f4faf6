"""A row of the tables as one object: network, loss, decision, and how it is fitted."""

import dataclasses
import functools
from typing import Any

import jax
import ml_collections
from jax.typing import ArrayLike

from attn_lstm.decision import Decision, Prediction, observe, predict
from attn_lstm.models.heads import Head, head_of, map_loss
from attn_lstm.models.network import Network, create_network
from attn_lstm.objective import Objective
from attn_lstm.ordering import last_step_ranks
from attn_lstm.parallel import AXIS


@dataclasses.dataclass(frozen=True)
class Row:
    """All that a run, an evaluation or a user must know of a row; made by `create_row`.

    Attributes:
      network: of images on one device; where it trains, inside of a step mapped over `AXIS`.
      objective: what it minimises.
      decision: how it decides on a label set.
      encoded: the batches of a split hold a frozen backbone's features in the place of images.
      fit: how its parameters are found, as in `heads.Head`.
    """

    network: Network
    objective: Objective
    decision: Decision
    encoded: bool
    fit: str

    @property
    def sequential(self) -> bool:
        """Whether it emits its labels one by one."""
        return self.network.decoder is not None

    @property
    def attends(self) -> bool:
        """Whether it looks somewhere for each label, so that predictions have attention maps."""
        part = self.network.decoder or self.network.set_head
        return part is not None and part.looks

    @property
    def by_path(self) -> bool:
        """Whether the predicted set is that of a path, and so another one for every τ."""
        return self.sequential and self.decision.decide == "path"

    def features(self, variables: dict[str, Any], inputs: jax.Array) -> jax.Array:
        """v_feat float[B,K,D] of a split's batch: of its images, or as it holds them."""
        if self.encoded:
            return inputs.astype(self.network.dtype)
        return self.network.apply(variables, inputs, method="encode")

    def search(
        self, variables: dict[str, Any], images: jax.Array, threshold: ArrayLike
    ) -> Prediction:
        """The predictions for images uint8[B,H,W,3] of one device.

        Args:
          variables: of the network.
          threshold: τ, float32[] or float32[C]; may be traced.
        """
        features = self.network.apply(variables, images, method="encode")
        return self.decide(variables, features, threshold)

    def decide(
        self, variables: dict[str, Any], features: jax.Array, threshold: ArrayLike
    ) -> Prediction:
        """The predictions for features float[B,K,D]; else as `search`."""
        seen = observe(self.decision, self.network, variables, features)
        return predict(self.decision, self.network, variables, seen, threshold)


def create_row(
    config: ml_collections.ConfigDict, num_labels: int, *, images: int = 0, partial: bool = False
) -> Row:
    """The row of a validated, resolved config; the same object for configs that differ in the seed.

    What was compiled for a row then serves all of its runs in this process.

    Args:
      num_labels: C.
      images: of the training split; needed to make or restore variables of a row that remembers
        them.
      partial: some labels of these images are not known.
    """
    same = ml_collections.ConfigDict(config).unlock()
    same.seed = 0
    frozen = ml_collections.FrozenConfigDict(same)
    return _create_row(frozen, head_of(config), num_labels, images, partial)


@functools.lru_cache(maxsize=8)
def _create_row(
    config: ml_collections.FrozenConfigDict, head: Head, num_labels: int, images: int, partial: bool
) -> Row:
    learns = head.fit == "descent"
    parts = ("map",) * (head.preliminary and learns) + ("step",) * head.sequential
    search = config.search
    return Row(
        network=create_network(config, num_labels, axis_name=AXIS, images=images, partial=partial),
        objective=Objective(
            parts=parts,
            steps=config.decoder.max_labels,
            order=config.order,
            target=config.decoder.target,
            map_loss=map_loss(config),
            smoothing=config.label_smoothing,
        ),
        decision=Decision(
            scores=search.scores,
            largest=not last_step_ranks(config.order, config.decoder.target),
            decide=search.decide,
            top_k=search.top_k,
            beam_size=search.beam_size,
            stop=search.stop,
            max_labels=config.decoder.max_labels,
            # Losses of other orders are those of the greedy pass: all of its steps are made anyway.
            ends_early=head.sequential and config.order != "confidence" and search.decide == "path",
        ),
        encoded=config.backbone.frozen and config.cache.views > 0,
        fit=head.fit,
    )
