"""TensorFlow as this package uses it: on the CPU only, and quiet.

Import `tf` from here, never from `tensorflow` itself: TensorFlow otherwise reserves the memory of
every GPU it sees, and JAX finds none left.
"""

import contextlib
import os

# Its notices, and its warnings of images that we report ourselves, would bury the one line that
# tells a user what is wrong. JAX has set a level of its own, which lets warnings through.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = max("2", os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0"), key=int)
# Results that depend on the kind of processor; and another notice, which no log level silences.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# TensorFlow would load Keras, a third of its own time, in case a saved model holds an optimizer. Of
# the two versions of Keras it is told to take the one that is hardly ever installed, for as long as
# this line lasts: `tf.keras` is still what it was when somebody asks for it.
_KERAS = "TF_USE_LEGACY_KERAS"
_chosen = os.environ.get(_KERAS)
os.environ[_KERAS] = "1"
try:
    import tensorflow as tf
finally:
    del os.environ[_KERAS]
    if _chosen is not None:
        os.environ[_KERAS] = _chosen

# Refused when the surrounding program has used TensorFlow already: its choice of devices stands.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
