"""A few validation images, always the same, with what the network says of them as it learns."""

from __future__ import annotations

from collections.abc import Callable

import ml_collections
import numpy as np

from attn_lstm.data.split import Split
from attn_lstm.errors import UserError
from attn_lstm.measures.predictions import Predictions
from attn_lstm.runs import pictures

COUNT = 4
_SEED = 0  # of the draw
# TensorBoard shows pictures some 300 pixels wide: text stays legible in narrow ones.
_COLUMNS, _DPI = 2, 100


class Samples:
    """Draws, at each validation, images that were drawn by lot among those with a label.

    Args:
      config: of the run.
      data: the validation split.
      say: gets a line if the images cannot be drawn, which is no reason not to train.
    """

    def __init__(self, config: ml_collections.ConfigDict, data: Split, say: Callable[[str], None]):
        self._config, self._data, self._say = config, data, say
        rows = np.random.default_rng(_SEED).permutation(len(data))
        self._rows = rows[data.labels[rows].any(1)][:COUNT]

    def draw(self, predictions: Predictions, maps: np.ndarray | None) -> dict[str, np.ndarray]:
        """Pictures uint8[H,W,3] by the name of their image; none if they cannot be read.

        Args:
          predictions: of the validation split.
          maps: their attention, float[N,T,K], or None.
        """
        from attn_lstm.reports import attention_figure

        examples = pictures.Examples(self._config, self._data, predictions, maps)
        try:
            found = examples.of(np.flatnonzero(np.isin(predictions.image_id, self._rows)))
        except UserError as error:
            self._say(f"no pictures for TensorBoard: {error}")
            self._rows = self._rows[:0]
            return {}
        return {
            e.image_id: attention_figure.render(attention_figure.draw(e, _COLUMNS), _DPI)
            for e in found
        }
