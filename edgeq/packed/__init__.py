"""The quantized network in PyTorch: custom operators, modules, files."""
