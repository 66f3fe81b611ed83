"""The network on the native kernels against the torch network, and its promise: a row's bits depend on its own context only."""

import contextlib
import gc
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import cpm_gen
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.native import library
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from tests.random_networks import SMALL, random_checkpoint, random_state

try:
    KERNELS = library.kernels()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

FORMS = (
    "float32",
    "bfloat16",
    "int8",
    "float32/int8",
    "int8/int8",
)  # of weights; of keys and values, where they have one of their own
# heads of 20 and a hidden size of 80 are no multiples of 16 and 64; more positions than rows meet the head at once
ODD = ModelSize(layers=2, hidden=80, heads=4, vocabulary=132, positions=150)
SIZES = {"small": SMALL, "odd": ODD}
PROC = Path("/proc/self/status")

every_kernel = pytest.mark.parametrize("kernels", KERNELS)
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folders = {name: random_checkpoint(tmp_path_factory.mktemp(name), size) for name, size in SIZES.items()}
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


def packed(
    checkpoint: Checkpoint, heads: int, form: str, *, kernels: str | None = None, threads: int = 1
) -> NativeModel:
    model = made(checkpoint.size(heads), TensorParallel(), form, kernels=kernels, threads=threads)
    model.load(checkpoint)
    return model


def made(size: ModelSize, group: TensorParallel, form: str, **options: Any) -> NativeModel:
    weights, _, kv = form.partition("/")
    return NativeModel(size, group, form=weights, kv_form=kv or None, **options)


def some_ids(size: ModelSize, seed: int = 1) -> list[int]:
    return torch.randint(size.vocabulary, (size.positions,), generator=torch.Generator().manual_seed(seed)).tolist()


def bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def in_steps(x: Tensor, most: float) -> Tensor:
    """Each row as whole multiples, up to ``most``, of a step of its own."""
    top = x.abs().amax(-1, keepdim=True)
    return torch.where(top > 0, (x * (most / top)).round() * (top / most), 0.0)


def in_bytes(x: Tensor, kernels: str) -> Tensor:
    """int8's inputs: 16 bits for AMX, elsewhere 8 bits in groups of 64."""
    return in_steps(x, 32639) if kernels == "amx" else in_groups(x)


def attend_in_bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, m = q.shape[1], k.shape[1]
    scores = bf16(q * q.shape[2] ** -0.5) @ bf16(k).transpose(1, 2)
    scores.masked_fill_(~torch.ones(n, m, dtype=torch.bool).tril(m - n), -torch.inf)
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    y = bf16(e) @ bf16(v) / e.sum(-1, keepdim=True)
    return y.transpose(0, 1).reshape(n, -1)


def in_groups(x: Tensor) -> Tensor:
    """8 bits, with a scale for each 64."""
    groups = torch.nn.functional.pad(x, (0, -x.shape[-1] % 64)).unflatten(-1, (-1, 64))
    return in_steps(groups, 127).flatten(-2)[..., : x.shape[-1]]


def attend_in_int8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, m = q.shape[1], k.shape[1]
    scores = in_groups(q) @ in_steps(k, 127).transpose(1, 2) * q.shape[2] ** -0.5
    scores.masked_fill_(~torch.ones(n, m, dtype=torch.bool).tril(m - n), -torch.inf)
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    steps = v.abs().amax(-1, keepdim=True) / 127
    y = in_groups(e * steps.transpose(1, 2)) @ (in_steps(v, 127) / steps) / e.sum(-1, keepdim=True)
    return y.transpose(0, 1).reshape(n, -1)


def attention_of(form: str) -> contextlib.AbstractContextManager[object]:
    """Lets torch networks attend as the kernels of this form do."""
    if form == "float32":
        return contextlib.nullcontext()
    return mock.patch(
        "cpm_gen.networks.torch.model.attend", attend_in_int8 if form.endswith("/int8") else attend_in_bf16
    )


class Oracle:
    """The torch network in fp32, its matrices and what goes into them rounded as the kernels round them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        heads: int,
        form: str,
        group: TensorParallel | None = None,
        kernels: str = KERNELS[0],
    ) -> None:
        group = group or TensorParallel()
        self.form = form
        self.model = TorchModel(checkpoint.size(heads), group, dtype=torch.float32, device=torch.device("cpu"))
        load_into(self.model, checkpoint, rank=group.rank, degree=group.size)
        if form.startswith("float32"):
            return
        weights: Callable[[Tensor], Tensor] = bf16 if form == "bfloat16" else lambda x: in_steps(x, 127)
        inputs: Callable[[Tensor], Tensor] = bf16 if form == "bfloat16" else lambda x: in_bytes(x, kernels)
        for name, parameter in self.model.named_parameters():
            if parameter.dim() == 2 and name != "position_embeddings.weight":
                parameter.data = weights(parameter.data)
        for layer in self.model.transformer.layers:
            for module in (
                layer.attention.query_key_value,
                layer.attention.dense,
                layer.mlp.dense_h_to_4h,
                layer.mlp.dense_4h_to_h,
            ):
                module.register_forward_pre_hook(lambda _, args: (inputs(args[0]),))
        head = self.model.word_embeddings.head
        self.model.word_embeddings.head = lambda x: head(inputs(x))

    def logits(self, ids: Sequence[int], ends: Sequence[int]) -> Tensor:
        """After the first ``n`` of ``ids``, for each ``n`` of ``ends``."""
        with attention_of(self.form):
            return torch.cat([self.model.next_logits([Segment(ids[:n])], None) for n in ends])


def error(got: Tensor, want: Tensor) -> float:
    """The largest error, relative to the spread of all logits."""
    return float((got - want).abs().max() / want.std())


# fp32 sums in another order. Narrow forms round the same numbers as their oracle does, except that one which lies between two
# neighbours may go to the other: a bfloat16's neighbour is 2 ** -8 away, of one number among the many of a row.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.03, "int8": 0.03, "float32/int8": 0.03, "int8/int8": 0.03}


@pytest.mark.parametrize("name", SIZES)
@every_form
def test_every_kernel_gives_the_torch_networks_logits(checkpoints: dict[str, Checkpoint], name: str, form: str) -> None:
    size, checkpoint = SIZES[name], checkpoints[name]
    ids, ends = some_ids(size), (1, 2, size.positions // 2, size.positions)
    for kernels in KERNELS:
        want = Oracle(checkpoint, size.heads, form, kernels=kernels).logits(ids, ends)
        model = packed(checkpoint, size.heads, form, kernels=kernels)
        assert model.kernels == kernels
        got = torch.cat([model.next_logits([Segment(ids[:n])], None) for n in ends])
        assert got.dtype == torch.float32
        assert error(got, want) < BOUNDS[form], kernels


@every_form
def test_narrow_forms_stay_near_the_network_itself(checkpoints: dict[str, Checkpoint], form: str) -> None:
    ids = some_ids(ODD)
    want = Oracle(checkpoints["odd"], ODD.heads, "float32").logits(ids, range(1, 20))
    model = packed(checkpoints["odd"], ODD.heads, form)
    got = torch.cat([model.next_logits([Segment(ids[:n])], None) for n in range(1, 20)])
    typical = float((got - want).std() / want.std())
    assert typical < {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06, "float32/int8": 0.02, "int8/int8": 0.06}[form]


@every_kernel
@every_form
def test_a_rows_bits_depend_on_its_own_context_only(
    checkpoints: dict[str, Checkpoint], kernels: str, form: str
) -> None:
    # more threads than one where that is cheapest: waiting for a core takes longer than these networks
    threads = 2 if kernels == KERNELS[0] else 1
    model = packed(checkpoints["odd"], ODD.heads, form, kernels=kernels, threads=threads)
    ids, other = some_ids(ODD), some_ids(ODD, seed=2)
    ends = {1, 2, 31, 32, 33, 64, 65, 129, ODD.positions}
    alone = {n: model.next_logits([Segment(ids[:n])], None)[0] for n in ends}
    chance = random.Random(3)
    for cuts, neighbours in (([1], 0.1), ([1, 2, 7, 16, 40], 0.5), ([150], 0.5)):
        cache, at = model.make_cache(3), 0
        while at < ODD.positions:
            n = min(chance.choice(cuts), min(end for end in ends if end > at) - at)
            segments = [Segment(ids[at : at + n], at, 2, at + n in ends)]
            # before and after it, of any length, in other slots and in none
            if chance.random() < neighbours:
                segments.insert(0, Segment(other[: chance.choice([1, 9, 40, 100])], 0, 0, False))
            if chance.random() < neighbours:
                segments.append(Segment(other[: chance.choice([1, 9, 40, 100])], 0, chance.choice([None, 1]), False))
            logits = model.next_logits(segments, cache)
            at += n
            assert len(logits) == (at in ends)
            if at in ends:
                assert torch.equal(logits[0], alone[at]), (cuts, at)


@every_kernel
@every_form
def test_scores_are_those_of_the_logits(checkpoints: dict[str, Checkpoint], kernels: str, form: str) -> None:
    model = packed(checkpoints["odd"], ODD.heads, form, kernels=kernels)
    ids = some_ids(ODD)
    scores = model.score(Segment(ids[:-1]), ids[1:], None)
    assert scores.shape == (149,)
    for n in (1, 2, 128, 129, 149):
        logits = model.next_logits([Segment(ids[:n])], None)[0]
        torch.testing.assert_close(scores[n - 1], logits.log_softmax(0)[ids[n]], rtol=1e-5, atol=1e-5)
    assert torch.equal(model.score(Segment(ids[:60]), ids[51:61], None), scores[50:60])
    cache = model.make_cache(2)
    for at, end in ((0, 40), (40, 41), (41, 149)):  # in parts, of the first no row
        part = model.score(Segment(ids[at:end], at, 1), ids[at + 1 : end + 1] if at else [], cache)
        assert torch.equal(part, scores[at:end] if at else torch.empty(0))


@every_form
def test_threads_change_no_bit(checkpoints: dict[str, Checkpoint], form: str) -> None:
    ids = some_ids(ODD)
    results = [
        packed(checkpoints["odd"], ODD.heads, form, threads=n).score(Segment(ids[:-1]), ids[1:], None)
        for n in (1, 2, 3)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_are_packed_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path, ODD, dtype=dtype))
    ids = some_ids(ODD)
    want = Oracle(checkpoint, ODD.heads, "float32").logits(ids, [40])
    assert error(packed(checkpoint, ODD.heads, "float32").next_logits([Segment(ids[:40])], None), want) < 1e-4


def test_bytes_of_weights(checkpoints: dict[str, Checkpoint]) -> None:
    # both sides of a matrix in whole 64s
    layer = 256 * 128 + 128 * 128 + 320 * 128 + 128 * 320
    for form, n in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
        assert packed(checkpoints["odd"], ODD.heads, form).weight_bytes == (2 * layer + 192 * 128) * n


def test_bytes_of_keys_and_values() -> None:
    size = ModelSize(layers=2, hidden=1024, heads=16, vocabulary=64, positions=1024)
    bytes = {form: made(size, TensorParallel(), form, threads=1).make_cache(8).bytes for form in FORMS}
    numbers = 8 * 2 * 2 * 1024 * 1024
    scales = 4 * numbers // 64  # a float for each 64
    assert bytes == {
        "float32": 4 * numbers,
        "bfloat16": 2 * numbers,
        "int8": 2 * numbers,
        "float32/int8": numbers + scales,
        "int8/int8": numbers + scales,
    }
    # large's heads of 80: keys up to 96 in bfloat16, up to 128 in bytes
    size = ModelSize(layers=2, hidden=1280, heads=16, vocabulary=64, positions=1024)
    rows = 8 * 2 * 16 * 1024
    assert made(size, TensorParallel(), "bfloat16", threads=1).make_cache(8).bytes == rows * 2 * (96 + 80)
    assert made(size, TensorParallel(), "bfloat16/int8", threads=1).make_cache(8).bytes == rows * (128 + 80 + 8)


def test_time_spent_is_told_apart(checkpoints: dict[str, Checkpoint]) -> None:
    model = packed(checkpoints["odd"], ODD.heads, "int8")
    assert set(model.profile().values()) == {0.0}
    model.next_logits([Segment([1, 2, 3])], None)
    assert all(0 < seconds < 60 for seconds in model.profile().values())


# sizes that are no multiple of any tile, one head and many, few positions
SHAPES = (
    ModelSize(layers=1, hidden=8, heads=1, vocabulary=6, positions=3),
    ModelSize(layers=1, hidden=36, heads=12, vocabulary=17, positions=33),
    ModelSize(layers=2, hidden=72, heads=3, vocabulary=65, positions=97),
    ModelSize(layers=1, hidden=136, heads=1, vocabulary=129, positions=130),
)


@every_kernel
@every_form
@pytest.mark.parametrize("size", SHAPES, ids=lambda size: f"{size.hidden}x{size.heads}")
def test_odd_sizes_and_subnormal_weights_give_the_torch_networks_logits(
    tmp_path: Path, kernels: str, form: str, size: ModelSize
) -> None:
    chance = torch.Generator().manual_seed(5)
    state = random_state(size)
    for values in state.values():  # bfloat16 instructions may read the subnormal ones as zeros
        for number in (1e-40, -1.4e-45, -0.0, 1.1754944e-38):
            values[torch.rand(values.shape, generator=chance) < 0.1] = number
    save_checkpoint(tmp_path, state, degree=1, iteration=1)
    checkpoint, ids = open_checkpoint(tmp_path), some_ids(size)
    ends = sorted({1, 2, size.positions // 2, size.positions})
    want = Oracle(checkpoint, size.heads, form, kernels=kernels).logits(ids, ends)
    model = packed(checkpoint, size.heads, form, kernels=kernels)
    cache, got = model.make_cache(1), []
    for start, end in zip((0, *ends), ends, strict=False):
        got.append(model.next_logits([Segment(ids[start:end], start, 0)], cache))
    # one number that is rounded to its other neighbour is a greater part of a short row
    assert error(torch.cat(got), want) < (BOUNDS[form] if form == "float32" else 2 * BOUNDS[form])


# NaN: told, kept apart, forgotten


def broken(tmp_path: Path, name: str, at: tuple[int, int]) -> Checkpoint:
    state = random_state(ODD)
    state[name][at] = torch.nan
    save_checkpoint(tmp_path, state, degree=1, iteration=1)
    return open_checkpoint(tmp_path)


@every_form
def test_nan_in_any_matrix_is_nan_in_the_logits(tmp_path: Path, form: str) -> None:
    for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
        checkpoint = broken(tmp_path / name, f"transformer.layers.0.{name}.weight", (70, 3))
        for kernels in KERNELS:
            logits = packed(checkpoint, ODD.heads, form, kernels=kernels).next_logits([Segment([1, 2])], None)
            assert logits.isnan().all(), (name, kernels)


@every_form
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_infinity_in_any_tensor_leaves_no_finite_logits(tmp_path: Path, form: str, value: float) -> None:
    """int8 has no infinity: a row of weights with one has a scale that is NaN."""
    for name, at in (("word_embeddings.weight", (1, 3)), ("transformer.layers.0.mlp.dense_h_to_4h.weight", (70, 3))):
        state = random_state(ODD)
        state[name][at] = value
        save_checkpoint(tmp_path / name, state, degree=1, iteration=1)
        checkpoint = open_checkpoint(tmp_path / name)
        for kernels in KERNELS:
            logits = packed(checkpoint, ODD.heads, form, kernels=kernels).next_logits([Segment([1, 2, 1])], None)
            assert not logits[0, 1].isfinite(), (name, kernels)


@every_form
def test_nan_reaches_neither_neighbours_nor_the_slots_next_sequence(tmp_path: Path, form: str) -> None:
    checkpoint = broken(
        tmp_path, "position_embeddings.weight", (60, 3)
    )  # every sequence longer than 60 is NaN from there on
    ids = some_ids(ODD)
    for kernels in KERNELS:
        model = packed(checkpoint, ODD.heads, form, kernels=kernels)
        want = torch.cat([model.next_logits([Segment(ids[:n])], None) for n in (10, 40, 55)])
        cache = model.make_cache(1)
        logits = model.next_logits([Segment(ids[:10]), Segment(ids, 0, 0), Segment(ids[:40])], cache)
        assert torch.equal(logits[::2], want[:2])
        assert logits[1].isnan().all()
        assert torch.equal(model.next_logits([Segment(ids[:40], 0, 0)], cache), want[1:2])
        assert torch.equal(model.next_logits([Segment(ids[40:55], 40, 0)], cache), want[2:])


# ranks


class Meeting:
    """Where the threads of :func:`on_ranks` meet: what each brought, for all."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=60)
        self._brought: list[Tensor] = [torch.empty(0)] * size

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        self._brought[rank] = x.clone()
        self._barrier.wait()
        everything = list(self._brought)
        self._barrier.wait()
        return everything

    def group(self, rank: int) -> TensorParallel:
        return TensorParallel(
            rank,
            len(self._brought),
            SimpleNamespace(
                all_reduce=lambda x: x.copy_(torch.stack(self.exchange(rank, x)).sum(0)),
                all_gather=lambda parts, x: [p.copy_(y) for p, y in zip(parts, self.exchange(rank, x), strict=True)],
            ),
        )


def on_ranks(size: int, run: Callable[[TensorParallel], Tensor]) -> list[Tensor]:
    """What ``run`` gives on each rank, each in a thread of its own."""
    meeting = Meeting(size)
    results: list[Tensor | BaseException] = [torch.empty(0)] * size

    def rank(n: int) -> None:
        try:
            results[n] = run(meeting.group(n))
        except BaseException as error:
            meeting._barrier.abort()
            results[n] = error

    threads = [threading.Thread(target=rank, args=(n,)) for n in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Checkpoint]:
    """The same network, saved for 1, 2 and 4 ranks."""
    return {
        degree: open_checkpoint(random_checkpoint(tmp_path_factory.mktemp(f"of{degree}"), ODD, degree=degree))
        for degree in (1, 2, 4)
    }


@every_form
def test_the_degree_it_was_saved_at_changes_no_bit(sharded: dict[int, Checkpoint], form: str) -> None:
    ids = some_ids(ODD)
    one, two, four = (
        packed(c, ODD.heads, form).score(Segment(ids[:-1]), ids[1:], None) for c in (sharded[1], sharded[2], sharded[4])
    )
    assert torch.equal(one, two)
    assert torch.equal(one, four)


@every_form
@pytest.mark.parametrize("degree", [2, 4])
def test_ranks_together_are_the_torch_networks_ranks(sharded: dict[int, Checkpoint], form: str, degree: int) -> None:
    ids = some_ids(ODD)

    def torch_rank(group: TensorParallel) -> Tensor:
        model = Oracle(sharded[1], ODD.heads, form, group).model
        return model.next_logits([Segment(ids[:20]), Segment(ids[:33])], None)

    def packed_rank(group: TensorParallel) -> Tensor:
        results = []
        for checkpoint in sharded.values():  # a rank's slices come from part of a shard, from one, or from several
            model = made(ODD, group, form, threads=1)
            model.load(checkpoint)
            cache = model.make_cache(2)
            model.next_logits([Segment(ids[:30], 0, 1, False)], cache)
            results.append(model.next_logits([Segment(ids[:20], 0, 0), Segment(ids[30:33], 30, 1)], cache))
        assert all(torch.equal(results[0], r) for r in results[1:])
        return results[0]

    with attention_of(form):
        want = on_ranks(degree, torch_rank)
    got = on_ranks(degree, packed_rank)
    assert all(torch.equal(got[0], g) for g in got)
    assert got[0].shape == (2, 132)
    assert error(got[0], want[0]) < BOUNDS[form]


def test_ranks_as_processes_score_as_one(sharded: dict[int, Checkpoint]) -> None:
    ids = some_ids(ODD)[:60]
    scores = []
    for degree in (1, 2):
        with cpm_gen.load(sharded[2].folder, tensor_parallel=degree, quantize="int8", threads=2) as llm:
            scores.append(torch.tensor(llm.score(ids)[1:]))
    assert error(scores[1], scores[0]) < 0.1  # each rank rounds its part of a row by itself


@pytest.mark.parametrize("trouble", [ConnectionError("the peer is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2, 5])
def test_an_all_reduce_that_raises_ends_the_step_with_its_error(
    sharded: dict[int, Checkpoint], trouble: BaseException, call: int
) -> None:
    calls = 0

    def all_reduce(x: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise trouble

    def all_gather(parts: list[Tensor], x: Tensor) -> None:
        for part in parts:
            part.copy_(x)

    group = TensorParallel(1, 2, SimpleNamespace(all_reduce=all_reduce, all_gather=all_gather))
    model = NativeModel(ODD, group, form="int8", threads=2)
    model.load(sharded[2])
    with pytest.raises(type(trouble)) as caught:
        model.next_logits([Segment([1, 2, 3])], None)
    assert caught.value is trouble
    assert calls == call
    # the next step is one like any other, and nothing of the failed one keeps the model
    assert len(model.next_logits([Segment([1, 2, 3])], None)) == 1
    assert calls == call + 5
    trouble.__traceback__ = None
    free = model.release
    del model, caught
    gc.collect()
    assert not free.alive


# limits


def test_kernels_that_are_not_there_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"no kernels 'avx1024' on this machine; there are .*generic"):
        NativeModel(SMALL, TensorParallel(), form="float32", threads=1, kernels="avx1024")


@pytest.mark.parametrize("threads", [1025, 2**40])
def test_more_threads_than_the_kernels_allow_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"^threads: the native kernels use at most 1024 a rank, not {threads}$"):
        NativeModel(SMALL, TensorParallel(), form="float32", threads=threads)


def test_the_best_kernels_are_the_default() -> None:
    assert NativeModel(SMALL, TensorParallel(), form="float32", threads=1).kernels == KERNELS[0]


def test_more_memory_than_there_is(checkpoints: dict[str, Checkpoint]) -> None:
    with pytest.raises(MemoryError, match="no memory for the network"):
        NativeModel(ModelSize(64, 2**20, 16, 2**20, 16), TensorParallel(), form="float32", threads=1)
    model = packed(checkpoints["odd"], ODD.heads, "float32")
    with pytest.raises(MemoryError, match="2147483647 windows of keys and values"):
        model.make_cache(2**31 - 1)
    assert len(model.next_logits([Segment([1])], model.make_cache(1))) == 1


def virtual() -> int:
    return 1024 * int(PROC.read_text().split("VmSize:")[1].split()[0])


@pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
def test_memory_goes_back_to_the_system(checkpoints: dict[str, Checkpoint]) -> None:
    model = packed(checkpoints["odd"], ODD.heads, "float32")
    gc.collect()
    before = virtual()
    cache = model.make_cache(5000)
    assert cache.bytes > 2**30
    assert virtual() - before >= cache.bytes
    size, free = cache.bytes, cache.release
    del cache
    assert not free.alive
    assert virtual() - before < size // 8

    before = virtual()
    many = [packed(checkpoints["odd"], ODD.heads, "float32") for _ in range(20)]
    for one in many:
        one.next_logits([Segment([1, 2])], None)
    grown = virtual() - before
    del many, one
    gc.collect()
    assert virtual() - before < grown // 4
