"""Data sets of annotated images and sequences."""
