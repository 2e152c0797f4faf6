"""The loop that fits a row, and what it writes and says."""
