"""Figures as SVG and PNG, one module for each kind, legible for colour-blind readers and in greyscale."""
