"""Images of what the network sees."""
