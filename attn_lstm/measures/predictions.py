"""What was predicted of a split: host arrays that every measure reads."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Host arrays of all N images of a split, in its order, for one threshold."""

    labels: np.ndarray  # bool[N,C], as they are predicted, known or not
    scores: np.ndarray  # float32[N,C]
    sequence: np.ndarray  # int32[N,T]
    probabilities: np.ndarray  # float32[N,T]
    peaks: np.ndarray | None  # int32[N,T], the region with the largest attention
    losses: dict[str, np.ndarray]  # float32[N] each
    truth: np.ndarray  # bool[N,C]
    image_id: np.ndarray  # int32[N], rows of the split
    regions: int | None  # K
    cam_peaks: np.ndarray | None = None  # int32[N,C], where M_map's own map of a label has its peak
    known: np.ndarray | None = None  # bool[N,C], as in `Split`: what of it figures count

    @property
    def judged(self) -> np.ndarray:
        """The predicted labels that count, bool[N,C]: of those that are known."""
        return self.labels if self.known is None else self.labels & self.known

    @property
    def judged_sequence(self) -> np.ndarray:
        """`sequence` with -1 at the labels that are not known."""
        if self.known is None:
            return self.sequence
        emitted = np.maximum(self.sequence, 0)
        return np.where(np.take_along_axis(self.known, emitted, axis=1), self.sequence, -1)

    def judged_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32[M] and truth bool[M] of all labels of all images that are known."""
        if self.known is None:
            return self.scores.ravel(), self.truth.ravel()
        return self.scores[self.known], self.truth[self.known]

    def predicted_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32[M] and truth bool[M] of the predicted labels that are known."""
        return self.scores[self.judged], self.truth[self.judged]

    @property
    def sequence_scores(self) -> np.ndarray:
        """float32[N,T], the scores of the labels of `sequence`; behind them they mean nothing."""
        return np.take_along_axis(self.scores, np.maximum(self.sequence, 0), axis=1)


def cut(predictions: Predictions, tau: float | np.ndarray) -> Predictions:
    """With the labels whose score reaches τ, one for all or float[C], in the place of the sets.

    As the device would cut them. The sequences stay as they are.
    """
    return dataclasses.replace(predictions, labels=predictions.scores >= np.float32(tau))
