"""The files of a launch, each with one module that reads and writes it."""
