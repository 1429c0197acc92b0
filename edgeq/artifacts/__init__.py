"""The files that edgeq writes and reads back."""
