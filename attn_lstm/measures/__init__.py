"""Maths on host arrays: figures, thresholds, calibration, diagnostics, bootstrap."""
