"""From a packed network to a program of the native engine."""
