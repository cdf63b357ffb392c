"""Box selection: drawing a box on an image, the logic and a Tk window."""
