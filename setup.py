"""Packaging: what the program needs, and the extras for tests and accelerators."""

from setuptools import find_packages, setup

setup(
    name="attn_lstm",
    version="0.1.0",
    description="Order-free RNN with visual attention for multi-label classification, in JAX",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["attn_lstm", "attn_lstm.*", "configs"]),
    package_data={
        "attn_lstm.export": ["*.j2"],
        "attn_lstm.reports": ["*.j2", "*.css", "*.js"],
    },
    install_requires=[
        "absl-py>=2.1",
        # TFDS reads records by their index with it.
        'array_record>=0.8; sys_platform != "win32"',
        # jax.export writes with it, and does not declare it.
        "flatbuffers>=24",
        "flax>=0.12",
        # TFDS imports it when it prepares a data set, and does not declare it.
        "importlib_resources>=6",
        "jax>=0.8",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "ml_dtypes>=0.5",
        "numpy>=2.0",
        "optax>=0.2.5",
        # Its 1.0 may change the interfaces of checkpoint managers.
        "orbax-checkpoint>=0.11,<1",
        "pillow>=11",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        # Shows what tensorboardX has written.
        "tensorboard>=2.20",
        "tensorboardX>=2.6.5",
        # TensorFlow only reads data. The CPU wheels exist for Linux on x86 alone.
        'tensorflow-cpu>=2.20; platform_system == "Linux" and platform_machine == "x86_64"',
        'tensorflow>=2.20; platform_system != "Linux" or platform_machine != "x86_64"',
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "test": [
            "hypothesis>=6.100",
            # Holds the imports to the order of the rooms.
            "import-linter>=2.17",
            # These three run the notebook.
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            # The formatter's style changes between minor versions.
            "ruff>=0.17,<0.18",
            "scipy>=1.14",
            # The oracle for layers and weights; a CPU build serves. Left open, pip would fetch the
            # newest release with its CUDA packages, also past a CPU build it was pointed to, e.g.
            # with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. A pinned 2.13.0 is
            # met by that index's 2.13.0+cpu, which pip prefers.
            "torch==2.13.0",
        ],
        "cuda13": ["jax[cuda13]>=0.8"],
        "tpu": ["jax[tpu]>=0.8"],
    },
)
