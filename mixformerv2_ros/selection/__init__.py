"""Drawing a box on an image with the mouse: what is drawn on, the drawing, and the window."""
