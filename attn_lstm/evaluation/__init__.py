"""A checkpoint or many runs judged on a split."""
