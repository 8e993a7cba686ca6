"""Stages of a benchmark that tests about anything else leave out."""

LATENCY_ALONE = ("pytorch", "scopes", "layers", "energy", "memory")
