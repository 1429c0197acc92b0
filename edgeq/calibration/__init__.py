"""Measure a float network on images: ranges and sensitivities."""
