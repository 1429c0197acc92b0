"""The quantized network in PyTorch: operators, modules, files."""
