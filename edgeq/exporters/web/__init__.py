"""A packed network as a page for browsers."""
