"""A tracker node seen from another process: what it publishes, and what it can be told."""
