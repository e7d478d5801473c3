"""Likelihood matching: the method's own figures, a slow reference, invariants, and what gets a gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.data import ByteTokenizer, train_bpe
from tutelage.models import causal_lm, fast_vocabulary_transfer, token_level_ensemble
from tutelage.objectives import (
    ApproximateLikelihoodMatching,
    CrossEntropy,
    approximate_likelihood_matching,
    binary_divergence,
    boundary_log_prob,
    chunk_hidden_state_loss,
    chunk_log_probs,
    gradient_magnitude_weights,
    merge_chunks,
)
from tutelage.training import Distillation

HALF, QUARTER = torch.tensor(0.5, dtype=torch.float64).log(), torch.tensor(0.25, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("kind", "temperature", "value"),
    [
        ("cross_entropy", 1.0, 0.836988),
        ("cross_entropy", 5.0, 0.424957),
        ("cross_entropy", 100.0, 0.043369),
        ("kl", 1.0, 0.143841),
        ("kl", 5.0, 0.039618),
        ("kl", 100.0, 0.002120),
        ("kl_limit", 1.0, 0.212694),
        ("tvd", 1.0, 0.25),
        ("tvd_limit", 1.0, math.log(2)),
    ],
)
def test_known_values(kind: Any, temperature: float, value: float) -> None:
    assert float(binary_divergence(HALF, QUARTER, kind=kind, temperature=temperature)) == pytest.approx(value, abs=2e-6)


def test_the_limit_is_where_large_temperatures_go() -> None:
    at_large = 1e4 * float(binary_divergence(HALF, QUARTER, kind="kl", temperature=1e4))
    assert at_large == pytest.approx(0.212687, abs=5e-5)


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "tvd", "kl_limit", "tvd_limit"])
def test_it_is_a_divergence(kind: Any) -> None:
    a, b = -4 * torch.rand(2, 50, dtype=torch.float64) - 0.01
    assert bool((binary_divergence(a, b, kind=kind, temperature=2.0) > 0).all())
    assert binary_divergence(a, a, kind=kind, temperature=2.0).abs().max() < 1e-12


def test_heads_and_tails_may_change_places() -> None:
    p, q = torch.rand(2, 50, dtype=torch.float64) * 0.98 + 0.01
    one = binary_divergence(p.log(), q.log(), temperature=1.0)
    other = binary_divergence((1 - p).log(), (1 - q).log(), temperature=1.0)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "tvd", "reverse_kl", "kl_limit", "tvd_limit"])
@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_extremes_stay_finite_in_float32(kind: Any, temperature: float) -> None:
    values = torch.tensor([-1e4, -50.0, -1.0, -1e-3, -1e-7])
    a, b = torch.meshgrid(values, values, indexing="ij")
    b = b.clone().requires_grad_()
    loss = binary_divergence(a, b, kind=kind, temperature=temperature)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert b.grad is not None
    assert bool(torch.isfinite(b.grad).all())


def _setting(batch: int = 2, m: int = 6, n: int = 5, chunks: int = 4) -> dict[str, Tensor]:
    teacher_chunk = torch.tensor([[-1, 0, 0, 1, 2, 3], [-1, 0, 1, 1, 2, -1]])[:batch]
    student_chunk = torch.tensor([[-1, 0, 1, 2, 3], [-1, 0, 1, 2, -1]])[:batch]
    columns = torch.arange(chunks)
    return {
        "student_logits": torch.randn(batch, n, 7, dtype=torch.float64, requires_grad=True),
        "teacher_logits": torch.randn(batch, m, 9, dtype=torch.float64, requires_grad=True),
        "student_ids": torch.randint(7, (batch, n)),
        "teacher_ids": torch.randint(9, (batch, m)),
        "student_chunks": student_chunk.unsqueeze(-1) == columns,
        "teacher_chunks": teacher_chunk.unsqueeze(-1) == columns,
    }


def _slow(setting: dict[str, Tensor], boundaries: tuple[Tensor, Tensor], threshold: float | None) -> float:
    """Chunk by chunk, in plain Python."""
    values = []
    for row in range(len(setting["student_ids"])):
        told = {}
        for side, boundary in (("teacher", boundaries[0]), ("student", boundaries[1])):
            log_probs = setting[f"{side}_logits"][row].detach().log_softmax(dim=-1)
            ids, chunks = setting[f"{side}_ids"][row].tolist(), setting[f"{side}_chunks"][row]
            pieces = []
            for chunk in range(chunks.shape[1]):
                places = chunks[:, chunk].nonzero().flatten().tolist()
                if not places:
                    continue
                total = sum(float(log_probs[place - 1, ids[place]]) for place in places if place > 0)
                pieces.append((total, math.log(float(log_probs[places[-1]].exp()[boundary].sum()))))
            told[side] = pieces
        pending = [0.0, 0.0]
        for number, ((a, end_a), (b, end_b)) in enumerate(zip(told["teacher"], told["student"], strict=True)):
            pending = [pending[0] + a, pending[1] + b]
            last = number == len(told["teacher"]) - 1
            if threshold is None or math.exp(end_a) > threshold or last:
                one, other = (
                    torch.tensor(value, dtype=torch.float64) for value in (pending[0] + end_a, pending[1] + end_b)
                )
                values.append(float(binary_divergence(one, other, kind="cross_entropy", temperature=3.0)))
                pending = [0.0, 0.0]
    return sum(values) / len(values)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.25, 0.999])
def test_against_a_slow_reference(threshold: float | None) -> None:
    setting = _setting()
    boundaries = torch.tensor([True, False] * 4 + [False]), torch.tensor([True] + [False] * 5 + [True])
    loss = approximate_likelihood_matching(
        **setting,
        teacher_boundary=boundaries[0],
        student_boundary=boundaries[1],
        merge_threshold=threshold,
        temperature=3.0,
    )
    assert loss.item() == pytest.approx(_slow(setting, boundaries, threshold), abs=1e-9)


def test_only_the_student_gets_a_gradient_and_it_is_right() -> None:
    setting = _setting()
    approximate_likelihood_matching(**setting, kind="kl", temperature=2.0).backward()
    assert setting["teacher_logits"].grad is None
    student = setting.pop("student_logits")
    boundary = {"teacher_boundary": torch.arange(9) < 3, "student_boundary": torch.arange(7) < 2}
    assert torch.autograd.gradcheck(
        lambda logits: approximate_likelihood_matching(logits, **setting, **boundary, temperature=2.0), (student,)
    )


def test_equal_models_have_nothing_to_learn() -> None:
    logits, ids = torch.randn(1, 4, 6, dtype=torch.float64), torch.randint(6, (1, 4))
    chunks = torch.eye(4, dtype=torch.bool).unsqueeze(0)
    student = logits.clone().requires_grad_()
    for kind in ("kl", "cross_entropy"):
        loss = approximate_likelihood_matching(student, logits, ids, ids, chunks, chunks, kind=kind, temperature=1.0)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.abs().max() < 1e-12


def test_padding_and_the_order_of_a_batch_change_nothing() -> None:
    setting = {name: value.detach() for name, value in _setting().items()}
    before = approximate_likelihood_matching(**setting)
    turned = {name: value.flip(0) for name, value in setting.items()}
    torch.testing.assert_close(approximate_likelihood_matching(**turned), before)
    padded = {
        name: torch.cat([value, torch.zeros(2, 3, *value.shape[2:], dtype=value.dtype)], dim=1)
        for name, value in setting.items()
    }
    torch.testing.assert_close(approximate_likelihood_matching(**padded), before)


def test_chunks_and_what_is_outside_sum_to_the_text() -> None:
    setting = _setting()
    logits, ids, chunks = (setting[f"teacher_{name}"] for name in ("logits", "ids", "chunks"))
    whole = logits[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).sum(dim=(1, 2))
    outside = ~chunks.any(dim=2, keepdim=True)
    parts = chunk_log_probs(logits, ids, torch.cat([chunks, outside], dim=2))
    torch.testing.assert_close(parts.sum(dim=1), whole)
    masked = chunk_log_probs(logits, ids, chunks, torch.tensor([[1, 1, 1, 1, 0, 0]]).expand(2, -1))
    torch.testing.assert_close(masked[:, :1], parts[:, :1])
    assert masked[0, 2].item() == masked[0, 3].item() == 0


def test_boundary_probabilities_are_probabilities() -> None:
    logits = 30 * torch.randn(2, 3, 8)
    every = boundary_log_prob(logits, torch.ones(8, dtype=torch.bool))
    assert every.max() <= 0
    torch.testing.assert_close(every, torch.zeros(2, 3), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="at least one token"):
        boundary_log_prob(logits, torch.zeros(8, dtype=torch.bool))


def test_thresholds_merge_from_nothing_to_everything() -> None:
    log_probs = -torch.rand(2, 5)
    boundary = (0.9 * torch.rand(2, 5) + 0.05).log()
    counts = torch.tensor([[1, 2, 0, 1, 1], [0, 1, 1, 0, 0]])
    apart = merge_chunks(log_probs, log_probs, boundary, boundary, counts, 0.0)
    assert apart[2].sum(dim=1).tolist() == [4, 2]
    torch.testing.assert_close(apart[0][0, 2], log_probs[0, 3] + boundary[0, 3])
    together = merge_chunks(log_probs, log_probs, boundary, boundary, counts, 0.9999)
    assert together[2].sum(dim=1).tolist() == [1, 1]
    torch.testing.assert_close(together[0][1, 0], log_probs[1, 1] + log_probs[1, 2] + boundary[1, 2])
    assert not bool(apart[0][~apart[2]].any())
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        merge_chunks(log_probs, log_probs, boundary, boundary, counts, 1.0)


def test_bad_input_is_named() -> None:
    setting = _setting()
    with pytest.raises(ValueError, match="or neither"):
        approximate_likelihood_matching(**setting, student_boundary=torch.ones(7, dtype=torch.bool))
    with pytest.raises(ValueError, match="`teacher_mask`"):
        approximate_likelihood_matching(**setting, teacher_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="`log_q` to be at most 0"):
        binary_divergence(torch.zeros(1), torch.full((1,), 0.01))
    with pytest.raises(ValueError, match="`temperature`"):
        binary_divergence(torch.zeros(1), torch.zeros(1), temperature=0.0)


def test_gradient_weights_equalise_the_pull() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    inputs = torch.randn(5, 3)
    losses = [(inputs @ weight.T).square().mean(), 1e3 * (inputs @ weight.T).exp().mean(), (weight * 0).sum()]
    weights = gradient_magnitude_weights(losses, [weight])
    assert weights.sum().item() == pytest.approx(1)
    pulls = [
        share * torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
        for share, loss in zip(weights, losses, strict=True)
    ]
    torch.testing.assert_close(pulls[0], pulls[1])
    assert weights[2].item() == 0
    assert not weights.requires_grad


def test_states_are_compared_at_the_ends_of_chunks() -> None:
    setting = _setting()
    student = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    projection = torch.randn(4, 3, dtype=torch.float64)
    ends_student = [[1, 2, 3, 4], [1, 2, 3]]
    ends_teacher = [[2, 3, 4, 5], [1, 3, 4]]
    one = torch.cat([student[row, ends] for row, ends in enumerate(ends_student)]) @ projection.T
    other = torch.cat([teacher[row, ends] for row, ends in enumerate(ends_teacher)])
    expected = ((one - other).square() / (other.square().mean(dim=0) + 1e-8)).mean()
    loss = chunk_hidden_state_loss(
        student, teacher, setting["student_chunks"], setting["teacher_chunks"], projection=projection
    )
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match="`projection`"):
        chunk_hidden_state_loss(student, teacher, setting["student_chunks"], setting["teacher_chunks"])


TEXTS = ["the cat sat on the mat", "a cat, a mat", "the bat and the cat sat"] * 2


def test_a_student_with_other_tokens_learns_the_teachers_texts() -> None:
    """From a subword teacher to a byte student, through the trainer's own method."""
    torch.manual_seed(0)
    teacher_tokenizer, student_tokenizer = train_bpe(TEXTS, 290), ByteTokenizer()
    teacher = causal_lm(len(teacher_tokenizer), hidden_size=24, num_layers=1, max_length=40)
    student = causal_lm(259, hidden_size=24, num_layers=1, max_length=40)
    objective = ApproximateLikelihoodMatching(teacher_tokenizer, student_tokenizer, kind="kl", temperature=5.0)
    batch = objective.collate(TEXTS)

    def train(model: torch.nn.Module, method: Distillation, steps: int, rate: float) -> list[float]:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = sum(method.step(batch).values())
            assert isinstance(loss, Tensor)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    to_read = batch.teacher_inputs
    assert isinstance(to_read, dict)
    ids = to_read["input_ids"]
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        logits = teacher(**to_read).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0).backward()
        optimizer.step()
    before = CrossEntropy()(student(**batch.inputs).logits, batch.target).item()  # type: ignore[arg-type]
    losses = train(student, Distillation(teacher, student, objective), 80, 0.01)
    after = CrossEntropy()(student(**batch.inputs).logits, batch.target).item()  # type: ignore[arg-type]
    assert losses[-1] < 0.2 * losses[0]
    assert after < 0.6 * before  # no label was ever shown


def test_a_collated_batch_is_cut_where_both_have_read_the_same() -> None:
    objective = ApproximateLikelihoodMatching(train_bpe(TEXTS, 290), ByteTokenizer())
    batch = objective.collate(TEXTS[:1], max_length=8)
    assert isinstance(batch.inputs, dict)
    student = ByteTokenizer().decode(batch.inputs["input_ids"][0])
    assert isinstance(batch.teacher_inputs, dict)
    teacher = objective.teacher_tokenizer.decode(batch.teacher_inputs["input_ids"][0], skip_special_tokens=True)
    assert student == teacher == TEXTS[0][: len(student)]
    assert 0 < len(student) < 8


def test_transfer_copies_what_is_known_and_averages_pieces() -> None:
    old, new = train_bpe(TEXTS, 290), train_bpe(["mat sat cat bat"] * 3, 275)
    from tutelage.data.byte_level import vocabulary_bytes

    table = torch.randn(len(old), 5, dtype=torch.float64)
    made = fast_vocabulary_transfer(old, new, table)
    spelled = {token: number for number, token in reversed(list(enumerate(vocabulary_bytes(old)))) if token}
    for number, token in enumerate(vocabulary_bytes(new)):
        if token in spelled:
            assert torch.equal(made[number], table[spelled[token]])
    assert torch.equal(made[:3], table[:3])
    torch.testing.assert_close(fast_vocabulary_transfer(old, old, table), table)
    with pytest.raises(ValueError, match="one a token"):
        fast_vocabulary_transfer(old, new, table[:5])


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    models = [causal_lm(9, hidden_size=8, num_layers=1).eval(), causal_lm(11, hidden_size=8, num_layers=1).eval()]
    ids = torch.randint(9, (2, 4))
    with torch.no_grad():
        each = [model(input_ids=ids).logits[..., :9].softmax(dim=-1) for model in models]
        mean = token_level_ensemble(models)(input_ids=ids).logits
        geometric = token_level_ensemble(models, "log_probabilities")(input_ids=ids).logits
    assert mean is not None
    assert geometric is not None
    torch.testing.assert_close(mean.exp(), (each[0] + each[1]) / 2)
    expected = (each[0] * each[1]).sqrt()
    torch.testing.assert_close(geometric.exp(), expected / expected.sum(dim=-1, keepdim=True))
    with pytest.raises(ValueError, match="at least one model"):
        token_level_ensemble([])


def test_bytes_on_both_sides_are_compared_byte_by_byte() -> None:
    objective = ApproximateLikelihoodMatching(
        ByteTokenizer(), ByteTokenizer(), debias=False, merge_threshold=0.0, temperature=2.0
    )
    batch = objective.collate(["né!", "a"])
    assert isinstance(batch.inputs, dict)
    ids = batch.inputs["input_ids"]
    student, teacher = torch.randn(2, *ids.shape, 259, dtype=torch.float64)
    told = [
        logits[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)[ids[:, 1:] != 0]
        for logits in (teacher, student)
    ]
    expected = binary_divergence(told[0], told[1], kind="cross_entropy", temperature=2.0).mean()
    loss = objective(
        student,
        teacher,
        batch.inputs,
        batch.teacher_inputs,
        batch.extras["student_chunk"],
        batch.extras["teacher_chunk"],
    )
    torch.testing.assert_close(loss, expected)


def test_samples_are_collated_once() -> None:
    objective = ApproximateLikelihoodMatching(train_bpe(TEXTS, 290), ByteTokenizer())
    samples = objective.samples(TEXTS)
    rows = torch.tensor([4, 1])
    batch, alone = samples.batch(rows), objective.collate([TEXTS[4], TEXTS[1]])
    assert batch.index.tolist() == [4, 1]
    assert isinstance(batch.inputs, dict)
    assert isinstance(alone.inputs, dict)
    length = alone.inputs["input_ids"].shape[1]
    assert torch.equal(batch.inputs["input_ids"][:, :length], alone.inputs["input_ids"])
    assert not bool(batch.inputs["attention_mask"][:, length:].any())
    length = alone.extras["teacher_chunk"].shape[1]
    assert torch.equal(batch.extras["teacher_chunk"][:, :length], alone.extras["teacher_chunk"])
