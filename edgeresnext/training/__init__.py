"""Training: from an image folder, and weights or none, to weights that are the best of a run."""
