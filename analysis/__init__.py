"""Tables, figures and reports from a results folder. Knows nothing about training and imports no torch."""
