"""Bytes that know the words which end at them: richer input embeddings for byte-level models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_same_length

_NO_BYTE = 256


class LongestTokens(nn.Module):
    """The longest token of a vocabulary that ends at each byte of a text, for all positions at once.

    A trie of the tokens, spelled backwards, is walked from every byte to the left.

    Args:
        byte_tokens: The bytes of every token of the byte-level vocabulary, see `vocabulary_bytes`: one byte, or none
            for special tokens, at which nothing ends and which nothing spans.
        tokens: The bytes of every token to look for; empty ones are never found, and of equal ones the first.

    Raises:
        ValueError: A byte-level token of more than one byte.

    >>> vocabulary = [bytes([byte]) for byte in range(256)]
    >>> LongestTokens(vocabulary, [b"a", b"at", b"cat"])(torch.tensor([list(b"a cat")])).tolist()
    [[0, -1, -1, 0, 2]]
    """

    def __init__(self, byte_tokens: Sequence[bytes], tokens: Sequence[bytes]) -> None:
        super().__init__()
        long = next((token for token in byte_tokens if len(token) > 1), None)
        if long is not None:
            raise ValueError(f"Expected a byte-level vocabulary, but it has the token {long!r} of {len(long)} bytes.")
        symbols = [token[0] if token else _NO_BYTE for token in byte_tokens]
        children: dict[tuple[int, int], int] = {}
        ending = {0: -1}
        for number, token in enumerate(tokens):
            node = 0
            for byte in reversed(token):
                node = children.setdefault((node, byte), len(children) + 1)
                ending.setdefault(node, -1)
            if token and ending[node] < 0:
                ending[node] = number
        edges = sorted((node * (_NO_BYTE + 1) + byte, child) for (node, byte), child in children.items())
        keys = torch.tensor([key for key, _ in edges], dtype=torch.int64)
        self.longest = max(map(len, tokens), default=0)
        self.register_buffer("symbols", torch.tensor(symbols, dtype=torch.int64), persistent=False)
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("children_", torch.tensor([child for _, child in edges]), persistent=False)
        self.register_buffer("ending", torch.tensor([ending[node] for node in range(len(ending))]), persistent=False)

    symbols: Tensor
    keys: Tensor
    children_: Tensor
    ending: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens `[..., time]` int64 for byte-level ids `[..., time]`; -1 where none ends."""
        read = self.symbols[ids]
        node = torch.zeros_like(read)  # the root; -1 once the walk has left the trie
        found = torch.full_like(read, -1)
        for back in range(min(self.longest, ids.shape[-1])):
            before = torch.full_like(read, _NO_BYTE)
            before[..., back:] = read[..., : read.shape[-1] - back]
            key = torch.where(node >= 0, node * (_NO_BYTE + 1) + before, -1)
            place = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
            node = torch.where(self.keys[place] == key, self.children_[place], -1)
            if not bool((node >= 0).any()):
                break
            here = self.ending[node.clamp_min(0)]
            found = torch.where((node >= 0) & (here >= 0), here, found)
        return found


class ByteInputExpansion(nn.Module):
    """Input embeddings of bytes, each with the embedding of the longest old token that ends there added to it.

    Args:
        byte_tokens: The bytes of every token of the byte-level vocabulary, see `vocabulary_bytes`.
        embeddings: `[byte vocabulary, width]`, what every byte begins with.
        old_tokens: The bytes of every token of the old vocabulary.
        old_embeddings: `[old vocabulary, width]`.

    Raises:
        ValueError: Tables that do not fit the vocabularies or each other.

    The bytes' own table learns, the old one stays as it is (as in the authors' code). Every call must see the text from
    its start: what ends at a byte depends on the bytes before it.

    >>> old = torch.tensor([[1.0], [2.0], [3.0]])
    >>> embed = ByteInputExpansion([b"a", b"b"], torch.zeros(2, 1), [b"a", b"b", b"ab"], old)
    >>> embed(torch.tensor([0, 1, 1])).flatten().tolist()
    [1.0, 3.0, 2.0]
    """

    def __init__(
        self, byte_tokens: Sequence[bytes], embeddings: Tensor, old_tokens: Sequence[bytes], old_embeddings: Tensor
    ) -> None:
        super().__init__()
        check_same_length(embeddings, byte_tokens, "embeddings", "byte_tokens")
        if len(old_embeddings) < len(old_tokens) or old_embeddings.shape[1:] != embeddings.shape[1:]:
            raise ValueError(
                f"Expected argument `old_embeddings` to have the shape [{len(old_tokens)}, {embeddings.shape[1]}], "
                f"but got {list(old_embeddings.shape)}."
            )
        self.find = LongestTokens(byte_tokens, old_tokens)
        self.weight = nn.Parameter(embeddings.detach().clone())
        self.register_buffer("old_weight", old_embeddings.detach()[: len(old_tokens)].clone())

    old_weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings `[..., time, width]` of ids `[..., time]`."""
        found = self.find(ids).unsqueeze(-1)
        added = nn.functional.embedding(found.squeeze(-1).clamp_min(0), self.old_weight)
        return nn.functional.embedding(ids, self.weight) + torch.where(found >= 0, added, 0.0)


def expand_byte_inputs(model: Any, byte_tokenizer: Any, old_tokenizer: Any, old_embeddings: Tensor) -> Any:
    """Give a byte-level `transformers` model the input expansion, in place.

    Its key–value cache is switched off, since a call that sees only the newest byte could not know what ends there.

    Args:
        model: A model whose vocabulary is `byte_tokenizer`'s already (`transfer_vocabulary`), with untied embeddings.
        byte_tokenizer: One token a byte.
        old_tokenizer: The tokenizer that the model had before.
        old_embeddings: `[old vocabulary, width]`, the input embeddings that it had before.

    Returns:
        The model.

    Raises:
        ValueError: Tied embeddings, or tables that do not fit.

    Source: Minixhofer et al. 2025 (arXiv 2503.20083), "Adjustments for transfer to bytes".

    >>> from tutelage.data import ByteTokenizer, CharacterTokenizer
    >>> from tutelage.models import causal_lm
    >>> model = causal_lm(259, hidden_size=8, tie_word_embeddings=False)
    >>> model = expand_byte_inputs(model, ByteTokenizer(), CharacterTokenizer("aé"), torch.randn(5, 8))
    >>> model(torch.tensor([[1, 100, 198, 172]])).logits.shape
    torch.Size([1, 4, 259])
    """
    from tutelage.data.byte_level import vocabulary_bytes

    if getattr(model.config, "tie_word_embeddings", False):
        raise ValueError("Expected a model with untied embeddings, but its output layer is its input embedding.")
    embedding = ByteInputExpansion(
        vocabulary_bytes(byte_tokenizer),
        model.get_input_embeddings().weight[: len(byte_tokenizer)],
        vocabulary_bytes(old_tokenizer),
        old_embeddings,
    )
    model.set_input_embeddings(embedding)
    model.config.use_cache = False
    model.generation_config.use_cache = False
    return model
