"""What a model is worth: accuracy, latency, memory."""
