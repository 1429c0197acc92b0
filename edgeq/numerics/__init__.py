"""The arithmetic of quantization, in NumPy."""
