"""Input expansion: the longest token that ends at a byte, by a slow search, and models that are given it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import ByteTokenizer, train_bpe
from tutelage.data.byte_level import vocabulary_bytes
from tutelage.models import ByteInputExpansion, LongestTokens, causal_lm, expand_byte_inputs, transfer_vocabulary

BYTES = vocabulary_bytes(ByteTokenizer())


def _slow(text: bytes, tokens: list[bytes]) -> list[int]:
    found = []
    for end in range(1, len(text) + 1):
        fitting = [token for token in tokens if token and text[:end].endswith(token)]
        found.append(tokens.index(max(fitting, key=len)) if fitting else -1)
    return found


@given(
    text=st.text(alphabet="abé ", min_size=1, max_size=20),
    tokens=st.lists(st.text(alphabet="abé ", max_size=5).map(str.encode), min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_the_longest_token_is_that_of_a_slow_search(text: str, tokens: list[bytes]) -> None:
    if not any(tokens):
        tokens = [*tokens, b"a"]
    found = LongestTokens(BYTES, tokens)(torch.tensor([ByteTokenizer().encode(text)]))
    assert found[0].tolist() == _slow(text.encode(), tokens)


def test_special_tokens_end_nothing_and_nothing_spans_them() -> None:
    find = LongestTokens(BYTES, [b"", b"a", b"aa", b"aaa"])
    assert find(torch.tensor([[1, 100, 100, 2, 100, 0]])).tolist() == [[-1, 1, 2, -1, 1, -1]]


def test_the_old_embedding_is_added_and_stays_as_it_is() -> None:
    new, old = torch.randn(259, 4), torch.randn(3, 4)
    embed = ByteInputExpansion(BYTES, new, [b"", b"b", b"ab"], old)
    ids = torch.tensor([ByteTokenizer().encode("cab")])
    expected = new[ids[0]] + torch.stack([torch.zeros(4), torch.zeros(4), old[2]])
    torch.testing.assert_close(embed(ids)[0], expected)
    assert [name for name, _ in embed.named_parameters()] == ["weight"]
    assert set(embed.state_dict()) == {"weight", "old_weight"}


def test_a_byte_model_sees_only_what_came_before() -> None:
    old = train_bpe(["the cat sat on the mat"] * 3, 275)
    teacher = causal_lm(len(old), architecture="llama", hidden_size=8, num_layers=1, tie_word_embeddings=False)
    table = teacher.get_input_embeddings().weight.detach().clone()
    student = transfer_vocabulary(teacher, old, ByteTokenizer())
    plain = student(torch.tensor([[1, 5, 6]])).logits
    student = expand_byte_inputs(student, ByteTokenizer(), old, table).eval()
    assert not student.config.use_cache
    ids = torch.tensor([ByteTokenizer().encode("the cat sat")])
    whole = student(ids).logits
    torch.testing.assert_close(student(ids[:, :6]).logits, whole[:, :6])
    assert not torch.equal(plain, student(torch.tensor([[1, 5, 6]])).logits)
    assert student.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, ids.shape[1] + 2)
    greedy = student(student.generate(ids, max_new_tokens=2, do_sample=False)[:, :-1]).logits.argmax(dim=-1)
    assert greedy[0, -2:].tolist() == student.generate(ids, max_new_tokens=2, do_sample=False)[0, -2:].tolist()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="byte-level vocabulary, but it has the token b'ab'"):
        LongestTokens([b"a", b"ab"], [b"a"])
    with pytest.raises(ValueError, match="`old_embeddings` to have the shape"):
        ByteInputExpansion([b"a"], torch.zeros(1, 2), [b"a"], torch.zeros(1, 3))
    with pytest.raises(ValueError, match="`embeddings` and `byte_tokens`"):
        ByteInputExpansion([b"a"], torch.zeros(2, 2), [b"a"], torch.zeros(1, 2))
    with pytest.raises(ValueError, match="untied"):
        expand_byte_inputs(causal_lm(259, hidden_size=8), ByteTokenizer(), ByteTokenizer(), torch.zeros(259, 8))
