"""The bit width of every layer, and its cost; without torch."""
