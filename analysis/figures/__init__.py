"""Figures: one module for each kind, over plain data; SVG and PNG, made for colour-blind and greyscale readers."""
