"""ALM as an objective: from two tokenizers and texts to batches that both models read, and to one loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive
from tutelage.batch import Batch, Inputs
from tutelage.data.arrays import ArraySamples
from tutelage.data.byte_level import boundary_token_mask, byte_level_tokens, special_roles
from tutelage.objectives.alignment import align_tokens, chunk_numbers
from tutelage.objectives.likelihood_matching import _KINDS, BinaryKind, approximate_likelihood_matching
from tutelage.objectives.objective import Objective

IGNORE_INDEX = -100


class ApproximateLikelihoodMatching(Objective, name="alm"):
    """`approximate_likelihood_matching` between two tokenizers, on batches that its `collate` makes.

    The teacher reads its own tokens (`Batch.teacher_inputs`), so any frozen model can teach. The collated batch also
    has targets, so that cross-entropy can be mixed in.

    Args:
        teacher_tokenizer: One of `transformers` or of this toolkit, or the name of a `transformers` one.
        student_tokenizer: Likewise.
        debias: Count the probability that a word ends after a chunk as part of the chunk's.
        boundary_bytes: The bytes that end a word.
        merge_threshold: γ; None leaves chunks as the tokenizers give them.
        kind: See `binary_divergence`.
        temperature: τ.
        teacher_vocab_size: Columns of the teacher's logits, where they are more than its tokenizer has tokens.
        student_vocab_size: Likewise.

    Raises:
        ValueError: A number out of its range, or a tokenizer whose tokens are not bytes of the text.

    >>> from tutelage.data import ByteTokenizer, CharacterTokenizer
    >>> objective = ApproximateLikelihoodMatching(ByteTokenizer(), CharacterTokenizer("ab é"))
    >>> batch = objective.collate(["é ab", "a"])
    >>> batch.inputs["input_ids"].shape, batch.teacher_inputs["input_ids"].shape
    (torch.Size([2, 6]), torch.Size([2, 7]))
    """

    reads = (
        "student.logits",
        "teacher.logits",
        "batch.inputs",
        "batch.teacher_inputs",
        "batch.extras.student_chunk",
        "batch.extras.teacher_chunk",
    )

    def __init__(
        self,
        teacher_tokenizer: Any,
        student_tokenizer: Any,
        *,
        debias: bool = True,
        boundary_bytes: bytes = b" \t\n",
        merge_threshold: float | None = 0.1,
        kind: BinaryKind = "cross_entropy",
        temperature: float = 100.0,
        teacher_vocab_size: int | None = None,
        student_vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        check_option(kind, "kind", _KINDS)
        check_positive(temperature, "temperature")
        if merge_threshold is not None and not 0 <= merge_threshold < 1:
            raise ValueError(f"Expected argument `merge_threshold` to be in [0, 1), but got {merge_threshold}.")
        self.teacher_tokenizer = _tokenizer(teacher_tokenizer)
        self.student_tokenizer = _tokenizer(student_tokenizer)
        self.merge_threshold = merge_threshold
        self.kind: BinaryKind = kind
        self.temperature = temperature
        self.debias = debias
        teacher_boundary = boundary_token_mask(self.teacher_tokenizer, boundary_bytes, size=teacher_vocab_size)
        student_boundary = boundary_token_mask(self.student_tokenizer, boundary_bytes, size=student_vocab_size)
        self.register_buffer("teacher_boundary", teacher_boundary, persistent=False)
        self.register_buffer("student_boundary", student_boundary, persistent=False)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"kind={self.kind!r}, temperature={self.temperature}, merge_threshold={self.merge_threshold}"

    def loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_inputs: Inputs,
        teacher_inputs: Inputs,
        student_chunk: Tensor,
        teacher_chunk: Tensor,
    ) -> Tensor:
        """The mean over the valid chunks of the batch."""
        count = int(torch.maximum(student_chunk.max(), teacher_chunk.max())) + 1
        columns = torch.arange(max(count, 1), device=student_chunk.device)
        return approximate_likelihood_matching(
            student_logits,
            teacher_logits,
            _ids(student_inputs),
            _ids(teacher_inputs),
            student_chunk.unsqueeze(-1) == columns,
            teacher_chunk.unsqueeze(-1) == columns,
            student_boundary=self.student_boundary if self.debias else None,  # type: ignore[arg-type]
            teacher_boundary=self.teacher_boundary if self.debias else None,  # type: ignore[arg-type]
            merge_threshold=self.merge_threshold if self.debias else None,
            kind=self.kind,
            temperature=self.temperature,
        )

    def collate(self, texts: Sequence[str], *, index: Tensor | None = None, max_length: int | None = None) -> Batch:
        """Texts as one batch that both models can read.

        Both get the text between their own start and end tokens, as far as they have these; start and end are aligned
        with each other. Texts longer than `max_length` student tokens are cut, and the teacher's too, at the last byte
        that both have read.

        Args:
            texts: The texts.
            index: `[texts]` stable indices; by default they are numbered.
            max_length: The most student tokens of a text.

        Returns:
            Inputs `input_ids` and `attention_mask` of the student, aligned targets, and the extras
            `teacher.input_ids`, `teacher.attention_mask`, `student_chunk` and `teacher_chunk` (the number of every
            token's chunk, −1 for none).
        """
        if max_length is not None:
            check_at_least(max_length, "max_length", 2)
        rows = [self._aligned(text, max_length) for text in texts]
        student_ids, teacher_ids, student_chunk, teacher_chunk = (list(column) for column in zip(*rows, strict=True))
        student_pad = special_roles(self.student_tokenizer).get("pad", 0)
        ids, mask = _padded(student_ids, student_pad)
        target = torch.full_like(ids, IGNORE_INDEX)
        target[:, :-1] = torch.where(mask[:, 1:].bool(), ids[:, 1:], IGNORE_INDEX)
        read, read_mask = _padded(teacher_ids, special_roles(self.teacher_tokenizer).get("pad", 0))
        return Batch(
            {"input_ids": ids, "attention_mask": mask},
            target,
            torch.arange(len(texts)) if index is None else index,
            extras={
                "teacher.input_ids": read,
                "teacher.attention_mask": read_mask,
                "student_chunk": _padded(student_chunk, -1)[0],
                "teacher_chunk": _padded(teacher_chunk, -1)[0],
            },
        )

    def samples(self, texts: Sequence[str], *, max_length: int | None = None) -> ArraySamples:
        """All texts, tokenized and aligned once: samples to train on, whose batches are gathers.

        Args:
            texts: The texts; all are padded to the longest.
            max_length: The most student tokens of a text.
        """
        whole = self.collate(texts, max_length=max_length)
        return ArraySamples(whole.inputs, whole.target, extras=whole.extras)

    def _aligned(self, text: str, max_length: int | None) -> tuple[list[int], list[int], list[int], list[int]]:
        student, teacher = _framed(self.student_tokenizer, text), _framed(self.teacher_tokenizer, text)
        if max_length is not None:
            student = student[:max_length]
        spelled = byte_level_tokens(self.teacher_tokenizer, teacher), byte_level_tokens(self.student_tokenizer, student)
        pairs = _same_roles(self.teacher_tokenizer, teacher, self.student_tokenizer, student)
        spans = align_tokens(*spelled, special_pairs=pairs)
        if spans and max_length is not None:
            teacher, student = teacher[: spans[-1][1]], student[: spans[-1][3]]
        teacher_chunk, student_chunk = chunk_numbers(spans, len(teacher), len(student))
        return student, teacher, student_chunk.tolist(), teacher_chunk.tolist()


def _tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, str):
        return tokenizer
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)


def _framed(tokenizer: Any, text: str) -> list[int]:
    """The text's ids between start and end, as far as the tokenizer has these."""
    plain = hasattr(tokenizer, "add_special_tokens")
    ids = list(tokenizer.encode(text, add_special_tokens=False) if plain else tokenizer.encode(text))
    roles = special_roles(tokenizer)
    start = [roles["bos"]] if "bos" in roles else []
    return start + ids + ([roles["eos"]] if "eos" in roles else [])


def _same_roles(first: Any, first_ids: list[int], second: Any, second_ids: list[int]) -> list[tuple[int, int]]:
    """Positions of start and end tokens, where both texts have them."""
    pairs = []
    roles = special_roles(first), special_roles(second)
    if "bos" in roles[0] and "bos" in roles[1]:
        pairs.append((0, 0))
    ends = [tokens[-1:] == [role.get("eos")] for tokens, role in zip((first_ids, second_ids), roles, strict=True)]
    if all(ends):
        pairs.append((len(first_ids) - 1, len(second_ids) - 1))
    return pairs


def _padded(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(longest) < lengths[:, None]).long()


def _ids(inputs: Inputs) -> Tensor:
    return inputs["input_ids"] if isinstance(inputs, dict) else inputs
