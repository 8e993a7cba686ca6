"""The machine under a benchmark: what it is, what else it did meanwhile, and what energy it took."""
