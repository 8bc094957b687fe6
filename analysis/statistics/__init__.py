"""Statistics over seeds, the unit of replication, computed by scipy and statsmodels. Every random draw is seeded.

Intervals cover the randomness of training (data order, head, adapter), not the sampling of test examples. These
modules take arrays of scores and know nothing about sweeps or tables.
"""
