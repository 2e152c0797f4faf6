"""What training, evaluation and use share: a work directory and what lies in it."""
