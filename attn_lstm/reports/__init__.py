"""Text, pictures and pages of figures: arrays in, the content of files out."""
