"""The pass over the network that rounds and tunes all layers."""
