"""Embeddings for a new tokenizer, made from those of the old one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_floating


def fast_vocabulary_transfer(
    old_tokenizer: Any, new_tokenizer: Any, embeddings: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Initial embeddings for another tokenizer's tokens (FVT).

    A token that the old vocabulary has is copied; another one gets the mean of the embeddings of the pieces into which
    the old vocabulary cuts it (the longest known beginning first). Special tokens are copied by their role. What no
    rule reaches is drawn from a normal distribution with each channel's mean and deviation.

    Args:
        old_tokenizer: See `tutelage.data.byte_level_tokens`.
        new_tokenizer: Likewise.
        embeddings: `[old vocabulary, width]`; treat input and output tables alike.
        generator: Where chance comes from.

    Returns:
        `[new vocabulary, width]`, without a graph.

    Raises:
        ValueError: Fewer embeddings than the old tokenizer has tokens.

    Source: Gee et al. 2022; Minixhofer et al. 2025, step 10.

    >>> from tutelage.data import ByteTokenizer, CharacterTokenizer
    >>> old = torch.arange(259.0).unsqueeze(1)
    >>> fast_vocabulary_transfer(ByteTokenizer(), CharacterTokenizer("aé"), old).flatten().tolist()
    [0.0, 1.0, 2.0, 100.0, 185.0]
    """
    from tutelage.data.byte_level import special_roles, vocabulary_bytes

    check_floating(embeddings, "embeddings")
    old, new = vocabulary_bytes(old_tokenizer), vocabulary_bytes(new_tokenizer)
    if len(embeddings) < len(old):
        raise ValueError(f"Expected at least {len(old)} embeddings, one a token, but got {len(embeddings)}.")
    table = embeddings.detach()[: len(old)]
    made = table.new_empty(len(new), table.shape[1])
    made.normal_(generator=generator)
    made = made * table.std(dim=0) + table.mean(dim=0)
    known = {spelled: number for number, spelled in reversed(list(enumerate(old))) if spelled}
    longest = max(map(len, known), default=0)
    for number, spelled in enumerate(new):
        pieces = _pieces(spelled, known, longest)
        if pieces:
            made[number] = table[pieces].mean(dim=0)
    old_roles = special_roles(old_tokenizer)
    for role, number in special_roles(new_tokenizer).items():
        if role in old_roles:
            made[number] = table[old_roles[role]]
    return made


def _pieces(spelled: bytes, known: dict[bytes, int], longest: int) -> list[int]:
    """The old tokens into which bytes are cut, the longest known beginning first; none when a byte is unknown."""
    pieces, start = [], 0
    while start < len(spelled):
        for size in range(min(longest, len(spelled) - start), 0, -1):
            piece = known.get(spelled[start : start + size])
            if piece is not None:
                pieces.append(piece)
                start += size
                break
        else:
            return []
    return pieces


def transfer_vocabulary(
    model: Any, old_tokenizer: Any, new_tokenizer: Any, *, generator: torch.Generator | None = None
) -> Any:
    """Give a `transformers` language model another tokenizer's vocabulary, in place.

    Input and output tables are made by `fast_vocabulary_transfer`, everything else stays as it is. A model whose tables
    are tied stays tied.

    Args:
        model: A causal language model that was trained with `old_tokenizer`.
        old_tokenizer: See `tutelage.data.byte_level_tokens`.
        new_tokenizer: Likewise.
        generator: Where chance comes from.

    Returns:
        The model, with as many logits as the new tokenizer has tokens.

    >>> from tutelage.data import ByteTokenizer, CharacterTokenizer
    >>> from tutelage.models import causal_lm
    >>> model = transfer_vocabulary(causal_lm(259, hidden_size=8), ByteTokenizer(), CharacterTokenizer("aé"))
    >>> model(torch.tensor([[1, 3, 4]])).logits.shape, model.config.vocab_size
    (torch.Size([1, 3, 5]), 5)
    """
    before, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    table = fast_vocabulary_transfer(old_tokenizer, new_tokenizer, before, generator=generator)
    embedding = nn.Embedding(len(table), table.shape[1], _weight=table)
    output = nn.Linear(table.shape[1], len(table), bias=head.bias is not None)
    if head.weight is before:
        output.weight = embedding.weight
    else:
        made = fast_vocabulary_transfer(old_tokenizer, new_tokenizer, head.weight, generator=generator)
        output.weight = nn.Parameter(made)
    if head.bias is not None:
        bias = fast_vocabulary_transfer(old_tokenizer, new_tokenizer, head.bias.unsqueeze(1), generator=generator)
        output.bias = nn.Parameter(bias.squeeze(1))
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(output)
    model.config.vocab_size = len(table)
    return model
