"""Watches what a run does to representations: their entropy, and what they tell of labels and of inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_positive
from tutelage.assessment.diffusion_entropy import diffusion_spectral_entropy
from tutelage.assessment.diffusion_information import categories, diffusion_spectral_mutual_information
from tutelage.assessment.diffusion_spectrum import Normalization, median_bandwidth
from tutelage.data.samples import Samples
from tutelage.data.subsets import subset
from tutelage.features.layouts import as_tokens
from tutelage.features.taps import FeatureTaps
from tutelage.models.call import call_model, head_path
from tutelage.teachers.teacher import TeacherModule
from tutelage.training.monitors import Monitor, Record


class RepresentationTracker(Monitor):
    """Logs diffusion spectral entropy and mutual information of layers, in bits.

    It adds to records, for every layer:

    - `representation/LAYER/entropy`: DSE.
    - `representation/LAYER/label_information`: DSMI with the labels, where a sample has one. It rises when a network
      generalises.
    - `representation/LAYER/input_information`: DSMI with the inputs, in spectral clusters that are computed once; where
      the inputs are one tensor of reals.
    - `representation/LAYER/bandwidth`: σ, a multiple of the layer's median distance, so that what a look shows is free
      of the layer's scale, which may grow a hundredfold. While most samples coincide there is none, and all are NaN.

    Networks are called in evaluation mode and left as they were; no random state is touched.

    Args:
        layers: Places as in `FeatureTaps`, or `embedding`, what the output layer reads. They are in the student, or in
            another network of the run when its name stands in front: `teacher/embedding`. Maps and tokens are taken
            as the mean over their positions.
        every: Look at every so-many-th record, and at the start.
        samples: What is asked: samples, or how many of the run's held-out ones (of the training data where there are
            none), drawn at random once. The cost of a look grows with their third power: about 0.1 s for 500.
        bandwidth_factor: What the median distance is multiplied by.
        fixed_bandwidth: Keep σ as it was before the first step (a resumed run takes it from its records). Growing
            distances then show as entropy, but soon all samples are far apart: entropy ends at log N and information
            at 0, whatever was learned.
        time: Diffusion steps.
        normalization: Which random walk.
        clusters: Clusters of the inputs (and bins of real targets).
        repetitions: Draws a category.
        seed: Of the draws, which are the same in every look.
        batch_size: Samples a call.

    Attributes:
        curve: One dict a look: `step` (0 for the start), and the values by the names above.

    Raises:
        ValueError: No layers, or a number out of its range; at the start of a run: a network or a place that does not
            exist.

    Source: Liao et al., CISS 2024, arXiv 2312.04823, section on training dynamics.

    >>> from tutelage.data import ArraySamples
    >>> from tutelage.objectives import CrossEntropy
    >>> from tutelage.training import Distillation, Trainer, TrainingSettings
    >>> samples = ArraySamples(torch.randn(60, 4), torch.arange(60) % 2)
    >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> tracker = RepresentationTracker(["embedding"], samples=samples, clusters=3)
    >>> method = Distillation(None, student, CrossEntropy())
    >>> history = Trainer(method, samples, settings=TrainingSettings(epochs=2), monitors=[tracker]).run()
    >>> [look["step"] for look in tracker.curve], 0 < history[-1]["representation/embedding/entropy"] < 6
    ([0, 1, 2], True)
    """

    def __init__(
        self,
        layers: str | Sequence[str] = ("embedding",),
        *,
        every: int = 1,
        samples: Samples | int = 500,
        bandwidth_factor: float = 0.5,
        fixed_bandwidth: bool = False,
        time: float = 1,
        normalization: Normalization = "random_walk",
        clusters: int = 10,
        repetitions: int = 5,
        seed: int = 0,
        batch_size: int = 512,
    ) -> None:
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        if not self.layers:
            raise ValueError("Expected argument `layers` to name at least one layer, but it is empty.")
        for number, name in ((every, "every"), (repetitions, "repetitions"), (batch_size, "batch_size")):
            check_at_least(number, name, 1)
        check_at_least(clusters, "clusters", 2)
        check_positive(bandwidth_factor, "bandwidth_factor")
        check_positive(time, "time")
        if isinstance(samples, int):
            check_at_least(samples, "samples", 2)
        self.every, self.samples, self.bandwidth_factor, self.clusters = every, samples, bandwidth_factor, clusters
        self.seed, self.batch_size = seed, batch_size
        self.options: dict[str, Any] = {"time": time, "normalization": normalization}
        self.repetitions, self.fixed_bandwidth = repetitions, fixed_bandwidth
        self.curve: list[dict[str, float]] = []
        self._held_out: Samples | None = None
        self._bandwidths: dict[str, float] = {}
        self._references: dict[str, Tensor] = {}
        self._records = 0

    def on_data(self, held_out: Samples) -> None:
        """Take the samples from the held-out ones."""
        self._held_out = held_out

    def on_start(self, trainer: Any) -> None:
        """Find layers, samples and categories, and look for the first time; a resumed run goes on where it was."""
        self._asked = self._choose(trainer.train)
        self._places = [self._find(trainer.method, layer) for layer in self.layers]
        self._references = self._categories()
        self._records = len(trainer.history)
        self._bandwidths, self.curve = {}, []
        for record in trainer.history:
            values = {name: value for name, value in record.items() if name.startswith("representation/")}
            if values:
                self.curve.append({"step": record["step"], **values})
                for layer in self.layers:
                    bandwidth = values.get(f"representation/{layer}/bandwidth")
                    if bandwidth is not None and math.isfinite(bandwidth):
                        self._bandwidths.setdefault(layer, bandwidth)
        if not self.curve:
            self.curve.append({"step": trainer.step, **self.look()})

    def on_record(self, record: Record) -> None:
        """Add the values."""
        self._records += 1
        if self._records % self.every == 0:
            values = self.look()
            record.update(values)
            self.curve.append({"step": record["step"], **values})

    def look(self) -> dict[str, float]:
        """What the layers are like now, by the names that are logged."""
        found: dict[str, float] = {}
        for layer, (network, place) in zip(self.layers, self._places, strict=True):
            for name, value in self._measure(layer, self._representations(network, place)).items():
                found[f"representation/{layer}/{name}"] = value
        return found

    def _measure(self, layer: str, x: Tensor) -> dict[str, float]:
        names = ("entropy", *self._references, "bandwidth")
        if not torch.isfinite(x).all():
            return dict.fromkeys(names, math.nan)
        if layer not in self._bandwidths or not self.fixed_bandwidth:
            try:
                self._bandwidths[layer] = median_bandwidth(x, factor=self.bandwidth_factor)
            except ValueError:  # most samples coincide
                return dict.fromkeys(names, math.nan)
        options = {**self.options, "bandwidth": self._bandwidths[layer]}
        found = {"entropy": diffusion_spectral_entropy(x, **options, max_samples=len(x)).item()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Category .* is left out")
            for name, reference in self._references.items():
                found[name] = diffusion_spectral_mutual_information(
                    x,
                    reference,
                    discrete=True,
                    repetitions=self.repetitions,
                    min_category=2,
                    generator=torch.Generator().manual_seed(self.seed),
                    **options,
                ).item()  # type: ignore[union-attr]
        return {**found, "bandwidth": self._bandwidths[layer]}

    @torch.no_grad()
    def _representations(self, network: nn.Module, place: str) -> Tensor:
        """`[samples, width]` on the CPU."""
        parameter = next(network.parameters(), None)
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        parts = []
        try:
            with FeatureTaps(network, [place]) as taps:
                for rows in torch.split(torch.arange(len(self._asked)), self.batch_size):
                    batch = self._asked.batch(rows)
                    call_model(network, batch.to(parameter.device if parameter is not None else "cpu").inputs)
                    parts.append(as_tokens(taps.features[place].float()).mean(dim=1).cpu())
        finally:
            for module, mode in modes:
                module.training = mode
        return torch.cat(parts)

    def _choose(self, train: Samples) -> Samples:
        if not isinstance(self.samples, int):
            return self.samples
        whole = train if self._held_out is None else self._held_out
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.seed))
        return subset(whole, order[: self.samples].sort().values)

    def _find(self, method: Any, layer: str) -> tuple[nn.Module, str]:
        """The network that a layer is in, and its place there."""
        others = method.modules() if hasattr(method, "modules") else {}
        networks = {**others, **method.trainable()}
        name, slash, place = layer.rpartition("/")
        name = name if slash else "student"
        network = networks.get(name)
        if isinstance(network, TeacherModule):  # the network that the teacher asks, if it is one
            network = getattr(network, "model", None)
        if network is None:
            raise ValueError(
                f"Expected the layer {layer!r} to be in a network of the run ({', '.join(networks)}), but {name!r} is "
                "none that can be looked into."
            )
        return network, f"{head_path(network)}:input" if place == "embedding" else place

    def _categories(self) -> dict[str, Tensor]:
        """Labels and clusters of the inputs, as far as there are any; computed once."""
        batches = [self._asked.batch(rows) for rows in torch.split(torch.arange(len(self._asked)), self.batch_size)]
        found: dict[str, Tensor] = {}
        if all(batch.target is not None and batch.target.ndim == 1 for batch in batches):
            target = torch.cat([batch.target for batch in batches if batch.target is not None])
            found["label_information"] = categories(
                target, discrete=not target.is_floating_point(), clusters=self.clusters
            )
        if all(isinstance(batch.inputs, Tensor) and batch.inputs.is_floating_point() for batch in batches):
            inputs = torch.cat([batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)]).flatten(1)
            if len(inputs) > max(self.clusters, 10):
                found["input_information"] = categories(inputs, clusters=self.clusters)
        return {name: value for name, value in found.items() if value.bincount().max() >= 2}
