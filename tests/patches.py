"""Images whose labels anybody can see: patches of colour."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": i, "name": name} for i, name in ((1, "red"), (3, "green"), (90, "blue"))]


def write_folder(root: Path, count: int) -> Path:
    """The same kind of pictures with a label file: the training images of `write_coco`."""
    write_coco(root, {"train2014": count})
    (table,) = (root / "annotations").iterdir()
    content = json.loads(table.read_text())
    names = {category["id"]: category["name"] for category in CATEGORIES}
    labels: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        labels[annotation["image_id"]].append(names[annotation["category_id"]])
    lines = [
        json.dumps({"image": f"train2014/{image['file_name']}", "labels": labels[image["id"]]})
        for image in content["images"]
    ]
    (root / "labels.jsonl").write_text("\n".join(lines) + "\n")
    table.unlink()
    return root


def write_coco(root: Path, counts: dict[str, int]) -> Path:
    """A folder in COCO's layout: colour patches on grey, one label a colour that is there."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(90, 130, (40, 40, 3), np.uint8)
            for channel in np.flatnonzero(rng.random(3) < (0.7, 0.5, 0.3)):
                y, x = rng.integers(0, 20, 2)
                pixels[y : y + 16, x : x + 16] = 0
                pixels[y : y + 16, x : x + 16, channel] = 255
                category = CATEGORIES[channel]["id"]
                box = [int(x), int(y), 16, 16]
                annotations.append(
                    {"id": len(annotations), "image_id": i, "category_id": category, "bbox": box}
                )
            name = f"COCO_{split}_{i:012}.jpg"
            Image.fromarray(pixels).save(root / split / name, quality=95)
            images.append({"id": i, "file_name": name, "width": 40, "height": 40})
        tables = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))
    return root
