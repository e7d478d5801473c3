from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.files import read_sealed_json, write_sealed_json
from tutelage.outputs import Outputs
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, TeacherCache, build_cache
from tutelage.teachers.cache_manifest import shard_path


class Numbered:
    """Samples whose inputs are given, under given stable indices."""

    def __init__(self, inputs: Tensor, index: Tensor | None = None) -> None:
        self.inputs = inputs
        self.index = torch.arange(len(inputs)) if index is None else index

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor) -> Batch:
        return Batch(self.inputs[rows], None, self.index[rows])

    def fingerprint(self) -> str:
        return f"{float(self.inputs.double().sum())} {self.index.tolist()}"


class Echo:
    """Says its inputs, as logits and as everything else."""

    taps: dict[str, str] = {}  # noqa: RUF012

    def __call__(self, batch: Batch) -> Outputs:
        assert isinstance(batch.inputs, Tensor)
        twice = batch.inputs * 2
        return Outputs(logits=batch.inputs, embedding=twice, features={"block": twice.unsqueeze(-1)})

    def fingerprint(self) -> str:
        return "echo"


def forty() -> Numbered:
    return Numbered(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))


def everything(samples: Numbered) -> Batch:
    return samples.batch(torch.arange(len(samples)))


@pytest.mark.parametrize("memory_budget", [0, 1 << 20], ids=["mapped", "in memory"])
@pytest.mark.parametrize("shape", [(7,), (3, 7)], ids=["classes", "sequence"])
def test_float32_comes_back_exactly_in_any_order(tmp_path: Path, memory_budget: int, shape: tuple[int, ...]) -> None:
    samples = Numbered(torch.randn(23, *shape) * 5, torch.randperm(23) * 3 - 30)
    build_cache(
        Echo(), samples, tmp_path, signals=("embedding", "logits", "features.block"), dtype="float32", shard_size=5
    )
    cache = TeacherCache(tmp_path, memory_budget=memory_budget, verify="full", data=samples, teacher=Echo())
    assert cache.in_memory == (memory_budget > 0)
    rows = torch.randint(0, 23, (50,))
    for size in (50, 1, 0):
        batch = samples.batch(rows[:size])
        outputs = CachedTeacher(cache)(batch)
        live = Echo()(batch)
        assert torch.equal(outputs.logits, live.logits)
        assert torch.equal(outputs.embedding, live.embedding)
        assert torch.equal(outputs.features["block"], live.features["block"])


@settings(max_examples=20, deadline=None)
@given(
    scale=st.sampled_from([0.01, 1.0, 10.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, -1e4, 3e5]),
    seed=st.integers(0, 99),
)
def test_float16_errors_are_bounded(
    tmp_path_factory: pytest.TempPathFactory, scale: float, offset: float, seed: int
) -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(seed)).double() * scale + offset
    logits = logits.float()
    samples = Numbered(logits)
    found = build_cache(Echo(), samples, tmp_path_factory.mktemp("cache")).read(samples.index).logits.double()
    logits = logits.double()
    distance = logits.amax(-1, keepdim=True) - logits
    rounding_of_float32 = 2.0**-23 * (logits.abs().amax() + distance)
    within = distance < 65504
    assert ((found - logits).abs() <= distance * 2**-11 + 2**-24 + rounding_of_float32)[within].all()
    assert torch.equal(found.amax(-1), logits.amax(-1))
    error = (found.softmax(-1) - logits.softmax(-1)).abs().amax()
    assert error <= 1.01 * 2**-11 * (1 / math.e + math.log(50)) + 2 * rounding_of_float32.max()


def test_float16_keeps_excluded_classes_excluded(tmp_path: Path) -> None:
    samples = Numbered(torch.tensor([[3.0, -torch.inf, 1.0], [0.0, 2.0, -torch.inf]]))
    logits = build_cache(Echo(), samples, tmp_path).read(samples.index).logits
    assert torch.isfinite(logits).all()
    assert torch.equal(logits.softmax(-1)[samples.inputs.isinf()], torch.zeros(2))


def test_float16_keeps_one_value_a_sample_exactly(tmp_path: Path) -> None:
    column, flat = Numbered(torch.randn(9, 1) * 1e4), Numbered(torch.randn(9) * 1e4)
    assert torch.equal(build_cache(Echo(), column, tmp_path / "a").read(column.index).logits, column.inputs)
    assert torch.equal(build_cache(Echo(), flat, tmp_path / "b").read(flat.index).logits, flat.inputs)


@settings(max_examples=20, deadline=None)
@given(
    top_k=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "float32"]),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    seed=st.integers(0, 99),
    steps=st.sampled_from([(), (2,)]),
)
def test_top_k_conserves_the_mass(
    tmp_path_factory: pytest.TempPathFactory, top_k: int, dtype: str, scale: float, seed: int, steps: tuple[int, ...]
) -> None:
    logits = torch.randn(6, *steps, 10, generator=torch.Generator().manual_seed(seed)) * scale
    samples = Numbered(logits)
    cache = build_cache(Echo(), samples, tmp_path_factory.mktemp("cache"), top_k=top_k, dtype=dtype)
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    top = cache.read_top_classes(samples.index)
    assert torch.allclose(top.log_probs.exp().sum(-1) + top.log_rest.exp(), torch.ones(()), atol=tolerance)
    probabilities = logits.softmax(-1)
    likeliest = probabilities.gather(-1, top.classes)
    assert torch.equal(top.classes, logits.topk(top_k, dim=-1).indices)
    assert torch.allclose(top.log_probs.exp(), likeliest, atol=tolerance)
    dense = cache.read(samples.index).logits.exp()
    assert torch.allclose(dense.sum(-1), torch.ones(()), atol=tolerance)
    assert torch.allclose(dense.gather(-1, top.classes), likeliest, atol=tolerance)
    others = dense.scatter(-1, top.classes, torch.nan)
    expected = (1 - likeliest.double().sum(-1)).clamp_min(0) / (10 - top_k)
    spread = others.nan_to_num(0.0).amax(-1)
    assert torch.allclose(spread.double(), expected, atol=1e-5)
    assert torch.allclose(others.nan_to_num(1.0).amin(-1), spread)


def test_top_k_by_hand(tmp_path: Path) -> None:
    samples = Numbered(torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log() + 7)
    cache = build_cache(Echo(), samples, tmp_path, top_k=2, dtype="float32")
    assert torch.allclose(cache.read(samples.index).logits.exp(), torch.tensor([[0.5, 0.3, 0.1, 0.1]]))
    assert torch.allclose(cache.read_top_classes(samples.index).log_rest.exp(), torch.tensor([0.2]))


def test_a_certain_teacher_leaves_finite_logits(tmp_path: Path) -> None:
    samples = Numbered(torch.tensor([[0.0, -torch.inf, -torch.inf], [5e4, 0.0, -5e4]]))
    logits = build_cache(Echo(), samples, tmp_path, top_k=1).read(samples.index).logits
    assert torch.isfinite(logits).all()
    assert torch.equal(logits.softmax(-1), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))


def test_many_classes(tmp_path: Path) -> None:
    logits = torch.randn(3, 70_000)
    cache = build_cache(Echo(), Numbered(logits), tmp_path, top_k=8)
    assert torch.equal(cache.read_top_classes(torch.arange(3)).classes, logits.topk(8).indices)
    assert cache.full_logits_bytes_per_sample == 280_000
    assert cache.bytes_per_sample == 8 + 8 * (2 + 4) + 4 + 4


INDEX_LAYOUTS = {
    "counted": torch.arange(40),
    "shifted": torch.arange(40) + 10**12,
    "negative": torch.arange(40) - 20,
    "gaps": torch.arange(40) * 7,
    "shuffled": torch.randperm(40, generator=torch.Generator().manual_seed(1)),
    "far apart": torch.arange(40) ** 9,
    "extreme": torch.cat([torch.tensor([-(2**63), 2**63 - 1, 0]), torch.arange(37) * 10**15 + 5]),
    "random": torch.randint(-(2**62), 2**62, (40,), generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("memory_budget", [0, 1 << 20], ids=["mapped", "in memory"])
@pytest.mark.parametrize("layout", INDEX_LAYOUTS)
def test_any_index_layout(tmp_path: Path, layout: str, memory_budget: int) -> None:
    index = INDEX_LAYOUTS[layout]
    samples = Numbered(torch.arange(40.0).unsqueeze(1).repeat(1, 3), index)
    build_cache(Echo(), samples, tmp_path, dtype="float32", shard_size=11)
    cache = TeacherCache(tmp_path, memory_budget=memory_budget)
    order = torch.randperm(40)
    assert torch.equal(cache.read(index[order]).logits[:, 0], order.float())
    known = set(index.tolist())
    for absent in {-(2**63), -1, 1, 39, 40, 41, 10**12 - 1, 2**62 + 1, 2**63 - 1} - known:
        with pytest.raises(ValueError, match=f"Expected every index to be in the cache .*, but {absent} is not"):
            cache.read(torch.tensor([int(index[0]), absent]))


def test_a_subset_may_read_the_cache_of_the_whole(tmp_path: Path) -> None:
    samples = Numbered(torch.randn(30, 3))
    build_cache(Echo(), samples, tmp_path, dtype="float32")
    part = Numbered(samples.inputs[5:9], samples.index[5:9])
    assert torch.equal(CachedTeacher(tmp_path)(everything(part)).logits, part.inputs)


def test_a_real_teacher_and_its_cache_agree(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5))
    live = FrozenTeacher(model, embedding=True, taps={"first": "0"})
    samples = Numbered(torch.randn(64, 4))
    cached = CachedTeacher(build_cache(live, samples, tmp_path, signals=("logits", "embedding", "features.first")))
    assert isinstance(cached, Teacher)
    assert cached.fingerprint() == live.fingerprint()
    expected, found = live(everything(samples)), cached(everything(samples))
    assert torch.allclose(found.logits, expected.logits, atol=2e-3)
    assert torch.allclose(found.embedding, expected.embedding, rtol=2**-11, atol=1e-6)
    assert torch.allclose(found.features["first"], expected.features["first"], rtol=2**-11, atol=1e-6)
    assert cached.cache.manifest.taps == {"first": "0"}
    assert TeacherCache(tmp_path, teacher=FrozenTeacher(model)).manifest.count == 64
    with pytest.raises(ValueError, match="to hold '4' as the feature 'first', but it has '0'"):
        TeacherCache(tmp_path, teacher=FrozenTeacher(model, taps={"first": "4"}))


def test_a_pickled_cache_is_a_handle(tmp_path: Path) -> None:
    samples = Numbered(torch.randn(2000, 10))
    cache = build_cache(Echo(), samples, tmp_path, dtype="float32")
    cache.read(samples.index)
    handle = pickle.dumps(cache)
    assert len(handle) < 1000
    assert torch.equal(pickle.loads(handle).read(samples.index).logits, samples.inputs)


def test_two_processes_read_one_cache(tmp_path: Path) -> None:
    samples = Numbered(torch.arange(600.0).view(200, 3))
    build_cache(Echo(), samples, tmp_path, dtype="float32", shard_size=64)
    program = (
        "import sys, torch; from tutelage.teachers import TeacherCache\n"
        "cache = TeacherCache(sys.argv[1], memory_budget=int(sys.argv[2]))\n"
        "total = sum(cache.read(torch.randperm(200)).logits.sum().item() for _ in range(20)); print(total)"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), budget], stdout=subprocess.PIPE, text=True)
        for budget in ("0", "1000000")
    ]
    answers = [reader.communicate(timeout=120)[0] for reader in readers]
    assert [float(answer) for answer in answers] == [20.0 * 599 * 600 / 2] * 2


class TestRefusals:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        build_cache(Echo(), forty(), tmp_path, shard_size=16)
        return tmp_path

    @pytest.mark.parametrize("memory_budget", [0, 1 << 20], ids=["mapped", "in memory"])
    def test_a_flipped_bit_is_found_before_use(self, folder: Path, memory_budget: int) -> None:
        path = shard_path(folder, 1)
        damaged = bytearray(path.read_bytes())
        damaged[-5] ^= 1
        path.write_bytes(damaged)
        cache = TeacherCache(folder, memory_budget=memory_budget)
        with pytest.raises(ValueError, match=r"00001\.npy to be as it was written, but its checksum differs"):
            cache.read(torch.tensor([20]))
        if memory_budget == 0:
            assert cache.read(torch.tensor([3])).logits is not None  # an intact shard stays readable
        with pytest.raises(ValueError, match="checksum differs"):
            TeacherCache(folder, verify="full")

    def test_a_cut_off_or_missing_shard_is_found_at_opening(self, folder: Path) -> None:
        path = shard_path(folder, 2)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=f"to have {len(whole)} bytes, but it has {len(whole) - 1}"):
            TeacherCache(folder)
        path.unlink()
        with pytest.raises(ValueError, match="it is missing; build the cache again"):
            TeacherCache(folder)

    def test_a_damaged_shard_is_mended_by_building_again(self, folder: Path) -> None:
        paths = [shard_path(folder, number) for number in range(3)]
        before = [path.read_bytes() for path in paths]
        paths[1].write_bytes(before[1][:-3] + b"abc")
        paths[2].unlink()
        build_cache(Echo(), forty(), folder, shard_size=16)
        assert [path.read_bytes() for path in paths] == before

    def test_an_altered_index_or_manifest(self, folder: Path) -> None:
        path = folder / "index.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"index\.npy to be as it was written"):
            TeacherCache(folder)
        path.write_bytes(whole)
        manifest = folder / "manifest.json"
        text = manifest.read_text()
        for altered in ("{}", "[1]", text[:-20], text.replace('"count"', '"counts"'), text.replace('"<f2"', '"|O"')):
            manifest.write_text(altered)
            with pytest.raises(ValueError, match=r"manifest\.json"):
                TeacherCache(folder)
        manifest.write_text(text.replace('"shard_size": 16', '"shard_size": 8'))
        with pytest.raises(ValueError, match=r"manifest\.json to match its checksum"):
            TeacherCache(folder)
        manifest.write_text(text)
        write_sealed_json(manifest, {**read_sealed_json(manifest), "shard_size": 8})
        with pytest.raises(ValueError, match="to list shard 3"):
            TeacherCache(folder)

    def test_no_cache(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
            TeacherCache(tmp_path / "nothing")

    def test_another_teacher_or_other_data(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"made by this teacher .*, but another one made it"):
            TeacherCache(folder, teacher=FrozenTeacher(nn.Linear(4, 4)))
        with pytest.raises(ValueError, match=r"made from this data .*, but it was made from other data"):
            TeacherCache(folder, data=Numbered(torch.ones(40, 4)))

    def test_other_settings_in_a_folder_that_is_taken(self, folder: Path) -> None:
        samples = forty()
        with pytest.raises(ValueError, match="to have top_k = 2, but it was begun with None"):
            build_cache(Echo(), samples, folder, top_k=2)
        with pytest.raises(ValueError, match="to have dtype = float32, but it was begun with float16"):
            build_cache(Echo(), samples, folder, dtype="float32")
        with pytest.raises(ValueError, match="to have shard_size = 8, but it was begun with 16"):
            build_cache(Echo(), samples, folder, shard_size=8)
        with pytest.raises(ValueError, match="other data"):
            build_cache(Echo(), Numbered(torch.ones(40, 4)), folder)
        with pytest.raises(ValueError, match="to be built with `top_k`"):
            TeacherCache(folder).read_top_classes(torch.arange(2))


@pytest.mark.parametrize(
    ("inputs", "options", "text"),
    [
        (torch.tensor([[1.0, torch.nan]]), {}, "teacher's logits to be finite"),
        (torch.tensor([[1.0, torch.inf]]), {}, "teacher's logits to be finite"),
        (torch.tensor([[-torch.inf, -torch.inf]]), {}, "teacher's logits to be finite"),
        (torch.tensor([[1.0, -torch.inf]]), {"signals": ("embedding",)}, "teacher's embedding to be finite"),
        (torch.tensor([[1.0, 4e4]]), {"signals": ("embedding",)}, "to fit float16 .* but got 80000; store it with"),
        (torch.zeros(1, 2), {"signals": ("features.other",)}, "to give the signal 'features.other', but it gives none"),
        (torch.zeros(1, 2), {"signals": ("logit",)}, "did you mean 'logits'"),
        (torch.zeros(1, 2), {"signals": ()}, "at least one signal"),
        (torch.zeros(1, 2), {"signals": ("logits", "logits")}, "every signal once"),
        (torch.zeros(1, 2), {"signals": ("embedding",), "top_k": 1}, "`top_k` to be None"),
        (torch.zeros(1, 2), {"top_k": 0}, "`top_k` to be at least 1"),
        (torch.zeros(1, 2), {"top_k": 2}, r"below the number of classes \(2\), but got 2"),
        (torch.zeros(1, 2), {"batch_size": 0}, "`batch_size` to be at least 1"),
        (torch.zeros(1, 2), {"shard_size": 0}, "`shard_size` to be at least 1"),
        (torch.zeros(0, 2), {}, "`samples` to be at least 1"),
    ],
)
def test_what_cannot_be_cached(tmp_path: Path, inputs: Tensor, options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build_cache(Echo(), Numbered(inputs), tmp_path, **options)  # type: ignore[arg-type]


def test_two_samples_with_one_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an index of its own, but 5 occurs twice"):
        build_cache(Echo(), Numbered(torch.zeros(3, 2), torch.tensor([5, 1, 5])), tmp_path)


def test_shapes_that_vary(tmp_path: Path) -> None:
    class Padded(Numbered):
        def batch(self, rows: Tensor) -> Batch:
            return Batch(self.inputs[rows][:, : 1 + int(rows.max())], None, rows)

    with pytest.raises(ValueError, match=r"one shape for all samples.*pad sequences"):
        build_cache(Echo(), Padded(torch.zeros(6, 6)), tmp_path, batch_size=2)
