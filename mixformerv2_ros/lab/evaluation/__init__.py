"""One-pass evaluation, metrics, other trackers."""
