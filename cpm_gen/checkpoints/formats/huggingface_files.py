"""The files of weights in a Hugging Face folder: one or several, safetensors or ``torch.save``; what is there instead, if none are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.mapped_file import TensorRef
from cpm_gen.checkpoints.formats.safetensors_file import SafetensorsFile
from cpm_gen.checkpoints.formats.torch_file import SavedFile
from cpm_gen.checkpoints.small_files import read_small_text
from cpm_gen.config.arguments import shown
from cpm_gen.errors import CheckpointError

_SAFETENSORS, _BIN = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_WEIGHTS = (_SAFETENSORS, _SAFETENSORS + _INDEX, _BIN, _BIN + _INDEX)  # the first that is there is read
_INDEX_BYTES = 16 << 20
_FILES = 10_000
_NAME_LENGTH = 500


def _resaved(framework: str, flag: str) -> str:
    open_it = f"open the folder with transformers 4 (GPT2LMHeadModel.from_pretrained(FOLDER, {flag}=True))"
    return f"weights of {framework}: {open_it} and save_pretrained it; that writes {_SAFETENSORS}"


_OTHERS = {
    ".h5": _resaved("TensorFlow", "from_tf"),
    ".msgpack": _resaved("Flax", "from_flax"),
    ".index": "a checkpoint of TensorFlow 1, which is not supported",
    ".gguf": "a file of llama.cpp, which is not supported; take the folder that it was made from",
    ".onnx": "an ONNX file, which holds no checkpoint; take the folder that it was made from",
}


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder. where: the file or the index, for messages. kind: for a person. tensors: by the names in the files."""

    where: Path
    kind: str
    files: list[Path]
    tensors: dict[str, TensorRef]

    @staticmethod
    def checksums(refs: Iterable[TensorRef]) -> list[Checksum]:
        """The checksums that were saved with these tensors, each once."""
        stored = (ref.storage.checksum for ref in refs)
        return list({(c.path, c.name): c for c in stored if c is not None}.values())


def holds_weights(names: Iterable[str]) -> bool:
    """Whether one of these entries of a folder is called as a file of weights of another format than shards."""
    return any(n in _WEIGHTS or Path(n).suffix in _OTHERS for n in names)


def find_weights(folder: Path) -> Weights:
    """Read the headers of the folder's files of weights; raises CheckpointError, naming the file."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror or error}") from None
    name = next((n for n in _WEIGHTS if n in names), None)
    if name is None:
        raise CheckpointError(f"{folder}: no {_SAFETENSORS} and no {_BIN} there" + _instead(names))
    kind = "safetensors" if name.startswith(_SAFETENSORS) else "torch.save file"
    where = folder / name
    if not name.endswith(_INDEX):
        return Weights(where, kind, [where], _read(where))
    mapped = _read_index(where)
    contents = {file: _read_part(folder / file, where) for file in dict.fromkeys(mapped.values())}
    for tensor, file in mapped.items():
        if tensor not in contents[file]:
            raise CheckpointError(f"{folder / file}: tensor {tensor[:200]!a} is missing, which {name} says is there")
    tensors = {tensor: contents[file][tensor] for tensor, file in mapped.items()}
    return Weights(where, f"{kind}, {len(contents)} files", [folder / file for file in contents], tensors)


def _instead(names: list[str]) -> str:
    """What stands in a folder in place of weights, and what to do about it."""
    if any(n.startswith("adapter_model.") for n in names):
        return ", only a LoRA adapter; merge it into its network first (peft: merge_and_unload), and save that"
    for suffix, what in _OTHERS.items():
        if found := next((n for n in names if n.endswith(suffix)), None):
            return f", only {found[:100]!a}: {what}"
    weights = [n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth"))]
    return f"; it holds {', '.join(map(ascii, weights[:3]))}" if weights else ""


def _read_index(path: Path) -> dict[str, str]:
    """Which file holds which tensor. A file is named without a folder, so that no index leads out of its own."""
    text = read_small_text(path, _INDEX_BYTES, "must hold a JSON object with weight_map")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    mapped = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError(f"{path}: must hold a JSON object with weight_map, the file of each tensor")
    for tensor, file in mapped.items():
        if (
            not isinstance(file, str)
            or not file
            or file in (".", "..")
            or not file.isprintable()
            or {"/", "\\"} & set(file)
        ):
            raise CheckpointError(
                f"{path}: weight_map puts {tensor[:200]!a} in {shown(file)}, which is not a file of its own folder"
            )
    if len(set(mapped.values())) > _FILES:
        raise CheckpointError(f"{path}: weight_map names more than {_FILES:,} files")
    return mapped


def _read_part(path: Path, index: Path) -> dict[str, TensorRef]:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, but {index.name} names it; download it, too")
    return _read(path)


def _read(path: Path) -> dict[str, TensorRef]:
    """The tensors of one file, by name, by the format that its name says."""
    tensors = SafetensorsFile(path).tensors if path.suffix == ".safetensors" else _state(SavedFile(path))
    if long := next((n for n in tensors if len(n) > _NAME_LENGTH), None):
        raise CheckpointError(f"{path}: a tensor's name has more than {_NAME_LENGTH} characters: {long!a:.60}")
    return tensors


def _state(saved: SavedFile) -> dict[str, TensorRef]:
    """The state dict of a ``torch.save`` file: tensors and nothing else. A pickle that names anything else is refused."""
    content = saved.content
    if saved.notes:
        raise CheckpointError(
            f"{saved.path}: its pickle names {saved.notes[0]}, which a file of weights does not need; nothing of it was run. "
            "Do not open it with other programs; get the model as safetensors, or from a source that you trust"
        )
    if not isinstance(content, dict) or isinstance(content, Dropped):
        raise CheckpointError(f"{saved.path}: holds a {type(content).__name__}, not a dictionary of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, TensorRef):
            raise CheckpointError(f"{saved.path}: {name!a:.100} is no tensor, so it is no file of a network's weights")
    return dict(content)
