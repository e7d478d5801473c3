"""What holds for tests and for the examples in docstrings alike."""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it as it is first imported, by whichever test comes first


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test and every docstring starts from the same random state."""
    import torch

    torch.manual_seed(0)
