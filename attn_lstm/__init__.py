"""Ordered, explainable multi-label image predictions (Chen et al., AAAI 2018) in JAX."""
