"""Counts the labels of a data set: how many an image, how often each, which of them together.

Pure functions of labels, and their results as text; `attn-lstm statistics` is the command, which
runs under this module's name too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array, triu

from attn_lstm.data.split import Split
from attn_lstm.text import plain_table

_PAIRS = 10  # co-occurrences listed

# ------------------------------------------------------------------------------------ the counts


def label_statistics(split: Split) -> dict[str, Any]:
    """What `count_labels` finds in a split, with its 'dataset' and the name of the 'split'."""
    counts = count_labels(split.label_names, split.labels, split.known)
    return {"dataset": split.dataset, "split": split.name, **counts}


def count_labels(
    label_names: Sequence[str], labels: np.ndarray, known: np.ndarray | None = None
) -> dict[str, Any]:
    """The label statistics of N images, ready for JSON.

    Args:
      label_names: C names.
      labels: bool[N,C].
      known: bool[N,C], or None where all labels are known.

    Returns:
      'images', 'labels': N and C; 'unlabelled_images': those without a label.
      'labels_an_image': {'mean' (None without images), 'max', 'images': how many have 0, 1 …}.
      'frequencies': of every label {'label', 'rank', 'images', 'share' of all images}, the most
      frequent first, which has rank 1; of equals the lower column, as the orders of training
      have it. Where some labels are not known, 'known' is the number of images of which this one
      is, and the share is that of these.
      'pairs': of the labels that are most often on one image {'labels': two names, 'images',
      'share'}, the most frequent first; at most 10, and none that never occurs.
    """
    images, sizes, counts = len(labels), labels.sum(axis=1), labels.sum(axis=0)
    judged = None if known is None else known.sum(axis=0)
    return {
        "images": images,
        "labels": len(label_names),
        "unlabelled_images": int((sizes == 0).sum()),
        "labels_an_image": {
            "mean": float(sizes.mean()) if images else None,
            "max": int(sizes.max(initial=0)),
            "images": np.bincount(sizes).tolist(),
        },
        "frequencies": [
            {
                "label": label_names[label],
                "rank": rank,
                **_share(counts[label], images if judged is None else judged[label]),
                **({} if judged is None else {"known": int(judged[label])}),
            }
            for rank, label in enumerate(np.argsort(-counts, kind="stable"), start=1)
        ],
        "pairs": [
            {"labels": [label_names[first], label_names[second]], **_share(together, images)}
            for first, second, together in _most_frequent_pairs(labels)
        ],
    }


def _share(count: int, images: int) -> dict[str, Any]:
    return {"images": int(count), "share": float(count / images) if images else None}


def _most_frequent_pairs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, second, images that have both), of bool[N,C]; first < second."""
    # Of ten thousand labels few pairs ever meet: a full table of them would take 800 MB.
    ones = csr_array(labels, dtype=np.int32)
    together = triu(ones.T @ ones, k=1).tocoo()
    order = np.lexsort((together.col, together.row, -together.data))[:_PAIRS]
    return [(int(together.row[i]), int(together.col[i]), int(together.data[i])) for i in order]


# -------------------------------------------------------------------------------------- the text


def describe(statistics: Sequence[Mapping[str, Any]]) -> str:
    """Several splits of one data set as text.

    Args:
      statistics: of each split, as `label_statistics` gives them.
    """
    parts = [
        f"{statistics[0]['dataset']}: {numbered(statistics[0]['labels'], 'label')}",
        split_table({of_split["split"]: of_split for of_split in statistics}),
        sufficient_length(max(of_split["labels_an_image"]["max"] for of_split in statistics)),
    ]
    for of_split in statistics:
        lines = [
            [line["label"], str(line["rank"]), f"{line['images']:,}", percent(line["share"])]
            for line in of_split["frequencies"]
        ]
        table = plain_table([["label", "rank", "images", "share"], *lines])
        parts += [f"Labels of {of_split['split']}\n{table}", pair_table(of_split)]
    return "\n\n".join(parts)


def split_table(statistics: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each part of a data set: images, and labels an image.

    Args:
      statistics: as `count_labels` gives them, by the name of the part.
    """
    lines = []
    for name, counts in statistics.items():
        sizes = counts["labels_an_image"]
        mean = "-" if sizes["mean"] is None else f"{sizes['mean']:.2f}"
        cells = (counts["images"], counts["unlabelled_images"])
        lines.append([name, *(f"{n:,}" for n in cells), mean, f"{sizes['max']:,}"])
    head = ["split", "images", "without a label", "labels an image", "at most"]
    return plain_table([head, *lines])


def sufficient_length(most: int) -> str:
    """What to set for sequences as long as the largest label set."""
    return f"--config.decoder.max_labels={most} is enough for all of them."


def pair_table(statistics: Mapping[str, Any]) -> str:
    """The labels that are most often on one image, from what `count_labels` gives."""
    lines = [
        [" + ".join(pair["labels"]), f"{pair['images']:,}", percent(pair["share"])]
        for pair in statistics["pairs"]
    ]
    if not lines:
        return "No image has two labels."
    return plain_table([["most often together", "images", "share"], *lines])


def percent(share: float | None) -> str:
    """A share as text; '-' where there is nothing to have a share of."""
    return "-" if share is None else f"{share:.1%}"


def numbered(count: int, noun: str) -> str:
    """'1 label', '2,000 labels'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    from attn_lstm.commands import run

    run("statistics")
