"""How many bits each layer gets, and what that costs; without torch."""
