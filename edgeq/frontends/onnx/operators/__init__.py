"""What ONNX operators compute, in PyTorch's functions: one module for each family."""
