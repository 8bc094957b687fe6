"""What holds on a GPU, part by part: `make gpu-check`, or `python tests/benchmarks/gpu_check --help`."""
