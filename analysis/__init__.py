"""From results to tables: reads a results folder, knows nothing of training, and imports no torch."""
