"""Honest measurements: latency, accuracy, memory, and the machine they were taken on."""
