"""Networks that learn together: each from the labels, and from what the others say at that moment."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage._checks import nearest
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.batch import Batch
from tutelage.features.observed import ObservedModel
from tutelage.objectives import BalancedDivergence, CrossEntropy, ForwardKL, Objective
from tutelage.objectives.schedules import Progress, Schedule
from tutelage.outputs import Outputs
from tutelage.training.distillation import Objectives, Weighted, named_terms
from tutelage.training.method import BaseMethod

Networks = Mapping[str, nn.Module] | Sequence[nn.Module]
"""Networks by name, or a list of networks that get the names `network_1`, `network_2` …"""

MutualObserver = Callable[[Mapping[str, Outputs], Batch], None]
"""Sees what every network said about a batch (a monitor); must not change it."""


@dataclass(frozen=True, slots=True)
class _Term:
    """One objective of one learner: about one of its partners, or about the labels alone."""

    name: str
    learner: str
    partner: str | None
    objective: Objective
    weight: float | Schedule
    share: float  # 1 / partners of the learner


class MutualDistillation(BaseMethod):
    """Networks learn together, each with an optimiser of its own and all in one checkpoint (Zhang et al., CVPR 2018).

    Network i minimises `label_loss`(i) + the mean over its partners j of `pairwise_loss`(i, j), where an objective is
    called as (outputs of i, outputs of j, batch): i is its student and j its teacher. Every network is asked once a
    batch, in training mode. What a partner says is detached: nobody learns through the loss of another one, so the
    order in which the optimisers step does not matter.

    Networks may see the samples each in its own way: a network reads the extras `NAME.…` of a batch where it has any
    (`Batch.inputs_for`), and the inputs otherwise.

    Presets: `deep_mutual_learning`, `bd_kd` and `one_way`; for other pairs of lessons `online`.

    Args:
        networks: Two or more, by name or as a list.
        pairwise_loss: What a network learns from a partner: one lesson for all, or lessons by the learner's name (who
            has none learns from `label_loss` alone). A lesson is an objective or several, `Weighted` or not; one that
            reads no teacher counts once. Every pair has a copy of its own, trained and checkpointed beside the
            networks where it has parameters.
        label_loss: What every network learns without a partner; None when the lessons hold all.
        partners: Names of the partners by the learner's name; by default all others. Who is left out has none: it
            teaches, and learns from what needs no partner.
        detach_partners: Cut what a partner says off its graph. False leaves that to the objective; those of this
            package all detach their teacher.

    Raises:
        ValueError: Fewer than two networks, an unknown name, or a network that learns from nothing.

    Losses are named `NETWORK/OBJECTIVE`; their sum is minimised, in which each network's gradient is that of its own.

    >>> networks = {"teacher": nn.Linear(4, 3), "student": nn.Linear(4, 3)}
    >>> method = MutualDistillation(networks, {"student": ForwardKL()})
    >>> losses = method.step(Batch(torch.ones(2, 4), torch.tensor([0, 1]), torch.arange(2)))
    >>> list(losses)
    ['teacher/cross_entropy', 'student/cross_entropy', 'student/forward_kl']
    """

    def __init__(
        self,
        networks: Networks,
        pairwise_loss: Objective | Weighted | Iterable[Objective | Weighted] | Mapping[str, Objectives],
        *,
        label_loss: Objective | Weighted | None = CrossEntropy(),  # noqa: B008 - stateless, and only copies are used
        partners: Mapping[str, Sequence[str]] | None = None,
        detach_partners: bool = True,
    ) -> None:
        self.networks = _named(networks, "network")
        self.detach_partners = detach_partners
        self.observers: list[MutualObserver] = []
        if partners is None:
            partners = {name: [other for other in self.networks if other != name] for name in self.networks}
        self._check_partners(partners)
        if isinstance(pairwise_loss, Mapping):
            lessons = {
                self._known(name, "pairwise_loss"): named_terms(lesson) for name, lesson in pairwise_loss.items()
            }
        else:
            lessons = dict.fromkeys(self.networks, named_terms(pairwise_loss))
        labels = {} if label_loss is None else named_terms(label_loss)
        self._terms = [
            term
            for name in self.networks
            for term in _terms(name, [labels, lessons.get(name, {})], partners.get(name, ()))
        ]
        for term in self._terms:
            term.objective.attach(self.networks[term.learner], self.networks[term.partner] if term.partner else None)
        self.objectives = nn.ModuleList(term.objective for term in self._terms)
        self._observed = {
            name: ObservedModel(network, embedding=self._embedding_is_read(name), taps=self._taps(name))
            for name, network in self.networks.items()
        }
        self.advance(Progress(step=0, total_steps=1, steps_per_epoch=1))

    @classmethod
    def deep_mutual_learning(
        cls, networks: Networks, *, temperature: float = 1.0, weight: float = 1.0
    ) -> MutualDistillation:
        """DML: all learn by CE + weight · T² · the mean over the others of KL(other ‖ own).

        Args:
            networks: Two or more, by name or as a list.
            temperature: T, softens the predictions in the divergence; 1 in the paper.
            weight: Of the divergence; 1 in the paper.

        Source: Zhang et al., "Deep mutual learning", CVPR 2018, equations 6 to 8.

        >>> list(MutualDistillation.deep_mutual_learning([nn.Linear(4, 3), nn.Linear(4, 3)]).trainable())
        ['network_1', 'network_2']
        """
        return cls(networks, Weighted(_forward_kl(temperature), weight))

    @classmethod
    def bd_kd(
        cls,
        teacher: nn.Module | Networks,
        student: nn.Module | Networks,
        *,
        nu: float = 2.0,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> MutualDistillation:
        """BD-KD: the student sees both divergences, balanced sample by sample, while the teacher learns beside it.

        The student learns by CE + weight · `balanced_divergence`, the teacher by CE + weight · T² · KL(student ‖
        teacher). It is deep mutual learning with a second direction for the student. Of several students or teachers
        each learns from the mean over all of the other kind.

        Args:
            teacher: A network, called `teacher`, or several (`teacher_1` … unless they have names).
            student: A network, called `student`, or several (`student_1` … unless they have names).
            nu: ν of `balanced_divergence`; 1 leaves the balancing out.
            temperature: T, softens the predictions in the divergences.
            weight: λ, of the divergences.

        Source: Amara et al., "BD-KD: Balancing the divergences for online knowledge distillation", arXiv 2212.12965.

        >>> method = MutualDistillation.bd_kd(nn.Linear(4, 3), nn.Linear(4, 3), nu=1.5)
        >>> list(method.step(Batch(torch.ones(2, 4), torch.tensor([0, 1]), torch.arange(2))))[-1]
        'student/balanced_divergence'
        """
        balanced = Weighted(BalancedDivergence(nu=nu, temperature=temperature), weight)
        return cls.online(
            teacher,
            student,
            [CrossEntropy(), balanced],
            teacher_objectives=[CrossEntropy(), Weighted(_forward_kl(temperature), weight)],
        )

    @classmethod
    def one_way(
        cls,
        teacher: nn.Module | Networks,
        student: nn.Module | Networks,
        *,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> MutualDistillation:
        """The teacher learns from labels alone; the student by CE + weight · T² · KL(teacher ‖ student) beside it.

        Arguments are those of `bd_kd`.
        """
        read = Weighted(_forward_kl(temperature), weight)
        return cls.online(teacher, student, [CrossEntropy(), read], teacher_objectives=CrossEntropy())

    @classmethod
    def online(
        cls,
        teacher: nn.Module | Networks,
        student: nn.Module | Networks,
        objectives: Objectives,
        *,
        teacher_objectives: Objectives,
    ) -> MutualDistillation:
        """Students with one whole lesson and teachers with another; each has all of the other kind as partners.

        Args:
            teacher: A network, called `teacher`, or several.
            student: A network, called `student`, or several.
            objectives: All that a student learns from, the label included.
            teacher_objectives: All that a teacher learns from; in them the teacher is the student, and the student the
                teacher.
        """
        teachers = {"teacher": teacher} if isinstance(teacher, nn.Module) else _named(teacher, "teacher")
        students = {"student": student} if isinstance(student, nn.Module) else _named(student, "student")
        if shared := sorted(teachers.keys() & students.keys()):
            raise ValueError(f"Expected teachers and students to have names of their own, but got {shared[0]!r} twice.")
        of_teacher, of_student = named_terms(teacher_objectives), named_terms(objectives)
        return cls(
            {**teachers, **students},
            {**dict.fromkeys(teachers, of_teacher), **dict.fromkeys(students, of_student)},
            label_loss=None,
            partners={**{name: tuple(students) for name in teachers}, **{name: tuple(teachers) for name in students}},
        )

    def trainable(self) -> dict[str, nn.Module]:
        """Every network, and the objectives when they have parameters or buffers of their own."""
        modules: dict[str, nn.Module] = dict(self.networks)
        if any(True for _ in self.objectives.parameters()) or any(True for _ in self.objectives.buffers()):
            modules["objectives"] = self.objectives
        return modules

    def modules(self) -> dict[str, nn.Module]:
        """The objectives, whose buffers move to the device too."""
        return {"objectives": self.objectives}

    def setup(self, batch: Batch) -> None:
        """Let objectives make what depends on the shapes of features; the networks' state is left as it was."""
        said = {name: self._ask(name, batch) for name in self.networks}
        for term in self._terms:
            term.objective.build(said[term.learner], said[term.partner] if term.partner else None, batch)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Let objectives take statistics of what a partner says about all training data before anyone has learned."""
        for term in self._terms:
            partner = term.partner
            term.objective.prepare((self._ask(partner, batch) if partner else None, batch) for batch in batches)

    def advance(self, progress: Progress) -> None:
        """Bring weights and objectives to their values at this place in the run."""
        self._factors = []
        for term in self._terms:
            weight = float(term.weight(progress)) if callable(term.weight) else term.weight
            self._factors.append(weight * term.share)
            term.objective.advance(progress)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by `NETWORK/OBJECTIVE`."""
        said = {name: observed(batch.inputs_for(name)) for name, observed in self._observed.items()}
        for observe in self.observers:
            observe(said, batch)
        heard = {name: outputs.detach() for name, outputs in said.items()} if self.detach_partners else said
        losses: dict[str, Tensor] = {}
        for term, factor in zip(self._terms, self._factors, strict=True):
            loss = factor * term.objective(said[term.learner], heard[term.partner] if term.partner else None, batch)
            losses[term.name] = losses[term.name] + loss if term.name in losses else loss
        return losses

    @torch.no_grad()
    def _ask(self, name: str, batch: Batch) -> Outputs:
        """What a network says in evaluation mode; its state is left as it was."""
        with evaluation_mode(self.networks[name]):
            return self._observed[name](batch.inputs_for(name))

    def _known(self, name: str, argument: str) -> str:
        if name not in self.networks:
            listed = ", ".join(repr(known) for known in self.networks)
            hint = nearest(name, self.networks)
            raise ValueError(f"Expected `{argument}` to name networks among {listed}, but got {name!r}{hint}.")
        return name

    def _check_partners(self, partners: Mapping[str, Sequence[str]]) -> None:
        for learner, others in partners.items():
            self._known(learner, "partners")
            for other in others:
                if self._known(other, "partners") == learner:
                    raise ValueError(f"Expected the partners of {learner!r} to be other networks, but got {other!r}.")

    def _embedding_is_read(self, network: str) -> bool:
        return any(
            (term.learner == network and "student.embedding" in term.objective.reads)
            or (term.partner == network and "teacher.embedding" in term.objective.reads)
            for term in self._terms
        )

    def _taps(self, network: str) -> dict[str, str]:
        taps: dict[str, str] = {}
        for term in self._terms:
            for side, name in (("student", term.learner), ("teacher", term.partner)):
                for feature, path in term.objective.taps[side].items() if name == network else ():
                    if taps.setdefault(feature, path) != path:
                        raise ValueError(
                            f"Expected the feature {feature!r} of {network!r} to have one place, "
                            f"but objectives read it at {taps[feature]!r} and at {path!r}."
                        )
        return taps


def _named(networks: Networks, kind: str) -> dict[str, nn.Module]:
    named = (
        dict(networks)
        if isinstance(networks, Mapping)
        else {f"{kind}_{number}": network for number, network in enumerate(networks, start=1)}
    )
    for name in named:
        if not name.isidentifier() or name == "objectives":
            raise ValueError(
                f"Expected the name of a network to be letters, digits and `_`, other than 'objectives', "
                f"but got {name!r}."
            )
    if len(named) < 2 and kind == "network":
        raise ValueError(f"Expected argument `networks` to hold at least 2 networks, but got {len(named)}.")
    if len({id(network) for network in named.values()}) < len(named):
        raise ValueError("Expected every network to be another one, but one of them is given twice.")
    if not named:
        raise ValueError(f"Expected argument `{kind}` to hold at least one network, but it is empty.")
    return named


def _terms(learner: str, lessons: Iterable[Mapping[str, Weighted]], partners: Sequence[str]) -> list[_Term]:
    """All that one network learns from, each with a copy of its objective."""
    terms = []
    for name, entry in itertools.chain.from_iterable(lesson.items() for lesson in lessons):
        heard: Sequence[str | None] = partners if entry.objective.needs_teacher else [None]
        for partner in heard:
            objective = copy.deepcopy(entry.objective)
            terms.append(_Term(f"{learner}/{name}", learner, partner, objective, entry.weight, 1 / len(heard)))
    if not terms:
        raise ValueError(f"Expected every network to learn from something, but {learner!r} has no objective.")
    return terms


def _forward_kl(temperature: float) -> ForwardKL:
    return ForwardKL(temperature=temperature, scale_by_temperature_squared=True)
