from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from tutelage.kernels import LinearCrossEntropyLoss, linear_cross_entropy, z_loss

BACKENDS = ["dense", "fused", "recompute"] + (["triton"] if importlib.util.find_spec("triton") else [])
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def options(backend: str) -> dict[str, Any]:
    return {"backend": backend} if backend in ("dense", "triton") else {"backend": "torch", "mode": backend}


def problem(
    tokens: int = 7, width: int = 5, vocabulary: int = 11, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((tokens, width), (vocabulary, width), (vocabulary,))
    )
    return hidden, weight, bias, torch.randint(vocabulary, (tokens,), generator=generator)


def reference(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **rest: Any) -> Tensor:
    """Written out: logits of single tokens, one after the other."""
    softcap, ignored = rest.pop("softcap", None), rest.pop("ignore_index", -100)
    values = []
    for state, label in zip(hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1), strict=True):
        if label == ignored:
            continue
        logits = weight @ state if bias is None else weight @ state + bias
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        values.append(logits.logsumexp(0) - logits[label])
    return torch.stack(values)


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


@every_backend
def test_known_answers(backend: str) -> None:
    hidden = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0])
    for softcap, loss, by_logit in (
        (None, 0.4076060, (-0.3347591, 0.2447285, 0.0900306)),
        (2.0, 0.4410338, (-0.2804701, 0.2553122, 0.0796804)),
    ):
        value = linear_cross_entropy(hidden, weight, target, softcap=softcap, **options(backend))
        assert value.item() == pytest.approx(loss, abs=1e-7)
        # The hidden state is the first unit vector, so the first column of this is the gradient in the logits.
        found = gradients(value, weight)[0][:, 0]
        assert found.tolist() == pytest.approx(by_logit, abs=1e-7)
    if backend != "fused":
        _, lse = linear_cross_entropy(hidden, weight, target, return_lse=True, **options(backend))
        assert lse.item() == pytest.approx(1.4076060, abs=1e-7)


@every_backend
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_agrees_with_logits_of_single_tokens(backend: str, softcap: float | None, with_bias: bool) -> None:
    hidden, weight, bias, target = problem()
    target[2] = -100
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    chosen = bias if with_bias else None
    expected = reference(hidden, weight, target, chosen, softcap=softcap).mean()
    found = linear_cross_entropy(hidden, weight, target, bias=chosen, softcap=softcap, **options(backend))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for mine, theirs in zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_agrees_with_dense_whatever_is_asked(backend: str) -> None:
    hidden, weight, bias, target = problem(8)
    hidden, target = hidden.detach().view(2, 4, 5).requires_grad_(), target.view(2, 4)
    target[0, 1] = -100
    upstream = torch.linspace(-1, 2, 8, dtype=torch.float64)
    kinds = itertools.product((None, 3.0), (0, 1, 3), ("mean", "sum", "none"), (False, True), (0.0, 0.1))
    for softcap, shift, reduction, with_lse, smoothing in kinds:
        if backend == "fused" and (with_lse or reduction == "none"):
            continue
        if backend == "triton" and (shift == 3 or reduction == "sum"):
            continue  # nothing of the kernel's, and the interpreter is slow

        def run(
            chosen: str,
            softcap: Any = softcap,
            shift: int = shift,
            reduction: Any = reduction,
            with_lse: bool = with_lse,
            smoothing: float = smoothing,
        ) -> list[Tensor]:
            result = linear_cross_entropy(
                hidden,
                weight,
                target,
                bias=bias,
                softcap=softcap,
                shift=shift,
                reduction=reduction,
                return_lse=with_lse,
                label_smoothing=smoothing,
                block_size=(3, 4),
                **options(chosen),
            )
            loss, lse = result if with_lse else (result, hidden.new_zeros(0))
            total = (loss * upstream[: loss.numel()].view(loss.shape)).sum() + lse.square().sum()
            return [loss, lse, *gradients(total, hidden, weight, bias)]

        for mine, theirs in zip(run(backend), run("dense"), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["fused", "recompute"])
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 13), tokens=st.integers(1, 9), vocabulary=st.integers(1, 13),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_block_size_changes_nothing(
    mode: Any, rows: int, columns: int, tokens: int, vocabulary: int, seed: int
) -> None:
    hidden, weight, _, target = problem(tokens, 3, vocabulary, seed=seed)
    expected = F.cross_entropy(hidden @ weight.t(), target)
    found = linear_cross_entropy(hidden, weight, target, mode=mode, block_size=(rows, columns))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    pairs = zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@every_backend
def test_order_of_tokens_and_vocabulary_does_not_matter(backend: str) -> None:
    hidden, weight, bias, target = problem()
    tokens, entries = torch.randperm(7), torch.randperm(11)
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, **options(backend))
    of = gradients(loss, hidden, weight, bias)
    moved = linear_cross_entropy(
        hidden[tokens], weight[entries], entries.argsort()[target[tokens]], bias=bias[entries], **options(backend)
    )
    torch.testing.assert_close(moved, loss)
    for mine, theirs in zip(gradients(moved, hidden, weight, bias), of, strict=True):
        torch.testing.assert_close(mine, theirs)


@every_backend
def test_a_vector_added_to_every_row_of_the_head_changes_nothing(backend: str) -> None:
    hidden, weight, bias, target = problem()
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, **options(backend))
    moved = linear_cross_entropy(hidden, weight + torch.randn(5).double(), target, bias=bias, **options(backend))
    torch.testing.assert_close(moved, loss)
    # So the gradient in the logits sums to zero in every row, and with it that of the bias.
    assert gradients(loss, bias)[0].sum().abs() < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("with_lse", [False, True])
def test_gradcheck(reduction: Any, shift: int, softcap: float | None, with_lse: bool) -> None:
    hidden, weight, bias, target = problem(4, 3, 6)
    hidden, target = hidden.detach().view(2, 2, 3).requires_grad_(), target.view(2, 2)
    target[1, 1] = -100

    def loss(*tensors: Tensor) -> Any:
        return linear_cross_entropy(
            tensors[0],
            tensors[1],
            target,
            bias=tensors[2],
            softcap=softcap,
            shift=shift,
            reduction=reduction,
            return_lse=with_lse,
            block_size=(2, 4),
        )

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


@every_backend
def test_ignored_positions_get_no_gradient_and_spread_nothing(backend: str) -> None:
    hidden, weight, bias, target = problem()
    target[3] = -100
    with torch.no_grad():
        hidden[3] = float("nan")
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, **options(backend))
    assert loss.isfinite()
    by_hidden, *others = gradients(loss, hidden, weight, bias)
    assert (by_hidden[3] == 0).all()
    assert all(value.isfinite().all() for value in (by_hidden, *others))
    if backend != "fused":
        kept = linear_cross_entropy(hidden, weight, target, reduction="none", **options(backend))
        assert kept[3] == 0
        assert kept.isfinite().all()


@every_backend
def test_huge_logits_stay_finite(backend: str) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 0, 1]), **options(backend))
    assert loss.item() == pytest.approx(4e4 / 3)
    assert all(value.isfinite().all() for value in gradients(loss, hidden, weight))


@every_backend
def test_entries_of_minus_infinity_take_no_part(backend: str) -> None:
    hidden, weight, bias, target = problem()
    masked = bias.detach().clone()
    masked[:4] = -torch.inf  # a whole tile of four
    target = target.clamp(min=4)
    found = linear_cross_entropy(hidden, weight, target, bias=masked, block_size=(3, 4), **options(backend))
    expected = linear_cross_entropy(hidden, weight[4:], target - 4, bias=masked[4:], backend="dense")
    torch.testing.assert_close(found, expected)
    assert all(value.isfinite().all() for value in gradients(found, hidden, weight))


@every_backend
def test_one_entry_of_the_vocabulary_leaves_no_loss(backend: str) -> None:
    hidden, weight, _, _ = problem(4, 3, 1)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(4, dtype=torch.int64), **options(backend))
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert all((value == 0).all() for value in gradients(loss, hidden, weight))


@every_backend
@pytest.mark.parametrize("tokens", [0, 3])
def test_no_position_that_counts(backend: str, tokens: int) -> None:
    hidden, weight, bias, _ = problem(tokens)
    target = torch.full((tokens,), -100)
    assert linear_cross_entropy(hidden, weight, target, **options(backend)).isnan()
    assert linear_cross_entropy(hidden, weight, target, reduction="sum", **options(backend)) == 0
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, empty="zero", **options(backend))
    assert loss == 0
    assert all((value == 0).all() for value in gradients(loss, hidden, weight, bias))


def test_shift_moves_targets_and_not_hidden_states() -> None:
    hidden, weight, _, target = problem(10)
    states, labels = hidden.view(2, 5, 5), target.view(2, 5)
    found = linear_cross_entropy(states, weight, labels, shift=2, reduction="none")
    expected = linear_cross_entropy(states[:, :-2], weight, labels[:, 2:], reduction="none", backend="dense")
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected)
    one = linear_cross_entropy(states, weight, labels, shift=True)
    torch.testing.assert_close(one, linear_cross_entropy(states[:, :-1], weight, labels[:, 1:]))


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter gets products of bfloat16 wrong")
    hidden, weight, bias, target = (
        value.detach().to(dtype).requires_grad_() if value.is_floating_point() else value
        for value in problem(33, 16, 50)
    )
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, filter_eps=None, **options(backend))
    assert loss.dtype == torch.float32
    wide = [value.detach().float().requires_grad_() for value in (hidden, weight, bias)]
    expected = F.cross_entropy(F.linear(*wide), target)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(gradients(loss, hidden, weight, bias), gradients(expected, *wide), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.float(), theirs, rtol=2e-2, atol=1e-3)


def test_accumulation_of_half_precision_gradients() -> None:
    """Many blocks of tokens whose parts are small beside the sum: rounding after each of them loses most of them."""
    tokens = 512
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.cat([torch.tensor([[64.0]]), torch.full((tokens, 1), 0.05)]).bfloat16()
    target = torch.zeros(tokens + 1, dtype=torch.int64)
    exact = -0.5 * hidden.double().sum()
    errors = {}
    for accumulate in ("input", "compensated", "float32"):
        loss = linear_cross_entropy(
            hidden, weight, target, reduction="sum", block_size=(1, 2), accumulate=accumulate, filter_eps=None
        )
        errors[accumulate] = abs(gradients(loss, weight)[0][0, 0].double() / exact - 1).item()
    assert errors["input"] > 0.1
    assert max(errors["compensated"], errors["float32"]) < 0.005


def test_autocast_computes_in_its_own_dtype() -> None:
    hidden, weight, bias, target = problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, target, bias=bias)
        exact = linear_cross_entropy(hidden, weight, target, bias=bias, filter_eps=None)
    half = [value.detach().bfloat16() for value in (hidden, weight, bias)]
    torch.testing.assert_close(found, linear_cross_entropy(half[0], half[1], target, bias=half[2]))
    assert found.dtype == torch.float32
    by_weight = gradients(exact, weight)[0]
    assert by_weight.dtype == torch.float32
    torch.testing.assert_close(
        by_weight, gradients(F.cross_entropy(F.linear(hidden, weight, bias), target), weight)[0], rtol=0.05, atol=0.01
    )


def test_gradients_that_are_kept_are_not_changed_by_using_them() -> None:
    hidden, weight, _, target = problem()
    loss = linear_cross_entropy(hidden, weight, target)
    first = torch.autograd.grad(3 * loss, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    for mine, theirs in zip(first, again, strict=True):
        torch.testing.assert_close(mine, 3 * theirs)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * again[1])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_leaves_that_want_no_gradient_get_none() -> None:
    hidden, weight, bias, target = problem()
    frozen = linear_cross_entropy(hidden, weight.detach(), target, bias=bias.detach())
    torch.testing.assert_close(
        gradients(frozen, hidden), gradients(linear_cross_entropy(hidden, weight, target, bias=bias), hidden)
    )
    assert not linear_cross_entropy(hidden.detach(), weight.detach(), target).requires_grad
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, target).requires_grad


@pytest.mark.parametrize("mode", ["fused", "recompute"])
def test_second_derivatives_are_refused(mode: Any) -> None:
    hidden, weight, _, target = problem()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(linear_cross_entropy(hidden, weight, target, mode=mode), hidden, create_graph=True)
    first = torch.autograd.grad(
        linear_cross_entropy(hidden, weight, target, backend="dense"), hidden, create_graph=True
    )
    assert torch.autograd.grad(first[0].sum(), hidden)[0].isfinite().all()


def test_z_loss_pulls_on_the_normaliser() -> None:
    hidden, weight, _, target = problem()
    target[1] = -100
    loss, lse = linear_cross_entropy(hidden, weight, target, return_lse=True)
    found = gradients(loss + 0.1 * z_loss(lse, target), hidden, weight)
    kept = target != -100
    logits = hidden[kept] @ weight.t()
    expected = F.cross_entropy(logits, target[kept]) + 0.1 * logits.logsumexp(1).square().mean()
    for mine, theirs in zip(found, gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_module_is_its_function() -> None:
    hidden, weight, bias, target = problem()
    module = LinearCrossEntropyLoss(softcap=3.0, reduction="sum")
    assert torch.equal(
        module(hidden, weight, target, bias),
        linear_cross_entropy(hidden, weight, target, bias=bias, softcap=3.0, reduction="sum"),
    )
    assert "softcap=3.0" in repr(module)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(11, 4)}, "`hidden` and `weight` to have the same width"),
        ({"weight": torch.zeros(11)}, "`weight` to have shape"),
        ({"target": torch.zeros(6, dtype=torch.int64)}, "`target` to have shape"),
        ({"target": torch.full((7,), 11)}, "`target` to hold classes in"),
        ({"target": torch.full((7,), -1)}, "`target` to hold classes in"),
        ({"target": torch.full((7,), -1), "validate": True}, "`target` to hold classes in"),
        ({"bias": torch.zeros(10)}, "`bias` to have shape"),
        ({"shift": 7}, "`shift` to be at least 0 and below"),
        ({"shift": -1}, "`shift` to be at least 0 and below"),
        ({"softcap": 0.0}, "`softcap` to be positive"),
        ({"reduction": "meen"}, "did you mean 'mean'"),
        ({"backend": "cuda"}, "`backend` to be one of"),
        ({"mode": "fuse"}, "did you mean 'fused'"),
        ({"mode": "fused", "reduction": "none"}, "`mode` not to be 'fused'"),
        ({"mode": "fused", "return_lse": True}, "`mode` not to be 'fused'"),
        ({"filter_eps": "never"}, "`filter_eps` to be one of 'auto'"),
        ({"filter_eps": -1.0}, "`filter_eps` to be at least 0"),
        ({"block_size": (0, 4)}, "`block_size` to be at least 1"),
        ({"label_smoothing": 2.0}, "`label_smoothing` to be in"),
        ({"empty": "one"}, "`empty` to be one of"),
        ({"accumulate": "double"}, "`accumulate` to be one of"),
        ({"hidden": torch.zeros(7, 5, dtype=torch.int64)}, "floating"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    from inspect import unwrap

    arguments = {"hidden": torch.zeros(7, 5), "weight": torch.zeros(11, 5), "target": torch.zeros(7, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):  # past the annotations, whose checks are the tests' own
        unwrap(linear_cross_entropy)(**{**arguments, **changes})


def test_targets_are_not_read_when_that_is_not_wanted() -> None:
    hidden, weight, _, target = problem()
    target[0] = 11
    assert linear_cross_entropy(hidden, weight, target, validate=False).isfinite()
