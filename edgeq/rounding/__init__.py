"""Rounding the weights of one layer."""
