"""Ways in: from other people's networks and weights to a float `Network`."""
