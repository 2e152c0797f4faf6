"""Pure Linen modules: from images to labels."""
