"""What the network is fed: the images of a split, or a frozen backbone's features of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import ml_collections
import numpy as np

from attn_lstm import parallel, progress
from attn_lstm.data.split import Batch, Split
from attn_lstm.rows import Row
from attn_lstm.runs.features import ensure_features

if TYPE_CHECKING:
    from attn_lstm.data.feature_store import FeatureStore


class Inputs:
    """The batches of one split, on this host.

    For a row that reads features (`Row.encoded`) they are computed first, as far as they are not
    kept in `config.cache.path` yet, and batches hold them in the place of images.

    Args:
      config: resolved.
      row: of the config.
      split: whose images.
      variables: of the network, on any devices.
      directory: the work directory.
      views: of each image that are kept; evaluation uses the first alone.
      say: gets lines on the progress of what is computed first.
      check: called between the images of that; ends it by what it raises.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        row: Row,
        split: Split,
        variables: dict[str, Any],
        directory: Path,
        *,
        views: int,
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ):
        self._config, self._split = config, split
        self._stores: tuple[FeatureStore, ...] = ()
        if row.encoded:
            self._stores = ensure_features(
                config,
                row.network,
                variables,
                split,
                Path(config.cache.path or directory / "features"),
                views=views,
                say=say,
                check=check,
            )

    def training(self, start_step: int) -> Iterator[Batch]:
        """Endless training batches from `start_step` on."""
        from attn_lstm.data import feature_store, pipeline

        config = self._config
        order: dict[str, Any] = {
            "batch_size": config.train.batch_size,
            "seed": config.seed,
            "start_step": start_step,
            **self._host(),
        }
        if self._stores:
            return feature_store.feature_train_batches(self._split, self._stores, **order)
        return pipeline.train_batches(
            self._split,
            image_size=config.data.image_size,
            resize=config.data.resize,
            augment=pipeline.Augment.from_config(config.data.augment),
            max_pixels=config.data.max_pixels,
            **order,
        )

    def training_images(self, step: int) -> list[str]:
        """Names of the images in the training batch that follows `step` finished updates."""
        from attn_lstm.data import pipeline

        rows = pipeline.training_rows(
            len(self._split), self._config.train.batch_size, self._config.seed, step
        )
        return [self._split.image_ids[row] for row in rows]

    def evaluation(
        self, doing: str = "evaluating", rows: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Every image once, in the order of the split, padded to whole batches.

        Args:
          doing: what is done with them, for the line that moves.
          rows: int64[M] of the split, where only some are wanted, in their order.
        """
        from attn_lstm.data import feature_store, pipeline

        size = parallel.divisible(self._config.eval.batch_size, jax.device_count())
        order: dict[str, Any] = {"batch_size": size, "rows": rows, **self._host()}
        if self._stores:
            batches = feature_store.feature_eval_batches(self._split, self._stores[0], **order)
        else:
            batches = pipeline.eval_batches(
                self._split,
                image_size=self._config.data.image_size,
                resize=self._config.data.resize,
                max_pixels=self._config.data.max_pixels,
                **order,
            )
        hosts = jax.process_count()  # each of which has its part of the images
        return progress.counted(
            batches,
            lambda batch: hosts * int((batch.image_id >= 0).sum()),
            doing,
            len(self._split if rows is None else rows),
        )

    def _host(self) -> dict[str, Any]:
        return {
            "on_bad_image": self._config.data.on_bad_image,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
