"""What the task `plain_limited` reads: apart from the plugin, which registers itself wherever it is imported."""

MEMORY_LIMIT = "TENSLORADIST_GPU_CHECK_BYTES"  # of the device
BATCH_LIMIT = "TENSLORADIST_GPU_CHECK_EXAMPLES"  # on the CPU
