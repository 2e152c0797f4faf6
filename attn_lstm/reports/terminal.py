"""What `eval.py` prints of an evaluation: from the dictionary of its JSON file to text."""

from collections.abc import Mapping
from typing import Any

from attn_lstm.reports.tables import figures_table

_LISTED = 10  # labels named in one line


def describe(result: Mapping[str, Any]) -> str:
    """The table row, the top-3 row, and what they stand on."""
    rows = {result["method"]: result, f"{result['method']}, top-3": result["top-3"]}
    sizes = result["set_size"]
    loss = f", loss {result['loss']:.3f}" if "loss" in result else ""
    lines = [
        figures_table(rows),
        f"{result['images']} images of {result['dataset']} {result['split']}, step "
        f"{result['step']}, τ = {result['threshold']:.3f} ({result['threshold_origin']}), labels "
        f"an image {sizes['predicted']:.2f} predicted, {sizes['true']:.2f} true, macro-F1 "
        f"{result['macro-F1']:.1f}{loss}",
    ]
    if left_out := result["left_out_labels"]:
        whole, listed = result["over_all_labels"], ", ".join(left_out[:_LISTED])
        more = ", ..." if len(left_out) > _LISTED else ""
        lines.append(
            f"{len(left_out)} of {result['labels']} labels are neither true nor predicted and "
            f"leave the means: {listed}{more} (by all labels, as in the paper: C-P "
            f"{whole['C-P']:.1f}, C-F1 {whole['C-F1']:.1f}, macro-F1 {whole['macro-F1']:.1f})"
        )
    if unknown := result.get("unknown_pairs"):
        share = unknown / (result["images"] * result["labels"])
        lines.append(
            f"{share:.1%} of the labels of all images are not known and count in no figure, "
            "predicted or not"
        )
    if result["unreadable_images"]:
        lines.append(f"{result['unreadable_images']} images could not be read and do not count")
    calibrated = result["calibration"]
    if calibrated.get("calibrated_error") is not None:
        lines.append(
            f"calibration error of the predicted labels: scores {calibrated['error']:.1f} points, "
            f"{calibrated['calibrated_error']:.1f} when calibrated on the validation split"
        )
    lines += _describe_looking(*(result.get(x, {}) for x in ("looking", "pointing", "deletion")))
    return "\n".join([*lines, *_describe_diagnostics(result["diagnostics"])])


def _describe_looking(
    looking: Mapping[str, Any], pointing: Mapping[str, Any], deletion: Mapping[str, Any]
) -> list[str]:
    """Lines on how the attention changes from label to label, where it points, what needs it."""
    lines = []
    if "same_peak" in looking:
        apart = looking.get("of_other_boxes", {})
        boxes = (
            f", {apart['same_peak']:.1f} % where the boxes of correct labels differ"
            if "same_peak" in apart
            else ""
        )
        lines.append(
            f"two labels of an image share the attention's peak in {looking['same_peak']:.1f} % of "
            f"{looking['pairs']} pairs{boxes}; total variation between their maps "
            f"{looking['total_variation']:.2f}"
        )
    if "attention" in pointing:
        names = {"cam": "M_map's own", "centre": "the image's middle", "uniform": "a uniform map"}
        others = [f"{name} {pointing[x]:.1f}" for x, name in names.items() if x in pointing]
        lines.append(
            f"attention peaks inside the label's box for {pointing['attention']:.1f} % of "
            f"{pointing['labels']} correct labels ({', '.join(others)})"
        )
    if "own" in deletion:
        fall_of_others = (
            f"; the image's other labels fall by {deletion['others']:.1f}"
            if "others" in deletion
            else ""
        )
        lines.append(
            f"without the {deletion['regions']} regions that it looked at most a label falls by "
            f"{deletion['own']:.1f} points of {deletion['probability']:.1f} %, without random ones "
            f"by {deletion['random']:.1f}{fall_of_others} ({deletion['labels']} labels of "
            f"{deletion['images']} images)"
        )
    return lines


def _describe_diagnostics(diagnosis: Mapping[str, Any]) -> list[str]:
    """Lines on the order of emission, and on where labels are found."""
    lines = []
    orders = [
        f"{name.replace('_', ' ')} {order['kendall_tau']:+.2f} on {order['images']} images"
        for name, order in diagnosis["order"].items()
        if order["kendall_tau"] is not None
    ]
    if orders:
        lines.append(f"order of emission (Kendall's rank correlation): {', '.join(orders)}")
    if diagnosis["repeating_sequences"]:
        lines.append(f"{diagnosis['repeating_sequences']} sequences name a label twice")
    groups = [f"{size}: {f['O-F1']:.1f}" for size, f in diagnosis["by_true_labels"].items()]
    sizes = [
        f"{size} {objects['recall']:.1f}"
        for size, objects in diagnosis.get("recall_by_object_size", {}).items()
    ]
    recall = f"; recall of objects {', '.join(sizes)}" if sizes else ""
    return [*lines, f"O-F1 by true labels {', '.join(groups)}{recall}"]
