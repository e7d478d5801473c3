"""MST-Distill: three networks learn together, two of them become specialised teachers, the third learns from these."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_positive
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.batch import Batch
from tutelage.data.samples import Samples
from tutelage.features.feature_masks import SpecializedTeacher, feature_mask_for
from tutelage.features.taps import FeatureTaps
from tutelage.objectives.divergences import forward_kl
from tutelage.objectives.objective import Objective
from tutelage.training.distillation import Weighted
from tutelage.training.evaluation import evaluate_model
from tutelage.training.method import BaseMethod
from tutelage.training.monitors import Monitor, Record
from tutelage.training.mutual import MutualDistillation
from tutelage.training.random_state import seeded
from tutelage.training.routed import RoutedDistillation, TeacherGroup, logits_of
from tutelage.training.settings import TrainingSettings
from tutelage.training.trainer import Trainer

_PAPER: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "scheduler": "constant",
    "batch_size": 512,
}


class TeacherSpecialization(BaseMethod):
    """Masks learn to bend teachers towards what a student can express; nothing else learns.

    Each mask minimises T² · KL(student ‖ teacher with that mask), the student detached; it has an optimiser of its own.
    The networks are frozen, in evaluation mode, and keep their running statistics.

    Args:
        specialized: The specialised teachers by name; only their masks learn.
        student: The student that they are bent towards.
        readers: What each is called with: a reader's name for `Batch.inputs_for`, by the teacher's name (`teacher` for
            those that are not named).
        temperature: T.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, specialised teachers, and the authors' code.

    >>> network, student = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 3)), nn.Linear(4, 3)
    >>> teacher = SpecializedTeacher(network, "0", nn.Sequential(nn.Linear(12, 12), nn.Sigmoid()))
    >>> method = TeacherSpecialization({"first": teacher}, student)
    >>> list(method.step(Batch(torch.ones(2, 4), None, torch.arange(2))))
    ['first']
    """

    def __init__(
        self,
        specialized: Mapping[str, SpecializedTeacher],
        student: nn.Module,
        *,
        readers: Mapping[str, str] | None = None,
        temperature: float = 4.0,
    ) -> None:
        check_positive(temperature, "temperature")
        self.specialized = dict(specialized)
        self.student = student
        self.readers = {name: (readers or {}).get(name, "teacher") for name in self.specialized}
        self.temperature = temperature
        self._frozen = nn.ModuleList([*(teacher.model for teacher in self.specialized.values()), student])
        for teacher in self.specialized.values():
            teacher.model.requires_grad_(False)

    def trainable(self) -> dict[str, nn.Module]:
        """The masks."""
        return {name: teacher.mask for name, teacher in self.specialized.items()}

    def modules(self) -> dict[str, nn.Module]:
        """The teachers' networks and the student."""
        return {"frozen": self._frozen}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The divergence of every specialised teacher from the student."""
        if any(module.training for module in self._frozen.modules()):
            self._frozen.eval()
        with torch.no_grad():
            student = logits_of(self.student, batch)
        return {
            name: divergence_from(logits_of(teacher, batch, self.readers[name]), student, self.temperature)
            for name, teacher in self.specialized.items()
        }


class MSTDistill:
    """MST-Distill: a student of one modality learns from a routed mixture of specialised teachers of others.

    1. `initialize`: teacher (all modalities), auxiliary (another modality) and student learn from the labels and from
       each other, `mutual_distillation_loss`.
    2. `specialize`: at some layers of teacher and auxiliary a mask is learned that draws what the network says towards
       the student. Every mask makes one specialised teacher; the masks of the best epoch on validation stay.
    3. `distill`: the student learns from the labels and, sample by sample, from the specialised teachers that a router
       picks (`RoutedDistillation`); it ends with the weights of its best epoch on validation.

    The student is called with a batch's inputs, the other two with the extras named `teacher.ARGUMENT` and
    `auxiliary.ARGUMENT`, by the names of their arguments (`tutelage.data.two_views` makes such samples).

    Args:
        teacher: Sees all modalities.
        auxiliary: Sees another modality than the student.
        student: Sees one modality. All three are trained in place; teacher and auxiliary end frozen.
        teacher_layers: Paths of the layers of `teacher` to mask, as in `named_modules()`; each gives vectors or maps.
        auxiliary_layers: The same for `auxiliary`.
        temperature: T of all divergences.
        num_heads: Of the masks; see `FeatureMask`.
        hidden_divisor: Of the masks; see `FeatureMask`.

    Raises:
        ValueError: A layer that does not exist, or (in `specialize`) one that cannot be masked.

    Source: Li et al., "MST-Distill: Mixture of specialized teachers for cross-modal knowledge distillation", ACM
    Multimedia 2025, arXiv 2507.07015, and the authors' code, whose settings are the defaults.

    >>> from tutelage.data import ArraySamples
    >>> sound, image = torch.randn(32, 6), torch.randn(32, 8)
    >>> views = {"auxiliary.input": image, "teacher.sound": sound, "teacher.image": image}
    >>> samples = ArraySamples(sound, torch.arange(32) % 3, extras=views)
    >>> from tutelage.models import FusionNetwork, mlp
    >>> branches = {"sound": nn.Linear(6, 8), "image": nn.Linear(8, 8)}
    >>> method = MSTDistill(
    ...     FusionNetwork(branches, mlp(16, 3, hidden=(12,))), mlp(8, 3, hidden=(12,)), mlp(6, 3, hidden=(12,)),
    ...     teacher_layers=["body.linear1"], auxiliary_layers=["linear1"],
    ... )
    >>> short = TrainingSettings(epochs=1, batch_size=16)
    >>> history = method.run(samples, samples, initialization=short, specialization=short, distillation=short)
    >>> list(history), list(method.specialized)
    (['initialization', 'specialization', 'distillation'], ['teacher/body.linear1', 'auxiliary/linear1'])
    """

    def __init__(
        self,
        teacher: nn.Module,
        auxiliary: nn.Module,
        student: nn.Module,
        *,
        teacher_layers: Sequence[str],
        auxiliary_layers: Sequence[str],
        temperature: float = 4.0,
        num_heads: int = 3,
        hidden_divisor: int = 2,
    ) -> None:
        check_positive(temperature, "temperature")
        self.networks: dict[str, nn.Module] = {"teacher": teacher, "auxiliary": auxiliary, "student": student}
        self.layers = {"teacher": tuple(teacher_layers), "auxiliary": tuple(auxiliary_layers)}
        for owner, layers in self.layers.items():
            FeatureTaps(self.networks[owner], layers)  # raises where there is no such layer
        if not any(self.layers.values()):
            raise ValueError(
                "Expected at least one layer to mask, but `teacher_layers` and `auxiliary_layers` are empty."
            )
        self.temperature = temperature
        self.mask_options = {"num_heads": num_heads, "hidden_divisor": hidden_divisor}
        self.specialized: dict[str, SpecializedTeacher] = {}
        self.router: nn.Module | None = None

    @property
    def student(self) -> nn.Module:
        """The network that all this is for."""
        return self.networks["student"]

    def run(
        self,
        train: Samples,
        validation: Samples,
        *,
        initialization: TrainingSettings | None = None,
        specialization: TrainingSettings | None = None,
        distillation: TrainingSettings | None = None,
        folder: Path | str | None = None,
        resume: bool = False,
        **options: Any,
    ) -> dict[str, list[Record]]:
        """All three stages; gives the history of each by its name.

        Args:
            train: What is learned from.
            validation: What masks and student are chosen on.
            initialization: Settings of the first stage (by default, as for the others, those of the paper).
            specialization: Settings of the second stage.
            distillation: Settings of the third stage.
            folder: Where each stage keeps its metrics and checkpoints, under its name; None writes nothing.
            resume: Go on from what is in `folder`.
            **options: Of `distill`.
        """

        def place(stage: str) -> dict[str, Any]:
            return {"folder": None if folder is None else Path(folder) / stage, "resume": resume}

        return {
            "initialization": self.initialize(train, initialization, **place("initialization")),
            "specialization": self.specialize(train, validation, specialization, **place("specialization")),
            "distillation": self.distill(train, validation, distillation, **place("distillation"), **options),
        }

    def initialize(
        self,
        train: Samples,
        settings: TrainingSettings | None = None,
        *,
        folder: Path | str | None = None,
        resume: bool = False,
    ) -> list[Record]:
        """Stage 1: all three learn together, targets included, as `mutual_distillation_loss` has it."""
        others = float(len(self.networks) - 1)  # a method takes the mean over partners, the paper the sum
        pairwise = Weighted(_SoftenedDivergence(self.temperature), others)
        method = MutualDistillation(self.networks, dict.fromkeys(self.networks, pairwise), detach_partners=False)
        chosen = settings or TrainingSettings(epochs=1, **_PAPER)
        return Trainer(method, train, settings=chosen, folder=folder).run(resume=resume)

    def specialize(
        self,
        train: Samples,
        validation: Samples,
        settings: TrainingSettings | None = None,
        *,
        folder: Path | str | None = None,
        resume: bool = False,
    ) -> list[Record]:
        """Stage 2: make the masks, and let each learn alone; records hold the `drift` on the validation samples."""
        settings = settings or TrainingSettings(epochs=1, keep_best="validation_loss", **_PAPER)
        self.make_masks(train, seed=settings.seed)
        method = TeacherSpecialization(
            self.specialized, self.student, readers=self._readers(), temperature=self.temperature
        )

        def evaluate() -> dict[str, float]:
            drift = self.drift(validation)
            return {"validation_loss": sum(drift[name] for name in self.specialized)} | {
                f"validation_drift/{name}": value for name, value in drift.items()
            }

        return Trainer(method, train, settings=settings, evaluate=evaluate, folder=folder).run(resume=resume)

    def make_masks(self, samples: Samples, *, seed: int = 0) -> None:
        """Make `specialized`: a new mask, fitted to what the layer gives, for every layer; `specialize` calls it."""
        batch = samples.batch(torch.arange(min(2, len(samples))))
        with seeded(seed, torch.device("cpu")):
            self.specialized = {
                f"{owner}/{layer}": SpecializedTeacher(self.networks[owner], layer, self._mask(owner, layer, batch))
                for owner in self.layers
                for layer in self.layers[owner]
            }

    def distill(
        self,
        train: Samples,
        validation: Samples,
        settings: TrainingSettings | None = None,
        *,
        masked: bool = True,
        cumulative: bool = False,
        cache: bool = True,
        folder: Path | str | None = None,
        resume: bool = False,
        monitors: Sequence[Monitor] = (),
        **options: Any,
    ) -> list[Record]:
        """Stage 3: the student learns from labels and routed teachers; records hold how often each was picked.

        Args:
            train: What is learned from.
            validation: What the best epoch is chosen on.
            settings: By default those of the paper.
            masked: False teaches with teacher and auxiliary as they are, without masks.
            cumulative: Every specialised teacher also has the masks before it in the same network, as in the authors'
                code, whose hooks pile up; by default each has its own mask alone, as it was trained.
            cache: Ask the teachers once about every sample; False where samples are drawn anew every time.
            folder: Where metrics and checkpoints go.
            resume: Go on from what is in `folder`.
            monitors: What watches this stage.
            **options: Of `RoutedDistillation`.
        """
        if masked and not self.specialized:
            raise ValueError("Expected specialised teachers: call `specialize` first, or give `masked=False`.")
        settings = settings or TrainingSettings(epochs=100, keep_best="validation_loss", **_PAPER)
        group = self.teachers(masked=masked, cumulative=cumulative)
        if cache:
            group.remember(train)
        method = RoutedDistillation(group, self.student, **{"temperature": self.temperature, **options})
        with seeded(settings.seed, torch.device("cpu")):
            method.setup(train.batch(torch.arange(min(2, len(train)))).to(device_of(group)))
        self.router = method.router

        def evaluate() -> dict[str, float]:
            return evaluate_model(self.student, validation) | method.take_routing_shares()

        trainer = Trainer(method, train, settings=settings, evaluate=evaluate, folder=folder, monitors=monitors)
        return trainer.run(resume=resume)

    def teachers(self, *, masked: bool = True, cumulative: bool = False) -> TeacherGroup:
        """The frozen teachers of stage 3, by name; arguments as in `distill`."""
        found: dict[str, nn.Module] = {name: self.networks[name] for name in self.layers}
        if masked:
            found = {**self.specialized}
        if masked and cumulative:
            for owner, layers in self.layers.items():
                network = self.networks[owner]
                for depth, layer in enumerate(layers):
                    name = f"{owner}/{layer}"
                    network = SpecializedTeacher(network, "model." * depth + layer, self.specialized[name].mask)
                    found[name] = network
        return TeacherGroup(found, self._readers())

    @torch.no_grad()
    def drift(self, samples: Samples, *, batch_size: int = 512) -> dict[str, float]:
        """Mean T² · KL(student ‖ teacher), by teacher: `teacher` and `auxiliary` without masks, then each with its own.

        The lower, the more of what a teacher says the student can express; in evaluation mode, on any labelled or
        unlabelled samples.
        """
        asked: dict[str, nn.Module] = {name: self.networks[name] for name in self.layers} | self.specialized
        readers = self._readers()
        sums = dict.fromkeys(asked, 0.0)
        with evaluation_mode(self.student, *asked.values()):
            for rows in torch.split(torch.arange(len(samples)), batch_size):
                batch = samples.batch(rows).to(device_of(self.student))
                student = logits_of(self.student, batch)
                for name, network in asked.items():
                    mean = divergence_from(logits_of(network, batch, readers[name]), student, self.temperature)
                    sums[name] += mean.item() * len(batch)
        return {name: total / len(samples) for name, total in sums.items()}

    def _readers(self) -> dict[str, str]:
        """Who reads what: teacher and auxiliary, specialised or not."""
        names = itertools.chain(self.layers, self.specialized)
        return {name: name.partition("/")[0] for name in names}

    @torch.no_grad()
    def _mask(self, owner: str, layer: str, batch: Batch) -> nn.Module:
        network = self.networks[owner]
        with evaluation_mode(network), FeatureTaps(network, [layer]) as taps:
            logits_of(network, batch.to(device_of(network)), owner)
        return feature_mask_for(taps.features[layer], **self.mask_options)


class _SoftenedDivergence(Objective):
    """T² · KL(teacher ‖ student) that reaches the teacher too, where the method leaves it attached."""

    reads = ("student.logits", "teacher.logits")

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return divergence_from(student_logits, teacher_logits, self.temperature)


def divergence_from(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(target ‖ prediction), the mean over samples and positions; classes are the second dimension.

    >>> divergence_from(torch.zeros(2, 3), torch.ones(2, 3), 4.0)
    tensor(0.)
    """
    if logits.ndim > 2:
        logits, target_logits = logits.movedim(1, -1), target_logits.movedim(1, -1)
    return temperature**2 * forward_kl(logits, target_logits, temperature=temperature, reduction="mean")
