"""Images, and what they go through before a network sees them."""
