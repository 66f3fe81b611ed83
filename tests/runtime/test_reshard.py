"""Writing a checkpoint for another number of ranks: bit for bit, whole or not at all."""

import collections
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError, InputError
from cpm_gen.runtime.reshard import default_target, reshard
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE
from tests.random_networks import SMALL, random_checkpoint, random_state


def files(folder: Path) -> list[Path]:
    """The shards, in rank order."""
    iteration = (folder / TRACKER).read_text().strip()
    return [folder / iteration / shard_name(r) for r in range(len(list((folder / iteration).iterdir())))]


def load(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False)


def digest(x: torch.Tensor) -> str:
    content = x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(str(x.dtype).encode() + str(tuple(x.shape)).encode() + content).hexdigest()


def digests(folder: Path) -> list[dict[str, str]]:
    return [{name: digest(t) for name, t in load(path)["module"].items()} for path in files(folder)]


def listing(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture(scope="module")
def tiny(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reference checkpoint, and what we make of it for 1 and 4 beside it."""
    folder = tmp_path_factory.mktemp("tiny") / "tinyA"
    shutil.copytree(reference / "original" / "tinyA", folder)
    for degree in (1, 4):
        assert reshard(folder, degree) == folder.with_name(f"tinyA_MP{degree}")
    return folder


@pytest.mark.parametrize("degree", [1, 4])
def test_the_original_script_s_output_is_reproduced(reference: Path, tiny: Path, degree: int) -> None:
    wanted = json.loads((reference / "original" / "reshard.json").read_text())["dirs"][f"tinyA_MP{degree}"]
    folder = tiny.with_name(f"tinyA_MP{degree}")
    assert (folder / TRACKER).read_text().strip() == wanted["tracker"].strip()
    assert {p.name for p in files(folder)} == wanted["files"].keys()
    for path in files(folder):
        theirs, ours = wanted["files"][path.name], load(path)
        assert {n: digest(t) for n, t in ours["module"].items()} == {
            n: t["sha256"] for n, t in theirs["tensors"].items()
        }
        assert list(ours["module"]) == list(theirs["tensors"])
        assert ours.keys() - {"module"} == theirs["non_module"].keys()
        assert ours["mp_world_size"] == degree
        cuda = hashlib.sha256(ours["cuda_rng_state"].numpy().tobytes()).hexdigest()
        assert theirs["cuda_rng_state_sha"] in (cuda, digest(ours["cuda_rng_state"]))


@pytest.mark.parametrize("degree", [1, 4])
def test_what_stands_beside_the_network_goes_along_from_the_right_rank(tiny: Path, degree: int) -> None:
    sources = [load(path) for path in files(tiny)]
    assert not torch.equal(sources[0]["cuda_rng_state"], sources[1]["cuda_rng_state"])
    for rank, path in enumerate(files(tiny.with_name(f"tinyA_MP{degree}"))):
        ours, theirs = load(path), sources[rank * 2 // degree]
        assert list(ours) == list(theirs)
        assert type(ours["module"]) is collections.OrderedDict
        for key in ("cuda_rng_state", "torch_rng_state"):
            assert torch.equal(ours[key], theirs[key])
        tracked = ours["rng_tracker_states"]["model-parallel-rng"]
        assert torch.equal(tracked, theirs["rng_tracker_states"]["model-parallel-rng"])
        assert ours["random_rng_state"] == theirs["random_rng_state"]
        name, keys, *rest = ours["np_rng_state"]
        assert (name, rest) == (theirs["np_rng_state"][0], list(theirs["np_rng_state"][2:]))
        assert type(keys) is np.ndarray
        assert keys.dtype == np.uint32
        assert np.array_equal(keys, theirs["np_rng_state"][1])
        for key in (
            "optimizer",
            "lr_scheduler",
            "csr_tensor_module_names",
            "global_steps",
            "dp_world_size",
            "iteration",
        ):
            assert ours[key] == theirs[key]


def storages(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from storages(v)


def test_every_tensor_is_compact_and_alone_in_its_storage(tiny: Path) -> None:
    for degree in (1, 4):
        for path in files(tiny.with_name(f"tinyA_MP{degree}")):
            tensors = list(storages(load(path)))
            assert len(tensors) == 43
            for t in tensors:
                assert t.untyped_storage().nbytes() == t.nbytes
                assert t.is_contiguous()
            assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
            assert path.stat().st_size < sum(t.nbytes for t in tensors) + 60_000


def test_torch_s_own_safe_loader_takes_the_result(tiny: Path) -> None:
    names = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, np.dtypes.UInt32DType]
    with torch.serialization.safe_globals(names):
        for path in files(tiny.with_name("tinyA_MP4")):
            assert torch.load(path, weights_only=True)["mp_world_size"] == 4


def test_there_and_back_gives_the_same_tensors(tiny: Path, tmp_path: Path) -> None:
    back = reshard(tiny.with_name("tinyA_MP4"), 2, tmp_path / "back")
    assert digests(back) == digests(tiny)
    whole = reshard(tiny.with_name("tinyA_MP4"), 1, tmp_path / "whole")
    assert digests(whole) == digests(tiny.with_name("tinyA_MP1"))


def odd_bits(size: ModelSize, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random bits: among them NaNs of every payload, infinities, denormals and negative zeros."""
    generator = torch.Generator().manual_seed(3)
    integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    top = 2 ** (8 * dtype.itemsize - 1)
    return {
        name: torch.randint(-top, top, t.shape, generator=generator, dtype=integer).view(dtype)
        for name, t in random_state(size).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_chain_of_degrees_keeps_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    state = odd_bits(SMALL, dtype)
    assert any(t.isnan().any() for t in state.values())
    save_checkpoint(tmp_path / "1", state, degree=1, iteration=3)
    at = tmp_path / "1"
    for step, degree in enumerate((2, 4, 8, 1)):
        at = reshard(at, degree, tmp_path / f"step{step}")
        assert open_checkpoint(at).degree == degree
    assert digests(at) == digests(tmp_path / "1") == [{n: digest(t) for n, t in state.items()}]


def test_degrees_that_are_no_multiples_keep_every_bit(tmp_path: Path) -> None:
    size = ModelSize(layers=1, hidden=48, heads=12, vocabulary=120, positions=8)
    state = odd_bits(size, torch.float16)
    for degree in (2, 3, 4, 6):  # cut straight from the whole, to compare with
        save_checkpoint(tmp_path / f"direct{degree}", state, degree=degree, iteration=1)
    at = tmp_path / "direct2"
    for step, degree in enumerate((3, 4, 6, 2, 6, 4, 3)):
        at = reshard(at, degree, tmp_path / f"step{step}")
        assert digests(at) == digests(tmp_path / f"direct{degree}")


def test_query_key_and_value_are_cut_each(tmp_path: Path) -> None:
    state = random_state()
    save_checkpoint(tmp_path / "a", state, degree=1, iteration=1)
    shards = [load(p)["module"] for p in files(reshard(tmp_path / "a", 4))]
    name = "transformer.layers.0.attention.query_key_value.weight"
    for rank, shard in enumerate(shards):
        rows = [slice(32 * block + 8 * rank, 32 * block + 8 * rank + 8) for block in range(3)]
        assert torch.equal(shard[name], torch.cat([state[name][r] for r in rows]))


def test_the_original_s_name_for_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_target(Path("/path/to/CPM"), 4) == Path("/path/to/CPM_MP4")
    assert default_target(Path("/path/to/CPM/"), 2) == Path("/path/to/CPM_MP2")
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "net")
    assert default_target(Path(), 2) == tmp_path / "net_MP2"


def test_nesting_dropped_objects_and_companions(tmp_path: Path) -> None:
    class Unknown:
        pass

    globals()["Unknown"] = Unknown
    Unknown.__qualname__ = "Unknown"
    folder = random_checkpoint(tmp_path / "net", degree=2)
    (folder / "vocab.json").write_text("{}")
    for path in files(folder):
        content = load(path)
        network = collections.OrderedDict((f"module.{k}", v) for k, v in content["module"].items())
        extra = {"args": Unknown(), "list": [1, Unknown(), ("a", Unknown)], "storage": torch.ones(3).untyped_storage()}
        extra |= {"function": torch._utils._rebuild_tensor_v2, "dtype": torch.float16, (1, 2): {"kept": {3}}}
        torch.save({"module": {"model": network, "note": "x"}, **extra}, path)
    target = reshard(folder, 4)
    for path in files(target):
        content = load(path)
        assert list(content) == ["module", "list", "dtype", (1, 2)]  # mp_world_size was not there and is not now
        assert content["list"] == [1, ("a",)]
        assert content["dtype"] is torch.float16
        assert content[1, 2] == {"kept": {3}}
        assert list(content["module"]) == ["model", "note"]
        assert type(content["module"]["model"]) is collections.OrderedDict
        assert next(iter(content["module"]["model"])) == "module.word_embeddings.weight"
    assert (target / "vocab.json").read_text() == "{}"
    assert (target / "config.json").read_text() == (folder / "config.json").read_text()
    assert open_checkpoint(target).size(8) == SMALL


@pytest.mark.parametrize("place", ["vocab", "parent"])
def test_the_vocabulary_that_is_found_goes_with_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = random_checkpoint(tmp_path / "embedded")  # the name of the model that comes with the program
    there = (folder / place) if place == "vocab" else tmp_path
    there.mkdir(exist_ok=True)
    shutil.copyfile(EMBEDDED / VOCABULARY_FILE, there / VOCABULARY_FILE)
    target = reshard("embedded", 2, tmp_path / "out")
    assert open_checkpoint(target).size(8) == SMALL
    assert (target / VOCABULARY_FILE).read_bytes() == (EMBEDDED / VOCABULARY_FILE).read_bytes()


def test_release_and_a_bare_iteration_folder(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    (folder / "7").rename(folder / "release")
    (folder / TRACKER).write_text("release\n")
    target = reshard(folder, 1)
    assert (target / TRACKER).read_text() == "release"
    assert listing(target / "release") == {shard_name(0)}
    (folder / "release").rename(tmp_path / "shards only")
    target = reshard(tmp_path / "shards only", 4)
    assert open_checkpoint(target).iteration == "release"
    assert open_checkpoint(target).degree == 4


def test_legacy_files_are_read(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    modern = digests(reshard(folder, 4, tmp_path / "modern"))
    for path in files(folder):
        torch.save(load(path), path, _use_new_zipfile_serialization=False)
    assert digests(reshard(folder, 4, tmp_path / "legacy")) == modern


@pytest.mark.parametrize("degree", [3, 0, -2, 16, 7])
def test_an_impossible_degree_lists_the_possible_ones(tmp_path: Path, degree: int) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    with pytest.raises(CheckpointError, match=rf"for {degree} ranks .*8 heads.*possible: 1, 2, 4, 8$"):
        reshard(folder, degree)
    assert listing(tmp_path) == {"net"}


def test_an_existing_target_is_refused_and_force_replaces_it(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    target = tmp_path / "net_MP4"
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(InputError, match=r"net_MP4: exists already; .*--force"):
        reshard(folder, 4)
    assert listing(target) == {"mine"}
    reshard(folder, 4, force=True)
    assert listing(target) == {"7", TRACKER, "config.json"}
    assert listing(tmp_path) == {"net", "net_MP4"}
    assert open_checkpoint(target).degree == 4


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("x")
    (tmp_path / "net_MP1").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="exists already"):
        reshard(folder, 1)
    reshard(folder, 1, force=True)
    assert not (tmp_path / "net_MP1").is_symlink()
    assert listing(tmp_path / "precious") == {"x"}


def test_the_source_is_never_its_own_target(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "outer" / "net", degree=2)
    before = digests(folder)
    (tmp_path / "link").symlink_to(folder)
    for target in (folder, tmp_path / "link", folder / ".." / "net", folder / "7", tmp_path / "outer", tmp_path):
        with pytest.raises(InputError, match="same folder, or the target holds the source"):
            reshard(folder, 4, target, force=True)
    assert digests(folder) == before
    assert listing(tmp_path) == {"outer", "link"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("moment", [("writing", 1), ("writing", 50), ("writing", 112), ("verifying", 60)])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: tuple[str, int], force: bool) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    if force:
        (tmp_path / "net_MP4").mkdir()
        (tmp_path / "net_MP4" / "old").write_text("x")
    before = listing(tmp_path)

    def interrupt(what: str, done: int, total: int) -> None:
        assert total == 4 * len(list(tensor_table.names(SMALL.layers)))
        if (what, done) == moment:
            assert len(listing(tmp_path)) == len(before) + 1  # under another name
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        reshard(folder, 4, force=force, progress=interrupt)
    assert listing(tmp_path) == before
    assert not force or listing(tmp_path / "net_MP4") == {"old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(13, "Permission denied")])
def test_a_failure_between_the_two_renames_puts_the_old_target_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    target = tmp_path / "net_MP4"
    target.mkdir()
    (target / "old").write_text("x")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and self.name.startswith(".net_MP4."):
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises((KeyboardInterrupt, InputError)):
        reshard(folder, 4, force=True)
    assert listing(target) == {"old"}
    assert listing(tmp_path) == {"net", "net_MP4"}


def test_a_full_disk_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"GB are needed, 0\.0 GB are free"):
        reshard(folder, 4)
    assert listing(tmp_path) == {"net"}


def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path: Path) -> None:
    size = ModelSize(layers=2, hidden=64, heads=8, vocabulary=6000, positions=16)
    folder = random_checkpoint(tmp_path / "net", size, degree=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # the system's own refusal: "File too large"
    try:
        with pytest.raises(InputError, match="could not be written"):
            reshard(folder, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == {"net"}


def test_a_target_in_no_folder_is_an_input_error(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    with pytest.raises(InputError, match="absent: No such file or directory"):
        reshard(folder, 4, tmp_path / "absent" / "x")


def test_replicas_that_differ_are_not_carried_on(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    content = load(files(folder)[1])
    content["module"]["transformer.final_layernorm.weight"][0] += 1
    torch.save(content, files(folder)[1])
    with pytest.raises(CheckpointError, match=r"mp_rank_01.*final_layernorm\.weight differs"):
        reshard(folder, 1)
    assert listing(tmp_path) == {"net"}


def test_a_bit_that_changes_on_the_way_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    save = torch.save

    def worn(content: Any, file: Any) -> None:
        content["module"]["word_embeddings.weight"].view(torch.int32)[3, 4] ^= 1
        save(content, file)

    monkeypatch.setattr(torch, "save", worn)
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight was not written as it was read"):
        reshard(folder, 4)
    assert listing(tmp_path) == {"net"}


def test_change_mp_is_the_original_s_command(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=1)
    script = Path(__file__).parents[2] / "change_mp.py"
    result = subprocess.run(
        [sys.executable, str(script), str(folder), "4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(script.parent)),
    )
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "net_MP4") == digests(reshard(folder, 4, tmp_path / "ours"))
