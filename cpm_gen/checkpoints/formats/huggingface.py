"""Hugging Face folders of GPT-2 networks: ``config.json`` and whole tensors, in safetensors or ``torch.save`` files.

Matrices of layers are stored ``[inputs, outputs]`` (transformers' Conv1D) and come out transposed, without a copy. Nothing in a folder
is executed: neither code that its files name nor a pickle.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint, StoredTensor
from cpm_gen.checkpoints.formats.huggingface_files import Weights, find_weights, holds_weights
from cpm_gen.checkpoints.formats.mapped_file import TensorRef, same_bits
from cpm_gen.checkpoints.formats.megatron_layout import holds_shards, step_folders
from cpm_gen.checkpoints.network_config import CONFIG, NetworkConfig, read_config
from cpm_gen.config.model_sizes import NetworkVariant
from cpm_gen.errors import CheckpointError

_BODY = "transformer."
_WORDS, _POSITIONS = "wte.weight", "wpe.weight"
# our name -> transformers' name, and whether it is stored transposed; below a layer, and outside the layers
_IN_LAYER = {
    "input_layernorm": ("ln_1", False),
    "attention.query_key_value": ("attn.c_attn", True),
    "attention.dense": ("attn.c_proj", True),
    "post_attention_layernorm": ("ln_2", False),
    "mlp.dense_h_to_4h": ("mlp.c_fc", True),
    "mlp.dense_4h_to_h": ("mlp.c_proj", True),
}
_OUTSIDE = {
    "word_embeddings.weight": _WORDS,
    "position_embeddings.weight": _POSITIONS,
    "transformer.final_layernorm.weight": "ln_f.weight",
    "transformer.final_layernorm.bias": "ln_f.bias",
}
_LAYER = re.compile(r"h\.([0-9]{1,4})\.(.+)", re.DOTALL)
_MASKS = ("attn.bias", "attn.masked_bias")
_HIDDEN = 1 << 20
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_HINTS = {
    "emb_norm": ": GPT-2 ML normalises its embedding, so its network is not GPT-2's",
    "crossattention": ": cross-attention is not supported",
    "lora_": ": a LoRA adapter must be merged into the weights first (peft: merge_and_unload)",
}


@dataclass(frozen=True)
class Transposed:
    """A matrix that the file holds as ``[inputs, outputs]``, as a :class:`cpm_gen.checkpoints.checkpoint.FileTensor`."""

    stored: TensorRef

    @property
    def path(self) -> Path:
        """The file."""
        return self.stored.path

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in the file."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """``[outputs, inputs]``."""
        return self.stored.shape[::-1]

    def view(self) -> Tensor:
        """The matrix ``[outputs, inputs]``, a view of the mapped file."""
        return self.stored.view().T

    def release(self) -> None:
        """Release the pages that reading the view loaded."""
        self.stored.release()


def stored_names(layers: int) -> Iterator[tuple[str, str, bool]]:
    """For each tensor of the body: our name, transformers' name after ``transformer.``, and whether it is stored transposed."""
    for name in tensor_table.names(layers):
        layer, part = tensor_table.split_layer(name)
        if layer is None:
            yield name, _OUTSIDE[name], False
        else:
            module, kind = part.rsplit(".", 1)
            theirs, transposed = _IN_LAYER[module]
            yield name, f"h.{layer}.{theirs}.{kind}", transposed and kind == "weight"


def is_huggingface(folder: Path) -> bool:
    """Whether a folder is to be opened by :func:`open_folder`: its files are called as transformers calls them, and none is a shard."""
    try:
        names = [path.name for path in folder.iterdir()]
        likely = holds_weights(names) or (CONFIG in names and not step_folders(folder))
        return likely and not holds_shards(folder)
    except OSError:  # opening it as shards says why
        return False


def open_folder(folder: Path) -> Checkpoint:
    """Read config.json and the headers of the weights, and verify that they form one network.

    Raises CheckpointError, naming file and field or tensor, for what is missing, damaged, unsupported, or does not fit.
    """
    config = read_config(folder)
    if config is None:
        raise CheckpointError(
            f"{folder}: no {CONFIG} there, which says what network the weights are of; copy it from where the model came from"
        )
    config.check_family()
    variant = config.variant()
    weights = find_weights(folder)
    return _Reader(folder, config, variant, weights).checkpoint()


class _Reader:
    """Fits the tensors of a folder to the table."""

    def __init__(self, folder: Path, config: NetworkConfig, variant: NetworkVariant, weights: Weights) -> None:
        self.folder, self.config, self.variant, self.weights = folder, config, variant, weights
        names = [n for n in weights.tensors if n == _WORDS or n.endswith("." + _WORDS)]
        if not names:
            raise CheckpointError(f"{weights.where}: no tensor {_BODY + _WORDS} in it, so no GPT-2 network")
        self.prefix = min(names, key=lambda n: (n.count("."), n)).removesuffix(_WORDS)
        self.head_name = self.prefix.removesuffix(_BODY) + tensor_table.HEAD

    def checkpoint(self) -> Checkpoint:
        words, positions = self._matrix(_WORDS), self._matrix(_POSITIONS)
        (rows, hidden), layers = words.shape, self._layers()
        if not 0 < hidden <= _HIDDEN:
            raise CheckpointError(f"{words.path}: hidden size {hidden}, which no network has")
        where = self.weights.where.name
        self._agree("n_layer", ("n_layer", "num_hidden_layers"), layers, f"{where} holds {layers} layers")
        self._agree("n_embd", ("n_embd", "hidden_size"), hidden, f"{self.prefix}{_WORDS} has {hidden} columns")
        self._agree("vocab_size", ("vocab_size",), rows, f"{self.prefix}{_WORDS} has {rows} rows")
        count = positions.shape[0]
        names = ("n_positions", "max_position_embeddings")
        self._agree("n_positions", names, count, f"{self.prefix}{_POSITIONS} has {count} rows")
        heads = self.config.number("n_head", "num_attention_heads")
        if heads is not None and (heads < 1 or hidden % heads):
            raise CheckpointError(f"{self.config.path}: n_head is {heads}, which does not divide n_embd {hidden}")
        self.variant = dataclasses.replace(self.variant, tied_head=self._tied(words))
        sizes = {"vocabulary": rows, "positions": count, "hidden": hidden}
        tensors = dict(self._tensors(layers, sizes))
        self._refuse_others(layers, count)
        return Checkpoint(
            folder=self.folder,
            iteration="release",
            degree=1,
            layers=layers,
            **sizes,
            dtype=words.dtype,
            files=self.weights.files,
            notes=[],
            tensors=tensors,
            checksums=self.weights.checksums(t for s in tensors.values() for t in (_ref(s),)),
            format=f"Hugging Face GPT-2, {self.weights.kind}",
            variant=self.variant,
            heads=heads,
            pads_vocabulary=True,
            sources=self._sources(heads),
        )

    def _matrix(self, name: str) -> TensorRef:
        ref = self._find(name)
        if len(ref.shape) != 2 or 0 in ref.shape:
            raise CheckpointError(f"{ref.path}: {self.prefix + name} has shape {list(ref.shape)}, not two dimensions")
        return ref

    def _find(self, name: str) -> TensorRef:
        ref = self.weights.tensors.get(self.prefix + name)
        if ref is None:
            raise CheckpointError(f"{self.weights.where}: tensor {self.prefix + name} is missing")
        return ref

    def _layers(self) -> int:
        found = (
            _LAYER.fullmatch(n.removeprefix(self.prefix)) for n in self.weights.tensors if n.startswith(self.prefix)
        )
        layers = 1 + max((int(match[1]) for match in found if match), default=-1)
        if layers == 0:
            raise CheckpointError(f"{self.weights.where}: no layers ({self.prefix}h.0.…) in it, so no GPT-2 network")
        return layers

    def _agree(self, field: str, names: tuple[str, ...], found: int, how: str) -> None:
        said = self.config.number(*names)
        if said is not None and said != found:
            raise CheckpointError(f"{self.config.path}: {field} is {said}, but {how}")

    def _tied(self, words: TensorRef) -> bool:
        """Whether the output head is the embedding: no head is stored, or the same numbers.

        As in transformers 5, a stored head with other numbers is used whatever ``tie_word_embeddings`` says.
        """
        head = self.weights.tensors.get(self.head_name)
        if head is not None:
            return same_bits(words, head)
        if self.config.content.get("tie_word_embeddings") is False:
            raise CheckpointError(
                f"{self.weights.where}: tensor {self.head_name} is missing, but {CONFIG} says tie_word_embeddings false"
            )
        return True

    def _tensors(self, layers: int, sizes: dict[str, int]) -> Iterator[tuple[str, StoredTensor]]:
        inner = self.variant.inner
        for name, theirs, transposed in stored_names(layers):
            ref, full = self._find(theirs), self.prefix + theirs
            yield name, self._stored(name, full, ref, tensor_table.whole_shape(name, **sizes, inner=inner), transposed)
        if not self.variant.tied_head:
            shape = tensor_table.whole_shape(tensor_table.HEAD, **sizes)
            yield (
                tensor_table.HEAD,
                self._stored(tensor_table.HEAD, self.head_name, self.weights.tensors[self.head_name], shape, False),
            )

    def _stored(self, name: str, full: str, ref: TensorRef, shape: tuple[int, ...], transposed: bool) -> StoredTensor:
        wanted = shape[::-1] if transposed else shape
        if ref.shape != wanted:
            turned = transposed and ref.shape == shape
            raise CheckpointError(
                f"{ref.path}: {full} has shape {list(ref.shape)}, but a network of these sizes has {list(wanted)}"
                + (": it is transposed; GPT-2 stores [inputs, outputs]" if turned else "")
            )
        if ref.dtype not in _FLOATS:
            raise CheckpointError(f"{ref.path}: {full} is {ref.dtype}, not float32, float16 or bfloat16")
        ref.check()
        if math.prod(ref.shape) > ref.extent:
            raise CheckpointError(f"{ref.path}: {full} repeats its elements, so it is no saved weight")
        cut = tensor_table.cut_of(name)
        assert cut is not None
        return StoredTensor(cut, shape, [Transposed(ref) if transposed else ref])

    def _refuse_others(self, layers: int, positions: int) -> None:
        """Refuse tensors that GPT-2 does not have; causal masks, which transformers stored, add nothing."""
        known = {self.prefix + theirs for _, theirs, _ in stored_names(layers)} | {self.head_name}
        for name, ref in self.weights.tensors.items():
            match = _LAYER.fullmatch(name.removeprefix(self.prefix))
            mask = match is not None and match[2] in _MASKS and ref.shape in ((1, 1, positions, positions), (1,), ())
            if name not in known and not mask:
                hint = next((hint for word, hint in _HINTS.items() if word in name), "")
                raise CheckpointError(f"{ref.path}: unexpected tensor {name[:200]!a}" + hint)

    def _sources(self, heads: int | None) -> dict[str, str]:
        stored = f"tensors in {self.weights.where.name}"
        tied = (
            "no lm_head.weight is stored"
            if self.head_name not in self.weights.tensors
            else f"{tensor_table.HEAD} equals the embedding"
        )
        own = f"{tensor_table.HEAD} differs from the embedding"
        if self.config.content.get("tie_word_embeddings") is True:
            own += f", though {CONFIG} says tie_word_embeddings true"
        return {
            **dict.fromkeys(("layers", "hidden", "vocabulary", "positions"), stored),
            **({"heads": self.config.source("n_head")} if heads is not None else {}),
            "inner": self.config.source("n_inner"),
            "gelu": self.config.source("activation_function"),
            "epsilon": self.config.source("layer_norm_epsilon"),
            "scale_by_layer": self.config.source("scale_attn_by_inverse_layer_idx"),
            "tied_head": tied if self.variant.tied_head else own,
        }


def _ref(stored: StoredTensor) -> TensorRef:
    (tensor,) = stored.shards
    ref = tensor.stored if isinstance(tensor, Transposed) else tensor
    assert isinstance(ref, TensorRef)
    return ref
