"""τ as it is chosen on a held-out split: one for all labels, or one a label. Pure functions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from attn_lstm import metrics
from attn_lstm.measures.calibration import logit

if TYPE_CHECKING:
    from attn_lstm.measures.predictions import Predictions

KINDS = ("global", "micro", "per_class")

# τ is chosen among these; with the path's product as the score, small ones matter.
GRID = np.concatenate([np.geomspace(0.001, 0.1, 9)[:-1], np.linspace(0.1, 0.9, 33)])

# A label's own best τ counts by the number of its true images, the τ of all by this many. In cross
# validation on 495 photographs with 80 labels, of which half have fewer than 14 true images, this
# raised macro-F1 at no cost to O-F1; the labels' own τ alone lowered both.
_PRIOR_IMAGES = 30


DEFAULT_THRESHOLD = 0.5  # until one is tuned or given


@dataclasses.dataclass(frozen=True)
class Threshold:
    """τ, and of some labels their own in its place, by name."""

    value: float
    by_label: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def of(self, names: Sequence[str]) -> float | np.ndarray:
        """float32[C] for the labels by these names; one number where none has its own."""
        if not self.by_label:
            return self.value
        return np.array([self.by_label.get(name, self.value) for name in names], np.float32)


def threshold_or_default(threshold: float) -> float:
    """`config.search.threshold`, or the default where it leaves the choice open (below 0)."""
    return threshold if threshold >= 0 else DEFAULT_THRESHOLD


def choose(candidates: Sequence[Predictions], kind: str = "global") -> int:
    """The best of predictions for several τ, in their order, on a held-out split: its index.

    Of equals the middle one, which is the farthest from where the figures fall.

    Args:
      candidates: at least one.
      kind: 'micro' goes by O-F1, others by the mean of C-F1 and O-F1.
    """
    names = ("O-F1",) if kind == "micro" else ("C-F1", "O-F1")
    means = []
    for predictions in candidates:
        figures = metrics.averaged(metrics.per_class(predictions.judged, predictions.truth))
        means.append(np.mean([figures[name] for name in names]))
    return _middle_of_the_best(np.array(means))


def choose_by_label(
    scores: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    tau: float,
    known: np.ndarray | None = None,
) -> dict[str, float]:
    """A τ of its own for each label with a true image, the further from `tau` the more it has.

    Between `tau` and the cut with the label's best F1, on the scale of log odds: their mean with
    the weights `_PRIOR_IMAGES` and the number of its true images.

    Args:
      scores: float[N,C], 0 to 1; truth: bool[N,C]; names: C.
      tau: of all labels.
      known: bool[N,C], the images that count for each label; None for all of them.
    """
    common, chosen = float(logit(tau)), {}
    for label in np.flatnonzero(truth.any(axis=0)).tolist():
        true = np.count_nonzero(truth[:, label])
        counted = slice(None) if known is None else known[:, label]
        own = float(logit(_best_cut(scores[counted, label], truth[counted, label])))
        mean = (true * own + _PRIOR_IMAGES * common) / (true + _PRIOR_IMAGES)
        chosen[names[label]] = 1 / (1 + math.exp(-mean))
    return chosen


def _best_cut(scores: np.ndarray, truth: np.ndarray) -> float:
    """The cut with the best F1 of one label, in the middle between two of its scores.

    Args:
      scores: float[N]; truth: bool[N], with a true image.
    """
    from sklearn.metrics import precision_recall_curve  # takes seconds, and is seldom asked for

    precision, recall, cuts = precision_recall_curve(truth, scores)
    both = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], both, out=np.zeros(len(cuts)), where=both > 0)
    best = _middle_of_the_best(f1)
    below = cuts[best - 1] if best else 0.0
    return (float(cuts[best]) + float(below)) / 2


def _middle_of_the_best(figures: np.ndarray) -> int:
    best = np.flatnonzero(np.isclose(figures, np.max(figures), rtol=0, atol=1e-9))
    return int(best[len(best) // 2])
