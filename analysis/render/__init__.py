"""Rendering: the same tables as markdown, LaTeX, CSV, JSON and on the terminal."""
