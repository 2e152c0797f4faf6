"""Does a network look where the label is? Pure functions of host arrays.

- How much does the map change between the labels of one image?
- Does it point into the label's box, better than maps that cost nothing?
- Does the label need what it looked at?

N images, C labels, T steps of emission, K regions of a square map in row-major order. Shares are in
percent. A figure that nothing was counted for is absent.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Of the regions, how many the deletion test takes away: 12 of 49, 49 of 196. A region's feature
# tells of its neighbours too, so that less would leave the object to be seen. One share for all
# maps: a share of their weight would take more from a map that is spread over the image.
DELETED = 0.25
DRAWS = 5  # of random regions, for each image


def pairs(sequence: np.ndarray) -> list[tuple[int, int, int]]:
    """The pairs of labels of one image: (image, step, later step) of each.

    Args:
      sequence: int[N,T], labels in the order of emission, -1 behind the last.
    """
    return [
        (image, *steps)
        for image, labels in enumerate(sequence)
        for steps in itertools.combinations(np.flatnonzero(labels >= 0).tolist(), 2)
    ]


def total_variation(maps: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """The total variation distance of the maps of each of the `pairs`: float64[P].

    0 where two labels have one map, 1 where no region has weight in both.

    Args:
      maps: float[N,T,K], which sum to 1 over the regions; sequence: int[N,T].
    """
    # One by one: all pairs of a large split at once would be copies of its maps.
    return np.array(
        [
            np.abs(maps[image, step].astype(np.float64) - maps[image, later]).sum() / 2
            for image, step, later in pairs(sequence)
        ]
    )


def same_peak(
    peaks: np.ndarray, sequence: np.ndarray, boxes: Sequence[np.ndarray] | None = None
) -> dict[str, float]:
    """In how many of the `pairs` both maps have their peak in one region.

    Args:
      peaks: int[N,T], the region with the largest weight; sequence: int[N,T].
      boxes: of each image float[n,5], as in `Split.boxes`. With them only pairs of correct labels
        count whose boxes differ: a person and the tie that fills the same box may share a peak.

    Returns:
      'pairs', how many count, and 'same_peak'.
    """
    counted = [
        (image, step, later)
        for image, step, later in pairs(sequence)
        if boxes is None or _differ(boxes[image], *sequence[image, [step, later]])
    ]
    if not counted:
        return {"pairs": 0}
    image, step, later = np.array(counted).T
    same = peaks[image, step] == peaks[image, later]
    return {"pairs": len(counted), "same_peak": 100 * float(same.mean())}


def _differ(boxes: np.ndarray, label: int, other: int) -> bool:
    """Whether both labels have boxes, and not the same ones."""
    own, others = ({tuple(box) for box in boxes[boxes[:, 0] == x, 1:]} for x in (label, other))
    return bool(own) and bool(others) and own != others


def pointing(
    sequence: np.ndarray,
    peaks: Mapping[str, np.ndarray],
    regions: int,
    boxes: Sequence[np.ndarray],
) -> dict[str, float]:
    """How often a peak lies inside a box of its label, over all correct labels (Zhang et al. 2016).

    A peak counts as the centre of its region.

    Args:
      sequence: int[N,T], labels in the order of emission, -1 behind the last.
      peaks: by the name of the maps int[N,T], the region with the largest weight.
      regions: K.
      boxes: of each image float[n,5], as in `Split.boxes`.

    Returns:
      'labels', how many correct ones have a box; the share of each of `peaks` by its name; and on
      the same labels what needs no network: 'centre', the middle of the image, and 'uniform', a
      region drawn with equal chance.
    """
    side = math.isqrt(regions)
    middle = (np.arange(side) + 0.5) / side
    centres = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2)  # [K,(y,x)]
    hits: dict[str, list[float]] = {name: [] for name in (*peaks, "centre", "uniform")}
    for image, labels in enumerate(sequence):
        for step, label in enumerate(labels):
            corners = boxes[image][boxes[image][:, 0] == label, 1:]
            if label < 0 or len(corners) == 0:
                continue
            inside = _inside(centres, corners)
            for name, at in peaks.items():
                hits[name].append(inside[at[image, step]])
            hits["centre"].append(_inside(np.full((1, 2), 0.5), corners)[0])
            hits["uniform"].append(inside.mean())
    labels = len(hits["uniform"])
    if not labels:
        return {"labels": 0}
    return {"labels": labels} | {name: 100 * float(np.mean(x)) for name, x in hits.items()}


def _inside(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """bool[P]: which of the points [P,(y,x)] lie in one of the boxes [n,4], edges included."""
    low, high = corners[:, None, :2], corners[:, None, 2:]
    return np.asarray(((points >= low) & (points <= high)).all(axis=-1).any(axis=0))


def deletion(
    score: Callable[[np.ndarray], np.ndarray],
    sequence: np.ndarray,
    maps: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """How far a label's probability falls when the regions that it looked at are taken away.

    Of each label it is the `DELETED` share of the regions, those with the largest weights (as
    Petsiuk et al. 2018 take pixels). What as many random regions take from the label, the mean of
    `DRAWS` draws, says whether it needs those that it looked at; what these take from the image's
    other labels says whether they are its own.

    Args:
      score: maps the regions that are gone, bool[N,K], to the labels' probabilities without them,
        float[N,C].
      sequence: int[N,T], labels in the order of emission, -1 behind the last.
      maps: float[N,T,K], where the network looked for each.
      rng: draws the random regions, and chooses between regions of equal weight.

    Returns:
      'labels', how many were tried, and the 'regions' taken away; in percent the mean 'probability'
      of these labels before; in points of percent its mean falls: of the label itself, 'own'; of
      it with 'random' regions; and of the 'others' of the images that have some. Of maps with
      fewer than four regions no label is tried.
    """
    listed = sequence >= 0
    removed = int(DELETED * maps.shape[-1])
    if not removed or not listed.any():
        return {"labels": 0}
    places = np.maximum(sequence, 0)

    def of_labels(gone: np.ndarray) -> np.ndarray:
        """float64[N,T]: the probability of each label of the sequences."""
        return np.take_along_axis(score(gone).astype(np.float64), places, axis=1)

    even = np.ones((len(maps), maps.shape[-1]))
    before = of_labels(np.zeros(even.shape, bool))
    random = [before - of_labels(_largest(even, removed, rng)) for _ in range(DRAWS)]
    own, others = [], []
    for step in range(sequence.shape[1]):
        fall = (before - of_labels(_largest(maps[:, step], removed, rng)))[listed[:, step]]
        rest = np.delete(listed[listed[:, step]], step, axis=1)
        own.append(fall[:, step])
        some = rest.any(axis=1)
        fall_of_rest = np.where(rest, np.delete(fall, step, axis=1), 0)[some].sum(axis=1)
        others.append(fall_of_rest / rest[some].sum(axis=1))
    found = {
        "probability": before[listed],
        "own": np.concatenate(own),
        "random": np.mean(random, axis=0)[listed],
        "others": np.concatenate(others),
    }
    means = {name: 100 * float(values.mean()) for name, values in found.items() if len(values)}
    return {"labels": int(listed.sum()), "regions": removed} | means


def _largest(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """bool[N,K]: of each row of float[N,K] the `count` largest, of equal ones any."""
    order = np.lexsort((rng.random(weights.shape), -weights.astype(np.float64)), axis=-1)
    largest = np.zeros(weights.shape, bool)
    np.put_along_axis(largest, order[:, :count], True, axis=1)
    return largest
