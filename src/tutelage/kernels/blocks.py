"""How large a tile is: enough tokens to keep matrix products fast, few enough to keep memory small."""

from __future__ import annotations

import torch

TILE = 2**19
"""About how many logits a tile has on a CPU: small enough for caches, and so large that starting threads costs little.

With 2 threads and half as many, starting them made a loss of 2048 tokens 4 % slower.
"""

# A fused buffer takes at most a ninth of the logits, below the eighth that is promised, unless that is less than 32 MiB
# of float32; and it does not grow beyond 64 MiB with the vocabulary, unless 64 tokens need more.
_SHARE, _FEW, _MANY = 9, 2**23, 2**24


def choose_blocks(
    block_size: tuple[int, int] | None, tokens: int, vocabulary: int, device: torch.device, *, buffers: int = 0
) -> tuple[int, int]:
    """Tokens and vocabulary entries of a tile.

    Args:
        block_size: What the caller asks for; it is only cut to the size of the problem.
        tokens: Rows of hidden states.
        vocabulary: Rows of the head.
        device: A CPU wants tiles that fit its caches, an accelerator large ones.
        buffers: How many `[tokens of a tile, vocabulary]` buffers there will be; 0 when only single tiles are held.

    Returns:
        At least one token and one column.

    >>> choose_blocks(None, 2048, 65536, torch.device("cpu"), buffers=1)
    (208, 4096)
    >>> choose_blocks(None, 8192, 131072, torch.device("cpu"), buffers=1)
    (128, 4096)
    >>> choose_blocks((64, 100), 10, 50, torch.device("cpu"))
    (10, 50)
    """
    if block_size is not None:
        rows, columns = block_size
    else:
        on_cpu = device.type == "cpu"
        rows = 256 if on_cpu else 2048
        if buffers:
            held = vocabulary * buffers
            share = max(tokens // (_SHARE * buffers), min(128, _FEW // held), 32)
            rows = min(rows, share, max(64, _MANY // held))
            count = -(-tokens // rows)
            rows = -(-tokens // count) if count else rows  # equal blocks, ...
            rows = -(-rows // 16) * 16  # ... of a size that matrix products like
        columns = 1 << (-(-TILE // rows) - 1).bit_length() if on_cpu else 8192
    return max(1, min(rows, tokens)), max(1, min(columns, vocabulary))


def row_blocks(count: int, rows: int) -> list[tuple[int, int]]:
    """First and end of every block of at most `rows` rows.

    >>> row_blocks(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + rows, count)) for start in range(0, count, rows)]
