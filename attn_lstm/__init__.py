"""Ordered, explainable multi-label image predictions (Chen et al., AAAI 2018) in JAX.

model = attn_lstm.load_model("runs/digits")
model.predict(["a.jpg", "b.png"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_lstm.serving.model import ImagePrediction, Model, PredictedLabel, load_model

__version__ = "0.2.0"

__all__ = ["ImagePrediction", "Model", "PredictedLabel", "load_model"]


def __getattr__(name: str) -> Any:
    """Imports what users call when they name it: the package's own modules need no JAX for it."""
    if name in __all__:
        from attn_lstm.serving import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
