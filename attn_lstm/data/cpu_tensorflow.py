"""TensorFlow as this package uses it: on the CPU only, and quiet.

Import `tf` from here, never from `tensorflow` itself: TensorFlow otherwise reserves the memory of
every GPU it sees, and JAX finds none left.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that are set while the block runs, and then are as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


with _environment(
    # Its notices, and its warnings of images that we report ourselves, would bury the one line that
    # tells a user what is wrong. JAX has set a level of its own, which lets warnings through.
    TF_CPP_MIN_LOG_LEVEL=max("2", os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0"), key=int),
    # Results that depend on the kind of processor; and another notice, which no log level silences.
    TF_ENABLE_ONEDNN_OPTS=os.environ.get("TF_ENABLE_ONEDNN_OPTS", "0"),
    # TensorFlow would load Keras, a third of its own time, in case a saved model holds an
    # optimizer. Of the two versions of Keras it is told to take the one that is hardly ever
    # installed, for as long as this block lasts: `tf.keras` is still what it was when somebody asks
    # for it.
    TF_USE_LEGACY_KERAS="1",
):
    import tensorflow as tf

# Refused when the surrounding program has used TensorFlow already: its choice of devices stands.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
