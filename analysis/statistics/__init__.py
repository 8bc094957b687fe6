"""Statistics over seeds, the unit of replication; scipy and statsmodels do the work. Everything is seeded.

Intervals cover the randomness of training (data order, head, adapter), not the sampling of test examples. Nothing here
knows of sweeps or tables: the input is arrays of scores.
"""
