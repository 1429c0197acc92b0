"""How the weights of one layer are rounded."""
