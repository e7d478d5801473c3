"""What holds for tests and for the examples in docstrings alike."""

import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test and every docstring starts from the same random state."""
    import torch

    torch.manual_seed(0)
