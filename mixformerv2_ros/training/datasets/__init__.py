"""Data sets of clips and stills with boxes, as training draws from them."""
