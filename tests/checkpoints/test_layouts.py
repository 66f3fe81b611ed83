"""What people have on their disks: other tools' folders, files that are no weights, and what Windows adds to text files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.errors import CheckpointError, InputError
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.reshard import reshard
from tests.random_networks import SMALL, random_checkpoint, random_state

WORDS, HEAD = "word_embeddings.weight", "lm_head.weight"


def write(folder: Path, content: Any, *, step: str = "7", name: str = shard_name(0), tracker: str | None = "7") -> Path:
    (folder / step).mkdir(parents=True)
    torch.save(content, folder / step / name)
    if tracker is not None:
        (folder / TRACKER).write_text(tracker)
    (folder / "config.json").write_text('{"heads": 8}')
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What loading the checkpoint at degree 1 gives."""
    checkpoint = open_checkpoint(folder)
    model = TorchModel(SMALL, TensorParallel(), dtype=torch.float32, device=torch.device("cpu"))
    load_into(model, checkpoint, rank=0, degree=1)
    return model.state_dict()


def loads(folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    loaded = weights(folder)
    for name, tensor in (state or random_state()).items():
        assert torch.equal(loaded[name], tensor), name


# layouts of other tools


def test_deepspeed_s_own_layout_opens(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "CPM", degree=2, iteration=1000)
    (folder / TRACKER).unlink()
    (folder / "1000").rename(folder / "global_step1000")
    (folder / "latest").write_bytes(b"\xef\xbb\xbfglobal_step1000\r\n")
    loads(folder)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.folder, checkpoint.iteration, checkpoint.degree) == (folder, "1000", 2)
    within = open_checkpoint(folder / "global_step1000")
    assert (within.folder, within.iteration) == (folder, "1000")
    assert resolve_heads(within, None) == 8
    (folder / "latest").unlink()
    (folder / TRACKER).write_text("1000")  # written by hand, as CPM's readme asks
    loads(folder)
    (folder / TRACKER).unlink()
    with pytest.raises(CheckpointError, match=r"give a folder of shards itself: .*global_step1000"):
        open_checkpoint(folder)


def test_a_resharded_deepspeed_checkpoint_has_cpm_s_layout(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "CPM", iteration=1000)
    (folder / TRACKER).unlink()
    (folder / "1000").rename(folder / "global_step1000")
    (folder / "latest").write_text("global_step1000")
    result = reshard(folder, 2)
    assert (result / TRACKER).read_text() == "1000"
    assert (result / "1000" / shard_name(1)).is_file()
    loads(result)


@pytest.mark.parametrize("file", ["model_optim_rng.pt", "model_rng.pt"])
def test_megatron_s_own_layout_opens(tmp_path: Path, file: str) -> None:
    folder = random_checkpoint(tmp_path, degree=2, iteration=1000)
    for rank in range(2):
        (folder / "iter_0001000" / f"mp_rank_{rank:02d}").mkdir(parents=True)
        (folder / "1000" / shard_name(rank)).rename(folder / "iter_0001000" / f"mp_rank_{rank:02d}" / file)
    (folder / "1000").rmdir()
    loads(folder)
    loads(folder / "iter_0001000")
    assert open_checkpoint(folder / "iter_0001000").iteration == "1000"


def test_newer_megatron_networks_are_named(tmp_path: Path) -> None:
    newer = {"model": {"language_model": {"embedding": {"word_embeddings": {"weight": torch.zeros(120, 32)}}}}}
    with pytest.raises(CheckpointError, match="newer Megatron-LM"):
        open_checkpoint(write(tmp_path / "a", newer))
    with pytest.raises(CheckpointError, match="newer Megatron-LM"):
        open_checkpoint(write(tmp_path / "b", {"model": random_state(), "checkpoint_version": 3.0}))
    loads(write(tmp_path / "c", {"model": random_state(), "checkpoint_version": 0}))


LATEST: dict[str, tuple[bytes, str]] = {
    "a path": (b"../7", "must hold the name of a folder beside it"),
    "the parent": (b"..", "must hold the name of a folder beside it"),
    "nothing": (b"\n", "must hold the name of a folder beside it"),
    "no such folder": (b"global_step8", "names global_step8, but there is no folder"),
    "UTF-16": ("global_step7".encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize("name", LATEST)
def test_deepspeed_s_tracker_must_name_a_folder(tmp_path: Path, name: str) -> None:
    content, said = LATEST[name]
    folder = write(tmp_path, {"module": random_state()}, step="global_step7", tracker=None)
    (folder / "latest").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(folder)


def test_zero_stage_3_is_named_with_the_way_out(tmp_path: Path) -> None:
    empty = {"module": {name: torch.empty(0) for name in random_state()}, "param_shapes": []}
    with pytest.raises(CheckpointError, match=r"ZeRO stage 3 .*zero_to_fp32\.py"):
        open_checkpoint(write(tmp_path / "a", empty))
    name = "zero_pp_rank_0_mp_rank_00_model_states.pt"
    folder = write(tmp_path / "b", empty, name=name)
    for path in (folder, folder / "7"):
        with pytest.raises(CheckpointError, match=r"ZeRO stage 3 .*zero_to_fp32\.py"):
            open_checkpoint(path)
    joined = write(tmp_path / "c", random_state())  # what zero_to_fp32.py writes: the tensors and nothing around them
    loads(joined)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "only the optimizer's states"),
        ("layer_00-model_00-model_states.pt", "pipeline parallelism"),
    ],
)
def test_folders_without_shards_say_what_they_hold(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"no mp_rank_00_model_states\.pt there.*{said}"):
        open_checkpoint(write(tmp_path, {}, name=name))


def test_two_files_for_one_rank_are_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "a")
    shutil.copy(folder / "7" / shard_name(0), folder / "7" / "mp_rank_0_model_states.pt")
    with pytest.raises(CheckpointError, match=r"two files for rank 0: mp_rank_00_model\S+ and mp_rank_0_model"):
        open_checkpoint(folder)
    folder = random_checkpoint(tmp_path / "b")
    (folder / "7" / "mp_rank_00").mkdir()
    shutil.copy(folder / "7" / shard_name(0), folder / "7" / "mp_rank_00" / "model_optim_rng.pt")
    with pytest.raises(CheckpointError, match="two files for rank 0"):
        open_checkpoint(folder)


# files that are no weights


FOREIGN: dict[str, tuple[bytes, str]] = {
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5188468736\n",
        r"135 bytes: a Git LFS pointer.*git lfs pull",
    ),
    "a page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "a web page .HTML., not the weights"),
    "a page with a BOM": (b"\xef\xbb\xbf<html>", "a web page"),
    "JSON": (b'{"error": "not found"}', "JSON, not the weights"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "packed with gzip; unpack it first"),
    "zeros": (bytes(5000), "zero bytes.*unfinished download"),
    "nothing": (b"", "the file is empty"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_no_weights_are_named(tmp_path: Path, name: str) -> None:
    content, said = FOREIGN[name]
    folder = random_checkpoint(tmp_path, degree=2)
    (folder / "7" / shard_name(1)).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"mp_rank_01_model_states\.pt: .*{said}") as caught:
        open_checkpoint(folder)
    assert "Error:" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("which", [f"7/{shard_name(0)}", TRACKER, "config.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, which: str) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / which).unlink()
    os.mkfifo(folder / which)
    with pytest.raises(CheckpointError, match="regular file"):
        resolve_heads(open_checkpoint(folder), None)


# names of tensors


def test_a_tied_head_is_passed_over_with_a_note(tmp_path: Path) -> None:
    state = random_state()
    for n, head in enumerate((state[WORDS], state[WORDS].clone())):
        folder = write(tmp_path / str(n), {"module": {**state, HEAD: head}})
        loads(folder)
        assert open_checkpoint(folder).notes == [f"{HEAD} (equal to {WORDS})"]
        loads(reshard(folder, 2))
    bare = write(tmp_path / "bare", {**state, HEAD: state[WORDS]})
    assert open_checkpoint(bare).notes == [f"{HEAD} (equal to {WORDS})"]


def test_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    state = random_state()
    head = state[WORDS].clone()
    head[-1, -1] += 1
    with pytest.raises(CheckpointError, match=rf"unexpected tensor '{HEAD}', which differs from {WORDS}"):
        open_checkpoint(write(tmp_path, {"module": {**state, HEAD: head}}))


MASKS = {
    "bias": torch.ones(1, 1, 16, 16, dtype=torch.bool).tril(),
    "masked_bias": torch.tensor(-1e4),
    "mask": torch.ones(16, 16).tril(),
}


@pytest.mark.parametrize("name", MASKS)
def test_causal_masks_are_passed_over_with_a_note(tmp_path: Path, name: str) -> None:
    state = random_state()
    masks = {f"transformer.layers.{n}.attention.{name}": MASKS[name] for n in range(2)}
    folder = write(tmp_path / "net", {"module": {**state, **masks}})
    loads(folder)
    assert open_checkpoint(folder).notes == [f"attention.{name} (causal mask)"]
    resharded = reshard(folder, 2)
    assert open_checkpoint(resharded).notes == []
    loads(resharded)


def test_a_bias_of_another_shape_is_no_mask(tmp_path: Path) -> None:
    state = {**random_state(), "transformer.layers.0.attention.bias": torch.ones(16, 8)}
    with pytest.raises(CheckpointError, match=r"unexpected tensor 'transformer\.layers\.0\.attention\.bias'"):
        open_checkpoint(write(tmp_path, {"module": state}))


RENAMED: dict[str, Callable[[str], str]] = {
    "whole": lambda name: f"_orig_mod.{name}",
    "layers": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "inner": lambda name: name.replace("attention.", "attention._orig_mod."),
    "module": lambda name: f"module._orig_mod.module.{name}",
    "nested": lambda name: f"_orig_mod.module._orig_mod.{name.replace('mlp.', '_orig_mod.mlp._orig_mod.')}",
}


@pytest.mark.parametrize("where", RENAMED)
def test_names_of_compiled_modules_are_found_in_any_place(tmp_path: Path, where: str) -> None:
    state = random_state()
    folder = write(tmp_path / "net", {"module": {RENAMED[where](k): v for k, v in state.items()}})
    loads(folder)
    loads(reshard(folder, 2))


def test_a_tensor_with_and_without_the_compiled_name_is_refused(tmp_path: Path) -> None:
    state = {**random_state(), f"_orig_mod.{WORDS}": torch.zeros(120, 32)}
    with pytest.raises(CheckpointError, match=rf"two tensors are named '{WORDS}'"):
        open_checkpoint(write(tmp_path, state))


# what Windows adds, and what is empty or too long


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf7", b"\xef\xbb\xbf7\r\n", b"7\r\n"])
def test_a_tracker_written_on_windows_is_read(tmp_path: Path, content: bytes) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / TRACKER).write_bytes(content)
    loads(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named_and_utf_8_asked_for(tmp_path: Path, encoding: str) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_bytes('{"heads": 8}'.encode(encoding))
    with pytest.raises(CheckpointError, match=r"config\.json: .*is UTF-16 text; save it as UTF-8"):
        resolve_heads(open_checkpoint(folder), None)
    (folder / TRACKER).write_bytes("7\r\n".encode(encoding))
    with pytest.raises(CheckpointError, match=rf"{TRACKER}: .*is UTF-16 text; save it as UTF-8"):
        open_checkpoint(folder)


def test_config_json_with_a_bom_and_crlf_is_read(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_bytes(b'\xef\xbb\xbf{\r\n"heads": 4\r\n}\r\n')
    assert resolve_heads(open_checkpoint(folder), None) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b" " * (2 << 20), "more than 1,048,576 bytes"),
        (b'{"heads": ' + b"9" * 4000 + b"}", r"not 9{40,80}… \(int\)$"),
        (b'{"heads": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b'{"heads": "' + b"x" * 9000 + b'"}', r"not 'x{40,80}… \(str\)$"),
        (b"[" * 100_000, "not a JSON object"),
        (b'["heads"]', "not a JSON object"),
        (b"\xff", "is not UTF-8 text"),
    ],
    ids=["long", "4000 digits", "5000 digits", "long text", "nested", "a list", "not text"],
)
def test_config_json_is_read_up_to_a_bound(tmp_path: Path, content: bytes, said: str) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        resolve_heads(open_checkpoint(folder), None)
    assert len(str(caught.value)) < 400


def test_a_tracker_is_read_up_to_a_bound(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / TRACKER).write_bytes(b"7" * 100_000)
    with pytest.raises(CheckpointError, match="more than 4,096 bytes"):
        open_checkpoint(folder)
    (folder / TRACKER).write_bytes(b"7" * 4000)
    with pytest.raises(CheckpointError, match="must hold an iteration"):
        open_checkpoint(folder)


def test_an_empty_name_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(random_checkpoint(tmp_path / "net"))
    for call in (open_checkpoint, model_folder):
        with pytest.raises(CheckpointError, match="empty name"):
            call("")
    for arguments in (("", 2), (".", 2, "")):
        with pytest.raises(InputError, match="empty name"):
            reshard(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", ["2", 2.0, None])
def test_a_number_of_ranks_that_is_no_whole_number_is_an_input_error(tmp_path: Path, degree: Any) -> None:
    with pytest.raises(InputError, match="number of ranks"):
        reshard(random_checkpoint(tmp_path / "net"), degree)


def test_the_public_reshard_works_more_than_once(tmp_path: Path) -> None:
    import cpm_gen

    folder = random_checkpoint(tmp_path / "net")
    assert [cpm_gen.reshard(folder, degree).name for degree in (2, 4)] == ["net_MP2", "net_MP4"]
