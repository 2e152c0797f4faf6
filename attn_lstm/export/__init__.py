"""A trained network for other programs, which need nothing of this package."""
