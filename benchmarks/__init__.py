"""Measurements against peers: `make bench` runs every file here as `python -m benchmarks.NAME`."""
