"""Sets of images, and their preprocessing."""
