"""What a user of PyTorch takes to read images: Pillow in the workers of a DataLoader."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

_ENDLESS = 10**9


class _Squares(Dataset):
    """The files over and over, squashed to uint8[size,size,3].

    Args:
      paths: JPEGs.
      size: pixels.
      draft: libjpeg may decode a picture at a half to an eighth of its size, down to that asked
        for, which changes the pixels.
    """

    def __init__(self, paths: Sequence[Path], size: int, draft: bool):
        self._paths, self._size, self._draft = list(map(str, paths)), size, draft

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index % len(self._paths)]) as image:
            if self._draft:
                image.draft("RGB", (self._size, self._size))
            square = image.convert("RGB").resize(
                (self._size, self._size), Image.Resampling.BILINEAR
            )
        return torch.from_numpy(np.array(square))


def delivered(paths: Sequence[Path], size: int, batch: int, draft: bool) -> Iterator[int]:
    """The size of each batch, from as many workers as there are cores."""
    loader = DataLoader(
        _Squares(paths, size, draft),
        batch_size=batch,
        num_workers=os.cpu_count() or 1,
        # A fork of a process with threads, as those of TensorFlow and JAX, may hang.
        multiprocessing_context="spawn",
    )
    return (len(squares) for squares in loader)
