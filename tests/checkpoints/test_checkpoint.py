"""Finding, verifying and loading checkpoints; what is wrong with one is said with file and tensor."""

import collections
import dataclasses
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import verify_replicas
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.loaded_model import digest
from tests.random_networks import SMALL, random_checkpoint, random_state

QKV = "transformer.layers.1.attention.query_key_value.weight"
NORM = "transformer.layers.0.input_layernorm.weight"
DEGREES = (1, 2, 4, 8)


def by_hand(name: str, whole: torch.Tensor, degree: int, rank: int) -> torch.Tensor:
    """A rank's slice as Megatron's layers hold it, with nothing of cpm_gen.checkpoints.tensor_table."""
    if "query_key_value" in name:
        return torch.cat([block.chunk(degree)[rank] for block in whole.chunk(3)])
    if "word_embeddings" in name or "dense_h_to_4h" in name:
        return whole.chunk(degree, dim=0)[rank]
    if re.search(r"(attention\.dense|dense_4h_to_h)\.weight", name):
        return whole.chunk(degree, dim=1)[rank]
    return whole


def write(folder: Path, shards: list[dict[str, Any]], iteration: str = "7") -> Path:
    (folder / iteration).mkdir(parents=True, exist_ok=True)
    for rank, content in enumerate(shards):
        torch.save(content, folder / iteration / shard_name(rank))
    (folder / TRACKER).write_text(iteration)
    return folder


def sliced(degree: int = 2, state: dict[str, torch.Tensor] | None = None) -> list[dict[str, Any]]:
    """Contents of the shards of a random network, cut by hand."""
    state = state or random_state()
    return [
        {
            "module": {name: by_hand(name, whole, degree, rank).clone() for name, whole in state.items()},
            "mp_world_size": degree,
        }
        for rank in range(degree)
    ]


def network(rank: int, degree: int, dtype: torch.dtype = torch.float32, size: ModelSize = SMALL) -> TorchModel:
    model = TorchModel(size, TensorParallel(rank, degree), dtype=dtype, device=torch.device("cpu"))
    for parameter in model.parameters():
        parameter.fill_(float("nan"))
    return model


def test_sizes_are_read_from_the_tensors(tmp_path: Path) -> None:
    for degree in DEGREES:
        found = open_checkpoint(write(tmp_path / str(degree), sliced(degree)))
        assert found.size(8) == SMALL
        assert found.degree == degree
        assert found.dtype == torch.float32
        assert found.iteration == "7"
        assert found.notes == []


@pytest.mark.parametrize("source", DEGREES)
def test_every_degree_loads_from_every_other_as_cut_by_hand(tmp_path: Path, source: int) -> None:
    state = random_state(seed=source)
    found = open_checkpoint(write(tmp_path, sliced(source, state)))
    for degree in DEGREES:
        for rank in range(degree):
            model = network(rank, degree)
            load_into(model, found, rank=rank, degree=degree)
            loaded = model.state_dict()
            assert loaded.keys() == state.keys()
            for name, whole in state.items():
                assert torch.equal(loaded[name], by_hand(name, whole, degree, rank)), (name, degree, rank)


@pytest.mark.parametrize(("source", "degree"), [(2, 3), (3, 2), (3, 4), (6, 4), (1, 12), (12, 3)])
def test_degrees_that_are_no_multiples_load_too(tmp_path: Path, source: int, degree: int) -> None:
    size = ModelSize(layers=1, hidden=48, heads=12, vocabulary=120, positions=8)
    state = random_state(size)
    found = open_checkpoint(write(tmp_path, sliced(source, state)))
    for rank in range(degree):
        model = network(rank, degree, size=size)
        load_into(model, found, rank=rank, degree=degree)
        for name, loaded in model.state_dict().items():
            assert torch.equal(loaded, by_hand(name, state[name], degree, rank)), (name, rank)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_loading_converts_to_the_models_dtype(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    state = random_state(dtype=stored)
    found = open_checkpoint(write(tmp_path, sliced(2, state)))
    assert found.dtype == stored
    model = network(0, 1, wanted)
    load_into(model, found, rank=0, degree=1)
    for name, loaded in model.state_dict().items():
        assert loaded.dtype == wanted
        assert torch.equal(loaded, state[name].to(wanted))


def test_a_model_of_other_sizes_is_refused(tmp_path: Path) -> None:
    found = open_checkpoint(random_checkpoint(tmp_path, degree=2))
    deeper = ModelSize(SMALL.layers + 1, SMALL.hidden, SMALL.heads, SMALL.vocabulary, SMALL.positions)
    with pytest.raises(CheckpointError, match=r"transformer\.layers\.2"):
        load_into(network(0, 1, size=deeper), found, rank=0, degree=1)
    longer = ModelSize(SMALL.layers, SMALL.hidden, SMALL.heads, SMALL.vocabulary, SMALL.positions + 1)
    with pytest.raises(CheckpointError, match=r"position_embeddings\.weight is \[17, 32\]"):
        load_into(network(0, 1, size=longer), found, rank=0, degree=1)
    with pytest.raises(CheckpointError, match=r"word_embeddings"):
        load_into(network(0, 2), found, rank=0, degree=1)


def test_the_folder_release_and_the_iterations_own_folder_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "named", sliced(2), iteration="release")
    assert open_checkpoint(folder).iteration == "release"
    assert open_checkpoint(folder / "release").iteration == "release"
    folder = write(tmp_path / "numbered", sliced(2), iteration="1234")
    assert open_checkpoint(str(folder)).iteration == "1234"
    assert open_checkpoint(folder / "1234").iteration == "1234"
    assert open_checkpoint(folder / "1234").degree == 2
    (folder / "1234").rename(folder / "any name")
    assert open_checkpoint(folder / "any name").iteration == "release"


def test_spaces_and_newlines_in_the_tracker_do_no_harm(tmp_path: Path) -> None:
    folder = write(tmp_path, sliced(1))
    (folder / TRACKER).write_bytes(b" 7 \r\n")
    assert open_checkpoint(folder).iteration == "7"


NESTINGS = {
    "module": lambda sd: {"module": sd},
    "module.module": lambda sd: {"module": {f"module.{k}": v for k, v in sd.items()}},
    "module.module.module": lambda sd: {"module": {"module": {f"module.{k}": v for k, v in sd.items()}}},
    "module model": lambda sd: {"module": {"model": collections.OrderedDict(sd)}},
    "model": lambda sd: {"model": sd, "iteration": 3},
    "prefix only": lambda sd: {f"module.{k}": v for k, v in sd.items()},
    "bare": lambda sd: dict(sd),
    "bare, with states beside": lambda sd: {**sd, "rng": {"cuda": torch.zeros(3, dtype=torch.uint8)}},
    "optimizer's copy beside": lambda sd: {
        "optimizer": {"fp32": {k: v.double() for k, v in sd.items()}},
        "module": sd,
        "a": {"word_embeddings.weight": torch.zeros(2, 2)},
    },
}


@pytest.mark.parametrize("name", NESTINGS)
def test_nested_and_prefixed_names_are_found(tmp_path: Path, name: str) -> None:
    state = random_state(seed=5)
    shards = [NESTINGS[name](shard["module"]) for shard in sliced(2, state)]
    found = open_checkpoint(write(tmp_path, shards))
    assert found.size(8) == SMALL
    model = network(0, 1)
    load_into(model, found, rank=0, degree=1)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_ten_and_more_shards_sort_as_numbers(tmp_path: Path) -> None:
    size = ModelSize(layers=1, hidden=48, heads=12, vocabulary=120, positions=8)
    state = random_state(size)
    folder = write(tmp_path, sliced(12, state))
    for file in (folder / "7").iterdir():  # without leading zeros words would sort 10 before 2
        file.rename(file.with_name(file.name.replace("rank_0", "rank_")))
    assert (folder / "7" / "mp_rank_2_model_states.pt").is_file()
    found = open_checkpoint(folder)
    assert [int(re.search(r"rank_(\d+)", s.name)[1]) for s in found.files] == list(range(12))
    model = network(0, 1, size=size)
    load_into(model, found, rank=0, degree=1)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_is_saved_opens_and_other_files_in_the_folder_do_no_harm(tmp_path: Path) -> None:
    state = random_state()
    save_checkpoint(tmp_path, state, degree=4, iteration=12)
    (tmp_path / "12" / "mp_rank_00_model_states.pt.bak").write_text("no")
    (tmp_path / "12" / "zero_pp_rank_0_mp_rank_00optim_states.pt").write_text("no")
    found = open_checkpoint(tmp_path)
    assert found.degree == 4
    assert found.iteration == "12"
    verify_replicas(found)


# name -> (what to do to a good checkpoint of 4 shards, what the message must name)


def tracker(content: bytes) -> Any:
    return lambda folder: (folder / TRACKER).write_bytes(content)


def change(rank: int, edit: Any) -> Any:
    def apply(folder: Path) -> None:
        path = folder / "7" / shard_name(rank)
        content = torch.load(path, weights_only=True)
        edit(content)
        torch.save(content, path)

    return apply


def put(name: str, value: Any) -> Any:
    return lambda content: content["module"].__setitem__(name, value(content["module"].get(name)))


def cut(rank: int, keep: float) -> Any:
    def apply(folder: Path) -> None:
        path = folder / "7" / shard_name(rank)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return apply


RANK1, RANK2 = r"mp_rank_01_model_states\.pt", r"mp_rank_02_model_states\.pt"
BROKEN: dict[str, tuple[Any, str]] = {
    "no tracker": (lambda f: (f / TRACKER).unlink(), r"no latest_checkpointed_iteration\.txt"),
    "tracker a word": (tracker(b"latest"), r"latest_checkpointed_iteration\.txt: must hold .* not 'latest'"),
    "tracker empty": (tracker(b""), r"latest_checkpointed_iteration\.txt: must hold .* not ''"),
    "tracker negative": (tracker(b"-3"), r"latest_checkpointed_iteration\.txt: must hold .* not '-3'"),
    "tracker a path": (tracker(b"../7"), r"latest_checkpointed_iteration\.txt: must hold .* not '\.\./7'"),
    "tracker not text": (tracker(b"\xff\xfe\x00"), r"latest_checkpointed_iteration\.txt: must hold"),
    "no such iteration": (tracker(b"8"), r"latest_checkpointed_iteration\.txt: names iteration 8"),
    "no shards": (lambda f: [p.unlink() for p in (f / "7").iterdir()], r"/7: no mp_rank_00_model_states\.pt"),
    "shard missing in the middle": (
        lambda f: (f / "7" / shard_name(1)).unlink(),
        rf"shard {RANK1} is missing \(there is one for rank 3\)",
    ),
    "first shard missing": (lambda f: (f / "7" / shard_name(0)).unlink(), r"mp_rank_00_model_states\.pt is missing"),
    "last shard missing": (
        lambda f: (f / "7" / shard_name(3)).unlink(),
        r"saved for 4 ranks, but .* holds 3 shards; mp_rank_03_model_states\.pt is missing",
    ),
    "a shard too many": (
        lambda f: (f / "7" / shard_name(4)).write_bytes((f / "7" / shard_name(3)).read_bytes()),
        "saved for 4 ranks, but .* holds 5 shards",
    ),
    "absurd shard number": (
        lambda f: (f / "7" / "mp_rank_99999999999999999999_model_states.pt").write_bytes(b""),
        r"mp_rank_04_model_states\.pt is missing",
    ),
    "mp_world_size disagrees": (change(2, lambda c: c.update(mp_world_size=8)), rf"{RANK2}: saved for 8 ranks"),
    "truncated": (cut(2, 0.7), rf"{RANK2}.*damaged or truncated"),
    "truncated to nothing": (cut(2, 0), rf"{RANK2}.*damaged or truncated"),
    "a shard that is a folder": (
        lambda f: [(f / "7" / shard_name(1)).unlink(), (f / "7" / shard_name(1)).mkdir()],
        rf"{RANK1}: .*directory",
    ),
    "not a dictionary": (lambda f: torch.save([1], f / "7" / shard_name(1)), rf"{RANK1}: holds a list"),
    "no network": (
        lambda f: torch.save({"a": torch.ones(1)}, f / "7" / shard_name(1)),
        rf"{RANK1}: no tensor word_embed",
    ),
    "rows differ": (change(1, put(QKV, lambda w: w[:-1])), rf"{RANK1}: {QKV} has shape \[23, 32\], but \[24, 32\]"),
    "hidden differs": (change(2, put(NORM, lambda w: w[:-1])), rf"{RANK2}: {NORM} has shape \[31\], but \[32\]"),
    "positions differ": (
        change(2, put("position_embeddings.weight", lambda w: w[:-1])),
        rf"{RANK2}: position_embeddings.weight has shape \[15, 32\]",
    ),
    "vocabulary differs": (
        change(2, put("word_embeddings.weight", lambda w: w[:-1])),
        rf"{RANK2}: word_embeddings.weight has shape \[29, 32\]",
    ),
    "embedding of one dimension": (
        change(0, put("word_embeddings.weight", lambda w: w.flatten())),
        r"mp_rank_00.*word_embeddings.weight has shape \[960\]",
    ),
    "key missing": (change(1, lambda c: c["module"].pop(QKV)), rf"{RANK1}: tensor {QKV} is missing"),
    "keys missing": (
        change(1, lambda c: [c["module"].pop(n) for n in (QKV, NORM)]),
        rf"{RANK1}: tensor {NORM} is missing \(and 1 more\)",
    ),
    "no positions": (
        change(0, lambda c: c["module"].pop("position_embeddings.weight")),
        r"mp_rank_00.*position_embeddings\.weight is missing",
    ),
    "layer missing": (
        change(3, lambda c: [c["module"].pop(n) for n in [*c["module"]] if ".layers.1." in n]),
        r"mp_rank_03.*transformer\.layers\.1\.\S+ is missing \(and 11 more\)",
    ),
    "key unexpected": (
        change(1, lambda c: c["module"].update({"lm_head.weight": torch.ones(2)})),
        rf"{RANK1}: unexpected tensor 'lm_head\.weight'",
    ),
    "absurd layer": (
        change(0, lambda c: c["module"].update({"transformer.layers.999999999999.x": torch.ones(2)})),
        r"mp_rank_00.*unexpected tensor 'transformer\.layers\.999999999999\.x'",
    ),
    "integers": (change(1, put(QKV, lambda w: w.to(torch.int32))), rf"{RANK1}: {QKV} is torch\.int32"),
    "doubles": (change(0, put(QKV, lambda w: w.double())), rf"mp_rank_00.*{QKV} is torch\.float64"),
    "dtypes disagree": (
        change(1, put(QKV, lambda w: w.half())),
        rf"{RANK1}: {QKV} is torch\.float16, but torch\.float32 in mp_rank_00",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_with_file_and_tensor(tmp_path: Path, name: str) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=4)
    open_checkpoint(folder)
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, message in (
        ("absent", "no such folder"),
        ("file", "not a folder"),
        ("x" * 5000, "x: File name too long"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / path)
    with pytest.raises(CheckpointError, match="no latest_checkpointed_iteration"):
        open_checkpoint(tmp_path)


def test_shards_that_cannot_be_one_network_of_that_degree_are_refused(tmp_path: Path) -> None:
    shards = [{k: v for k, v in s.items() if k != "mp_world_size"} for s in sliced(4)]
    with pytest.raises(CheckpointError, match=r"query_key_value\.weight has shape \[24, 32\], but \[48, 32\]"):
        open_checkpoint(write(tmp_path, shards[:2]))
    (tmp_path / "7" / shard_name(1)).unlink()
    with pytest.raises(CheckpointError, match=r"query_key_value\.weight has shape \[24, 32\], but \[96, 32\]"):
        open_checkpoint(tmp_path)


def test_a_stranger_s_nesting_is_no_crash(tmp_path: Path) -> None:
    content = sliced(1)[0]
    content["module"]["again"] = content
    with pytest.raises(CheckpointError, match="nested too deep"):
        open_checkpoint(write(tmp_path, [content]))


@pytest.mark.parametrize("name", [NORM, "transformer.final_layernorm.bias", "position_embeddings.weight"])
def test_replicas_that_differ_in_one_bit_are_found(tmp_path: Path, name: str) -> None:
    shards = sliced(4)
    verify_replicas(open_checkpoint(write(tmp_path, shards)))
    bits = shards[2]["module"][name].view(torch.int32)
    bits.view(-1)[-1] ^= 1
    found = open_checkpoint(write(tmp_path, shards))
    with pytest.raises(CheckpointError, match=rf"{RANK2}: {name} differs from mp_rank_00"):
        verify_replicas(found)


def test_replicas_of_nan_are_the_same(tmp_path: Path) -> None:
    state = random_state()
    state[NORM][3] = float("nan")
    verify_replicas(open_checkpoint(write(tmp_path, sliced(4, state))))


def test_a_truncated_legacy_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, sliced(2))
    path = folder / "7" / shard_name(1)
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert open_checkpoint(folder).degree == 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{RANK1}: the file ends before its tensors do; it is truncated"):
        open_checkpoint(folder)


def test_heads_come_from_the_flag_then_config_json_then_the_known_sizes(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    found = open_checkpoint(folder)
    assert resolve_heads(found, None) == 8
    assert resolve_heads(found, 4) == 4
    for key in ("num_attention_heads", "n_head"):
        (folder / "config.json").write_text(f'{{"{key}": 16}}')
        assert resolve_heads(found, None) == 16
    (folder / "config.json").unlink()
    found = dataclasses.replace(found, hidden=2560)
    assert resolve_heads(found, None) == 32


def test_heads_that_cannot_be_are_refused_with_their_source(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    found = open_checkpoint(folder)
    for heads in (5, 0, -4):
        with pytest.raises(CheckpointError, match=rf"{folder}: {heads} heads do not divide the hidden size 32"):
            resolve_heads(found, heads)
    for content, message in (
        ('{"heads": 5}', r"config\.json: 5 heads do not divide"),
        ('{"heads": "8"}', r"config\.json: heads must be a whole number, not '8'"),
        ('{"heads": null, "n_head": 5}', r"config\.json: 5 heads do not divide"),
        ('{"n_head": 5, "num_attention_heads": 4}', r"config\.json: 5 heads do not divide"),
        ('{"n_head": "8"}', r"config\.json: n_head must be a whole number, not '8'"),
        ('{"heads": true}', r"config\.json: heads must be a whole number, not True"),
        ("{", r"config\.json: not a JSON object"),
        ("3", r"config\.json: not a JSON object"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            resolve_heads(found, None)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"hidden size 32 is none of CPM-1's; give --heads N"):
        resolve_heads(found, None)


def test_the_reference_checkpoint_opens(reference: Path) -> None:
    found = open_checkpoint(reference / "original" / "tinyA")
    assert found.size(8) == ModelSize(layers=3, hidden=64, heads=8, vocabulary=30000, positions=64)
    assert (found.degree, found.iteration, found.dtype, found.notes) == (2, "1234", torch.float16, [])
    verify_replicas(found)
    assert tensor_table.possible_degrees(vocabulary=30000, heads=8, hidden=64) == [1, 2, 4, 8]


LOAD = """
import sys, torch
from pathlib import Path
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def forget():
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is held now

def network(size, degree):
    return TorchModel(size, TensorParallel(0, degree), dtype=torch.float32, device=torch.device("cpu"))

network(ModelSize(1, 8, 1, 8, 8), 1)  # torch imports much when it makes its first
size = ModelSize(*map(int, sys.argv[2:]))
forget()
baseline = peak()
checkpoint = open_checkpoint(sys.argv[1])
model = network(size, 2)
load_into(model, checkpoint, rank=0, degree=2)
kept = sum(p.numel() * 4 for p in model.parameters())
assert all(bool((p == 1).all()) for p in list(model.parameters())[:3])
print(peak() - baseline, kept)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_loading_takes_the_slice_and_no_more(tmp_path: Path) -> None:
    size = ModelSize(layers=8, hidden=960, heads=8, vocabulary=12000, positions=64)
    state = {
        name: torch.ones(
            tensor_table.whole_shape(name, vocabulary=size.vocabulary, positions=size.positions, hidden=960)
        )
        for name in tensor_table.names(size.layers)
    }
    save_checkpoint(tmp_path, state, degree=4, iteration=1)
    largest = max(t.nbytes for t in state.values()) // 4  # of a shard
    total = sum(p.stat().st_size for p in (tmp_path / "1").iterdir())
    assert total > 390e6
    del state
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), *(str(n) for n in (8, 960, 8, 12000, 64))],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    extra, kept = map(int, result.stdout.split())
    print(f"peak {extra / 1e6:.0f} MB above the imports; the slice is {kept / 1e6:.0f} MB of {total / 1e6:.0f}")
    assert kept > 190e6
    assert kept * 0.95 < extra < 1.3 * kept + largest


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_shard_opens_and_loads_or_is_a_checkpoint_error(tmp_path: Path) -> None:
    size = ModelSize(layers=1, hidden=8, heads=2, vocabulary=6, positions=4)
    save_checkpoint(tmp_path, random_state(size), degree=2, iteration=7)
    path = tmp_path / "7" / shard_name(1)
    torch.save({**torch.load(path), "state": {"b": [1, 2.5]}}, path, _use_new_zipfile_serialization=False)
    whole, dice = path.read_bytes(), random.Random(4)
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 3))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            found = open_checkpoint(tmp_path)
            verify_replicas(found)
            load_into(network(0, 1, size=size), found, rank=0, degree=1)
            outcomes["loaded"] += 1
        except CheckpointError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_the_digest_tells_weights_apart(tmp_path: Path):
    digests = [
        digest(open_checkpoint(random_checkpoint(tmp_path / name, seed=seed, degree=2)).files)
        for name, seed in (("first", 1), ("again", 1), ("second", 2))
    ]
    assert digests[0] == digests[1] != digests[2]
