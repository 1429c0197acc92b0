"""Artifacts as tables and figures."""
