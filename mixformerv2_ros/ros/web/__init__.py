"""One page in a browser: the picture, the targets, and a finger to draw with."""
