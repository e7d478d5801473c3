"""One training task each, taught by us, by a peer's trainer and by a plain loop; `benchmarks.peers` runs them in turn.

What is taught is in `tasks`, which needs PyTorch alone (and `transformers` for text), so that it runs in the
environment of a peer too.
"""
