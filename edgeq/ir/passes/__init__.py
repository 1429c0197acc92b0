"""Rewrites of a graph, one a module."""
