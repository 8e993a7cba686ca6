"""Latencies as a machine gives them, drawn by a seeded generator."""

import math

import numpy as np


def run(generator, count, noise, *, wander=0.02, memory=20, median_s=0.01):
    """Latencies as a machine gives them: lognormal noise, a slow AR(1) wander, and 1 % of samples that take 3 times as long."""
    keep = math.exp(-1 / memory)
    slow = np.empty(count)
    slow[0] = generator.normal()
    for index, push in enumerate(generator.normal(0, math.sqrt(1 - keep**2), count - 1), 1):
        slow[index] = keep * slow[index - 1] + push
    samples = median_s * np.exp(noise * generator.normal(size=count) + wander * slow)
    return np.where(generator.random(count) < 0.01, 3 * samples, samples)
