"""The operators that a graph can have."""
