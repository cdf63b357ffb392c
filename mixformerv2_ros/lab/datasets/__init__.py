"""Data sets of images and sequences with boxes."""
