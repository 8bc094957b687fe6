"""The files of a launch."""
