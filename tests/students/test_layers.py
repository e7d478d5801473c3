import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.models import convnet, load_model, mlp, parameter_count, resnet, save_model, vit
from tutelage.students import (
    InvalidArchitecture,
    LayerSpec,
    apply_removal,
    apply_shrinkage,
    architecture_size,
    build_student,
    describe_layers,
    forced_entries,
    forced_keeps,
    layer_table,
)
from tutelage.students.layers import WIDTH_FLOOR, fitted


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 10))


class Functional(nn.Module):
    """A residual network with functions in place of modules, a shortcut with weights, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding="same")
        self.a, self.b = nn.Conv2d(12, 20, 3, stride=2, padding=1), nn.Conv2d(20, 24, 3, padding=1)
        self.across = nn.Conv2d(12, 24, 1, stride=2)
        self.c, self.d = nn.Conv2d(24, 16, 1), nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x))
        x = torch.relu(self.b(self.a(x).relu()) + self.across(x))
        x = self.d(nn.functional.relu(self.c(x))) + x
        x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)).flatten(1))


NETWORKS = {
    "vgg": (vgg, (1, 8, 8)),
    "convnet": (lambda: convnet((1, 8, 8), 10), (1, 8, 8)),
    "signal": (lambda: convnet((1, 40), 10, channels=(12, 16)), (1, 40)),
    "mlp": (lambda: mlp(4, 3, hidden=(12,), normalization="batch"), (4,)),
    "resnet": (lambda: resnet((1, 8, 8), 10, widths=(12, 20), depths=(2, 1)), (1, 8, 8)),
    "bottleneck": (
        lambda: resnet((3, 32, 32), 10, widths=(16, 24), depths=(1, 1), layer_type="bottleneck", stem="standard"),
        (3, 32, 32),
    ),
    "functional": (Functional, (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_description_rebuilds_the_network(name):
    make, shape = NETWORKS[name]
    model = make()
    table, specs = describe_layers(model)
    assert fitted(specs) == specs
    assert apply_removal(specs, torch.ones(len(specs), dtype=torch.bool)) == specs
    assert apply_shrinkage(specs, torch.ones_like(table)) == specs
    assert architecture_size(specs, shape) == parameter_count(model)
    copy = build_student(specs, shape)
    assert sorted(p.shape for p in copy.parameters()) == sorted(p.shape for p in model.parameters())


@pytest.mark.parametrize("name", ["vgg", "functional"])
def test_a_rebuilt_network_with_the_same_weights_gives_the_same_logits(name):
    make, shape = NETWORKS[name]
    model = make().eval()
    copy = build_student(describe_layers(model)[1], shape).eval()
    theirs = {id(p): p for p in model.parameters()}
    order = list(theirs.values())
    if name == "functional":  # registered in the order of the description, except for the shortcut
        names = [
            n for layer in ("stem", "a", "b", "across", "c", "d", "head") for n in (f"{layer}.weight", f"{layer}.bias")
        ]
        order = [model.get_parameter(n) for n in names]
    with torch.no_grad():
        for mine, other in zip(copy.parameters(), order, strict=True):
            mine.copy_(other)
        x = torch.randn(3, *shape)
        torch.testing.assert_close(copy(x), model(x))


def test_rows_by_hand():
    table, specs = describe_layers(vgg())
    assert table[:4].tolist() == [[1, 3, 1, 16, 1], [4, 0, 0, 16, 0], [3, 0, 0, 0, 0], [2, 2, 2, 0, 0]]
    assert table[-2:].tolist() == [[6, 0, 0, 0, 0], [5, 0, 0, 10, 0]]
    assert [spec.kind for spec in specs if spec.fixed] == ["Linear", "Linear"]
    assert forced_keeps(specs).nonzero().flatten().tolist() == [0, 8, 11]
    free = ~forced_entries(specs)
    assert free.nonzero().tolist() == [[0, 1], [0, 3], [0, 4], [3, 1], [3, 2], [4, 1], [4, 3], [4, 4], [7, 1], [7, 2]]


def test_what_a_residual_network_may_change():
    _, specs = describe_layers(Functional())
    convolutions = {spec.width: spec for spec in specs if spec.kind == "Conv2d" and not spec.shortcut}
    assert [spec.width for spec in specs if spec.shortcut] == [24]
    free = {(spec.width, spec.block) for spec, row in zip(specs, ~forced_entries(specs), strict=True) if row[3]}
    # The strided convolution is fixed; the end of block 2 follows what enters it.
    assert free == {(12, 0), (24, 1), (16, 2)}
    assert convolutions[20].fixed
    assert [spec.skip for spec in specs if spec.block == 1] == [(1, 0), (0, 0), (0, 1), (0, 0)]
    half = torch.full((len(specs), 7), 0.5)
    shrunk = apply_shrinkage(specs, half)
    widths = [(spec.block, spec.shortcut, spec.width) for spec in shrunk if spec.kind == "Conv2d"]
    assert widths == [(0, False, 10), (1, False, 20), (1, False, 12), (1, True, 12), (2, False, 10), (2, False, 12)]


def test_removal_refits_what_follows_and_drops_empty_blocks():
    _, specs = describe_layers(Functional())
    keep = forced_keeps(specs)
    kept = apply_removal(specs, keep)
    assert {spec.block for spec in kept} == {0, 1}
    assert build_student(kept, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert next(spec.width for spec in kept if spec.shortcut) == 20, "the shortcut takes the width of what is left"
    nothing = apply_removal(specs, torch.zeros(len(specs), dtype=torch.bool))
    assert [spec.kind for spec in nothing if not spec.block] == ["AdaptiveAvgPool2d", "Linear"], "fixed layers stay"


@pytest.mark.parametrize("multiplier", [0.1, 0.3, 0.7, 1.0])
def test_products_are_rounded_down_whatever_single_precision_says(multiplier):
    layer = [LayerSpec("Conv2d", 10, 1, 200, 10)]
    row = apply_shrinkage(layer, torch.full((1, 5), multiplier))[0]
    expected = round(multiplier * 10)
    assert (row.kernel, row.padding, row.width) == (expected, expected, 20 * expected)
    assert row.stride == 1


DRAWN = {name: describe_layers(make())[1] for name, (make, _) in NETWORKS.items() if name not in ("mlp", "bottleneck")}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(DRAWN)), st.integers(0, 10_000))
def test_every_student_that_is_built_maps_inputs_to_classes(name, seed):
    torch.manual_seed(seed)
    specs, shape = DRAWN[name], NETWORKS[name][1]
    kept = apply_removal(specs, (torch.rand(len(specs)) < 0.7) | forced_keeps(specs))
    shrunk = apply_shrinkage(kept, torch.rand(len(kept), layer_table(kept).shape[1]) * 0.9 + 0.1)
    before = {spec.width for spec in kept if spec.kind.startswith("Conv")}
    assert all(spec.width >= min(WIDTH_FLOOR, *before) for spec in shrunk if spec.kind.startswith("Conv"))
    for layers in (kept, shrunk):
        try:
            size = architecture_size(layers, shape)
        except InvalidArchitecture:
            continue
        student = build_student(layers, shape)
        assert parameter_count(student) == size
        assert student(torch.randn(2, *shape)).shape == (2, 10)


def test_size_by_hand():
    layers = [LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("BatchNorm2d", width=16), LayerSpec("Linear", width=10)]
    assert architecture_size(layers, (2, 4, 4)) == (9 * 2 * 16 + 16) + 32 + (256 * 10 + 10)


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([LayerSpec("Conv2d", 5, 1, 16)], (1, 4, 4), "does not fit a map"),
        ([LayerSpec("MaxPool2d", 2, 2, padding=2)], (1, 4, 4), "does not fit a map"),
        ([LayerSpec("Conv2d", 1, 1, 4), LayerSpec("Linear", width=2)], (1, 1, 1), "reads 4 features"),
        ([LayerSpec("Conv2d", 1, 1, 20), LayerSpec("Linear", width=2)], (1, 64, 64), "reads 81920 features"),
        ([LayerSpec("Conv2d", 3, 1, 16, 1)], (1, 4, 4), "not in one value a class"),
        ([LayerSpec("Conv1d", 3, 1, 16, 1)], (1, 4, 4), "does not fit an input"),
        ([LayerSpec("MaxPool2d", 2, 2, block=1), LayerSpec("ReLU", block=1)], (1, 4, 4), "which differ"),
    ],
)
def test_layers_that_make_no_network(layers, shape, message):
    with pytest.raises(InvalidArchitecture, match=message):
        build_student(layers, shape)
    assert issubclass(InvalidArchitecture, ValueError)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Unused(Shared):
    def forward(self, x):
        return self.layer(x)


class Branches(Shared):
    def forward(self, x):
        return torch.cat([self.layer(x), self.unused(x)], dim=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2)), r"the layer '0' is Conv2d"),
        (nn.Sequential(nn.Conv2d(1, 4, (3, 1)), nn.Flatten(), nn.Linear(4, 2)), "unequal"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "LayerNorm"),
        (nn.Sequential(nn.ReLU()), "no convolution or linear layer"),
        (Shared(), "used twice"),
        (Unused(), "'unused.weight' belongs to no layer"),
        (Branches(), "cat"),
        (vit((1, 8, 8), 10), "torch.fx cannot follow it"),
    ],
)
def test_what_cannot_be_described_gets_one_clear_line(model, message):
    with pytest.raises(ValueError, match=message) as caught:
        describe_layers(model)
    assert str(caught.value).startswith("Expected argument `model` to be a chain")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_bad_decisions():
    _, specs = describe_layers(vgg())
    with pytest.raises(ValueError, match="12 decisions"):
        apply_removal(specs, torch.ones(3, dtype=torch.bool))
    for wrong in (torch.ones(3, 5), torch.full((12, 5), 1.5), torch.zeros(12, 5)):
        with pytest.raises(ValueError, match="`multipliers`"):
            apply_shrinkage(specs, wrong)


def test_a_built_student_is_saved_and_loaded(tmp_path):
    _, specs = describe_layers(resnet((1, 8, 8), 10, widths=(12, 16), depths=(1, 1)))
    student = build_student(specs, (1, 8, 8)).eval()
    save_model(tmp_path / "student", student)
    again = load_model(tmp_path / "student").eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x), student(x))
