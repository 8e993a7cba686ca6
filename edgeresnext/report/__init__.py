"""Show a benchmark to people and to programs."""
