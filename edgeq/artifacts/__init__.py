"""Files that edgeq writes and reads again."""
