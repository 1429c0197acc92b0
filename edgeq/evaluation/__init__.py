"""Measure models: accuracy, latency, memory."""
