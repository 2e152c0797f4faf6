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

import tensorflow as tf

# Refused when the surrounding program has used TensorFlow already: its choice of devices stands.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
