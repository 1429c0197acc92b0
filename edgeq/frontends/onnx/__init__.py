"""From an ONNX file to a float `Network`, by way of the tracer."""
