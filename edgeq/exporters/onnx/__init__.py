"""The ONNX model of a network."""
