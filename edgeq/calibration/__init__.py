"""Calibration: measure activation ranges and sensitivities of a float network on images."""
