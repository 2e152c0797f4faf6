"""Every test sees 4 virtual CPU devices and a quiet TensorFlow."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
import jax

# The compiled steps of the tests are small; most of their time is XLA's optimisation.
jax.config.update("jax_numpy_rank_promotion", "warn")
hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("project")
