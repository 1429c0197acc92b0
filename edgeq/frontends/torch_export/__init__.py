"""From an `nn.Module` to a float `Network`, by `torch.export`."""
