"""Rounding all layers of a network in order, and tuning them together."""
