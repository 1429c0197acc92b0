"""A packed network as a folder of C."""
