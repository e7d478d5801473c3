"""N2N: policies learn, by trying students out, which layers of a teacher to delete and by how much to shrink the rest.

Source: Ashok et al., "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning", ICLR
2018, arXiv 1709.06030. Where paper and official code part: every rollout has its own reward (the code gives all the
mean of their iteration) and an iteration is one step of the optimiser; accuracy and size are compared with the
teacher's in both stages (the code takes those of the network that the stage began with).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_option, check_positive
from tutelage.models.plain import check_sizes
from tutelage.models.sizes import parameter_count
from tutelage.students.compression import INVALID_REWARD, compression_reward, constraint_relaxation
from tutelage.students.layer_building import LINEAR_INPUTS, architecture_size, build_student
from tutelage.students.layer_tracing import describe_layers
from tutelage.students.layers import (
    Architecture,
    InvalidArchitecture,
    LayerSpec,
    apply_removal,
    apply_shrinkage,
    forced_entries,
    forced_keeps,
    layer_table,
)
from tutelage.students.policies import Baseline, RemovalPolicy, RunningBaseline, ShrinkagePolicy, reinforce_loss
from tutelage.training.trainer import NonFiniteLoss

MULTIPLIERS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The paper's actions of the second stage."""

TrainStudent = Callable[[nn.Module], Any]
"""Trains a student in place (or returns the trained one)."""
Stage = Literal["removal", "shrinkage"]
Credit = Literal["rollout", "mean"]
Decisions = tuple[Tensor, Float[Tensor, "rollouts"] | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A student that was tried.

    Attributes:
        architecture: Its layers, for `build_student`.
        size: Its number of parameters; 0 when its layers make no network.
        accuracy: After the short training; 0 when it was not trained.
        reward: As the policy got it.
        stage: In which stage.
        iteration: In which iteration of the stage, from 0.
        refusal: Why it was not trained; empty when it was.
    """

    architecture: Architecture
    size: int
    accuracy: float
    reward: float
    stage: Stage
    iteration: int
    refusal: str = ""


class NetworkCompressor:
    """Searches for a student in a teacher: stage 1 deletes layers, stage 2 shrinks those of the best student so far.

    One iteration draws some students from the stage's policy, trains each shortly, and takes one step along the policy
    gradient of their rewards. A student that was tried before is not trained again. Everything follows from `seed`, as
    far as `train_student` and `evaluate` are functions of the student: it has the same initial weights whenever it is
    drawn, and PyTorch's generator starts from the seed for each.

    Args:
        teacher: A classifier that `describe_layers` can describe.
        train_student: Trains a fresh student shortly; see `ShortDistillation`.
        evaluate: The accuracy of a network, in (0, 1], on validation data.
        input_shape: Of one input, without the batch axis.
        rollouts: Students an iteration.
        iterations: Iterations a stage, one number or one for each.
        learning_rate: Of Adam, for both policies.
        multipliers: What stage 2 chooses from.
        hidden: Units of the policies.
        baseline: What rewards are compared with, see `RunningBaseline`.
        credit: `"rollout"` weighs each student's decisions by its own reward, `"mean"` by the mean of the iteration
            (the official code).
        normalize: Divide each entry of the description by its largest value in the teacher before a policy sees it.
            The paper feeds raw numbers; a width of 128 beside a kernel of 3 saturates the policy.
        reference: Whose accuracy and size count as 1: the `"teacher"`'s in both stages, or those of the `"stage"`'s
            first network (the official code).
        size_limit: Parameters that a student should not exceed.
        accuracy_floor: Accuracy that it should not fall below.
        horizon: Iterations until the two limits count in full, see `constraint_relaxation`.
        linear_inputs: See `build_student`.
        removal_policy: Start from this one, trained on another teacher; it is trained further. None makes a new one.
        shrinkage_policy: The same for stage 2.
        seed: Every choice follows from it.

    Attributes:
        teacher_layers: The teacher's layers.
        history: All students tried, in order.
        removal_policy: For transfer, with its `state_dict()`.
        shrinkage_policy: The same.

    Raises:
        ValueError: A teacher that cannot be described, or one with an accuracy of 0; numbers out of range; a policy for
            descriptions of another width.

    >>> from tutelage.models import convnet
    >>> compressor = NetworkCompressor(
    ...     convnet((1, 8, 8), 10, channels=(16, 32)), lambda student: None, lambda network: 0.5,
    ...     input_shape=(1, 8, 8), iterations=3, rollouts=2)
    >>> best = compressor.search()
    >>> len(compressor.history), best.size < compressor.teacher_size
    (12, True)
    """

    def __init__(
        self,
        teacher: nn.Module,
        train_student: TrainStudent,
        evaluate: Callable[[nn.Module], float],
        *,
        input_shape: Sequence[int],
        rollouts: int = 5,
        iterations: int | tuple[int, int] = 100,
        learning_rate: float = 0.003,
        multipliers: Sequence[float] = MULTIPLIERS,
        hidden: int = 30,
        baseline: Baseline = "ema",
        credit: Credit = "rollout",
        normalize: bool = True,
        reference: Literal["teacher", "stage"] = "teacher",
        size_limit: int | None = None,
        accuracy_floor: float | None = None,
        horizon: int = 15,
        linear_inputs: tuple[int, int] = LINEAR_INPUTS,
        removal_policy: RemovalPolicy | None = None,
        shrinkage_policy: ShrinkagePolicy | None = None,
        seed: int = 0,
    ) -> None:
        check_at_least(rollouts, "rollouts", 1)
        self.iterations = (iterations, iterations) if isinstance(iterations, int) else iterations
        for number in self.iterations:
            check_at_least(number, "iterations", 0)
        check_non_negative(learning_rate, "learning_rate")
        check_option(credit, "credit", ("rollout", "mean"))
        check_option(reference, "reference", ("teacher", "stage"))
        check_at_least(horizon, "horizon", 1)
        self.train_student, self.evaluate = train_student, evaluate
        self.input_shape = check_sizes(input_shape, "input_shape")
        self.rollouts, self.learning_rate, self.credit, self.seed = rollouts, learning_rate, credit, seed
        self.baseline, self.reference, self.horizon = baseline, reference, horizon
        self.size_limit, self.accuracy_floor = size_limit, accuracy_floor
        self.linear_inputs = linear_inputs
        table, specs = describe_layers(teacher)
        self.teacher_layers: Architecture = tuple(specs)
        self.teacher_size = parameter_count(teacher)
        described = architecture_size(specs, self.input_shape, linear_inputs=linear_inputs)
        if described != self.teacher_size:
            raise ValueError(
                f"Expected argument `teacher` to be rebuilt from its layers, but it has {self.teacher_size} parameters "
                f"and what was described has {described}."
            )
        self.teacher_accuracy = float(evaluate(teacher))
        check_positive(self.teacher_accuracy, "teacher accuracy")
        self.scale = table.amax(dim=0).clamp_min(1.0) if normalize else torch.ones(table.shape[1])
        with self._random(0):
            entries = table.shape[1]
            self.removal_policy = removal_policy or RemovalPolicy(entries, hidden)
            self.shrinkage_policy = shrinkage_policy or ShrinkagePolicy(entries, multipliers, hidden)
        for policy in (self.removal_policy, self.shrinkage_policy):
            if policy.lstm.input_size != entries:
                given = policy.lstm.input_size
                raise ValueError(
                    f"Expected a policy for descriptions of {entries} entries, but got one for {given}; "
                    "policies move between chains, or between networks with residual blocks."
                )
        self.history: list[Candidate] = []
        self._accuracies: dict[Architecture, float] = {}

    def search(self) -> Candidate:
        """Both stages, and the best student of all that were tried."""
        self.remove_layers()
        self.shrink_layers()
        return self.best()

    def remove_layers(self) -> Candidate | None:
        """Stage 1, from the teacher's layers on; the best student so far, or None when there is none yet."""
        specs = self.teacher_layers
        forced = forced_keeps(specs)
        if not forced.all():
            self._learn("removal", specs, self.iterations[0], lambda: self._removals(specs))
        return self._best_or_none()

    def shrink_layers(self) -> Candidate | None:
        """Stage 2, from the best student so far (or the teacher's layers) on; the best student so far, if any."""
        start = self._best_or_none()
        specs = self.teacher_layers if start is None else start.architecture
        if not forced_entries(specs, entries=len(self.scale)).all():
            self._learn("shrinkage", specs, self.iterations[1], lambda: self._shrinkages(specs))
        return self._best_or_none()

    def best(self) -> Candidate:
        """The student with the highest reward, limits counted in full; the earliest of equals.

        While every student breaks a limit, it is the one that would be worth most without limits.

        Raises:
            ValueError: No network smaller than the teacher was found.
        """
        found = self._best_or_none()
        if found is None:
            raise ValueError(
                f"Expected a network smaller than the teacher among {len(self.history)} students, but there is none; "
                "raise `iterations` or `rollouts`."
            )
        return found

    def build(self, architecture: Sequence[LayerSpec]) -> nn.Sequential:
        """A fresh network; the same initial weights at every call."""
        with self._random(0):
            return build_student(architecture, self.input_shape, linear_inputs=self.linear_inputs)

    def rewards(self, stage: Stage) -> Float[Tensor, "iterations rollouts"]:
        """The rewards of a stage so far."""
        found = [candidate.reward for candidate in self.history if candidate.stage == stage]
        return torch.tensor(found, dtype=torch.float64).view(-1, self.rollouts)

    def _learn(self, stage: Stage, specs: Architecture, iterations: int, draw: Callable[[], Decisions]) -> None:
        """Draw students, try them, and follow the policy gradient of their rewards."""
        policy = self.removal_policy if stage == "removal" else self.shrinkage_policy
        apply = apply_removal if stage == "removal" else apply_shrinkage
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.learning_rate)
        baseline = RunningBaseline(self.baseline)
        start_size = architecture_size(specs, self.input_shape, linear_inputs=self.linear_inputs)
        reference = (self.teacher_accuracy, self.teacher_size)
        if self.reference == "stage" and specs in self._accuracies:
            reference = (self._accuracies[specs], start_size)
        for iteration in range(iterations):
            with self._random(1 + 2 * iteration + (stage == "shrinkage")):
                decisions, log_probs = draw()
            tried = [
                self._try(tuple(apply(specs, decision)), stage, iteration, start_size, reference)
                for decision in decisions
            ]
            self.history += tried
            rewards = torch.tensor([candidate.reward for candidate in tried])
            if log_probs is not None:
                credited = rewards if self.credit == "rollout" else rewards.mean().expand_as(rewards)
                optimizer.zero_grad()
                reinforce_loss(log_probs, credited, baseline=baseline.value).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            baseline.update(rewards.mean().item())

    def _removals(self, specs: Architecture) -> Decisions:
        keep, log_probs, _ = self.removal_policy.sample(self._views(specs), forced_keeps(specs))
        return keep, log_probs

    def _shrinkages(self, specs: Architecture) -> Decisions:
        forced = forced_entries(specs, entries=len(self.scale))
        multipliers, log_probs, _ = self.shrinkage_policy.sample(self._views(specs), forced)
        return multipliers, log_probs

    def _views(self, specs: Architecture) -> Float[Tensor, "rollouts layers entries"]:
        table = layer_table(specs, entries=len(self.scale)) / self.scale
        return table.expand(self.rollouts, *table.shape)

    def _try(
        self, specs: Architecture, stage: Stage, iteration: int, start_size: int, reference: tuple[float, int]
    ) -> Candidate:
        try:
            size = architecture_size(specs, self.input_shape, linear_inputs=self.linear_inputs)
        except InvalidArchitecture as error:
            return Candidate(specs, 0, 0.0, INVALID_REWARD, stage, iteration, str(error))
        if size >= start_size:
            refusal = f"It has {size} parameters, no fewer than the {start_size} before."
            return Candidate(specs, size, 0.0, INVALID_REWARD, stage, iteration, refusal)
        if specs not in self._accuracies:
            self._accuracies[specs] = self._accuracy(specs)
        accuracy = self._accuracies[specs]
        relaxation = constraint_relaxation(iteration, horizon=self.horizon)
        reward = self._reward(accuracy, size, reference, relaxation)
        return Candidate(specs, size, accuracy, reward, stage, iteration)

    def _accuracy(self, specs: Architecture) -> float:
        """What a student learns in a short training; 0 if its loss does not stay finite."""
        student: nn.Module = self.build(specs)
        with self._random(0):
            try:
                trained = self.train_student(student)
            except NonFiniteLoss:
                return 0.0
            return float(self.evaluate(trained if isinstance(trained, nn.Module) else student))

    def _best_or_none(self) -> Candidate | None:
        valid = [candidate for candidate in self.history if not candidate.refusal]
        return max(valid, key=self._final_reward, default=None)

    def _final_reward(self, candidate: Candidate) -> tuple[float, float]:
        """The reward with limits counted in full, and without limits, which tells those apart that break one."""
        reference = (self.teacher_accuracy, self.teacher_size)
        limited, free = (self._reward(candidate.accuracy, candidate.size, reference, ease) for ease in (0.0, 1.0))
        return limited, free

    def _reward(self, accuracy: float, size: int, reference: tuple[float, int], relaxation: float) -> float:
        return compression_reward(
            accuracy,
            size,
            *reference,
            size_limit=self.size_limit,
            accuracy_floor=self.accuracy_floor,
            relaxation=relaxation,
        )

    def _random(self, number: int) -> _Seeded:
        return _Seeded(self.seed * 1_000_003 + number)


class _RandomSearch(NetworkCompressor):
    """The same search with decisions drawn evenly."""

    def _removals(self, specs: Architecture) -> Decisions:
        return (torch.rand(self.rollouts, len(specs)) < 0.5) | forced_keeps(specs), None

    def _shrinkages(self, specs: Architecture) -> Decisions:
        choices = self.shrinkage_policy.multipliers
        drawn = choices[torch.randint(len(choices), (self.rollouts, len(specs), len(self.scale)))]
        return drawn.masked_fill(forced_entries(specs, entries=len(self.scale)), 1.0), None


def random_architecture_search(
    teacher: nn.Module,
    train_student: TrainStudent,
    evaluate: Callable[[nn.Module], float],
    *,
    input_shape: Sequence[int],
    **settings: Any,
) -> NetworkCompressor:
    """The baseline of `NetworkCompressor`: the same stages, students, rewards and budget, decisions drawn evenly.

    Args:
        teacher: See `NetworkCompressor`.
        train_student: See `NetworkCompressor`.
        evaluate: See `NetworkCompressor`.
        input_shape: See `NetworkCompressor`.
        **settings: As those of `NetworkCompressor`; those of policies do nothing.

    Returns:
        The compressor after its search: `.best()` and `.history`.

    >>> from tutelage.models import convnet
    >>> done = random_architecture_search(
    ...     convnet((1, 8, 8), 10, channels=(16, 32)), lambda student: None, lambda network: 0.5,
    ...     input_shape=(1, 8, 8), iterations=2, rollouts=3)
    >>> len(done.history)
    12
    """
    searcher = _RandomSearch(teacher, train_student, evaluate, input_shape=input_shape, **settings)
    searcher.remove_layers()
    searcher.shrink_layers()
    return searcher


def uniform_width_architecture(specs: Sequence[LayerSpec], input_shape: Sequence[int], size_limit: int) -> Architecture:
    """The layers with all free widths scaled by one number, the largest that keeps to a number of parameters.

    The baseline of every search for widths. Where even the narrowest network is too large, it is that one.

    Args:
        specs: A teacher's layers.
        input_shape: Of one input.
        size_limit: Parameters.

    >>> layers = [LayerSpec("Conv2d", 3, 1, 100, 1), LayerSpec("AdaptiveAvgPool2d", 1), LayerSpec("Linear", width=2)]
    >>> uniform_width_architecture(layers, (1, 8, 8), 602)[0].width
    50
    """
    table = layer_table(specs)

    def scaled(percent: int) -> Architecture:
        multipliers = torch.ones_like(table)
        multipliers[:, 3] = percent / 100
        return tuple(apply_shrinkage(specs, multipliers))

    too_large = bisect.bisect_right(
        range(1, 101), size_limit, key=lambda percent: architecture_size(scaled(percent), input_shape)
    )
    return scaled(max(1, too_large))


class _Seeded:
    """PyTorch's CPU generator from a seed, for a while."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)
