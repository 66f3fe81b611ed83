"""How each tensor of a CPM checkpoint is cut over tensor-parallel ranks, and the arithmetic of cutting.

Everything that splits, loads or verifies tensors uses :data:`TABLE`; no other module knows how a tensor is cut.

With degree ``p`` and hidden size ``h``, a rank holds of ``query_key_value.weight`` ``[3h, h]`` the rows ``[q_r; k_r; v_r]``: q, k and v
are cut separately, so the tensor is ``blocks=3`` stacked matrices cut alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from cpm_gen.config.arguments import shown
from cpm_gen.errors import CheckpointError


@dataclass(frozen=True)
class Cut:
    """How a tensor is cut: along ``dim`` (None: copied to every rank), in ``blocks`` stacked parts each."""

    dim: int | None
    blocks: int = 1


ROWS, COLUMNS, COPIED, QKV = Cut(0), Cut(1), Cut(None), Cut(0, blocks=3)

_LAYER = "transformer.layers.N."
_LAYER_NUMBER = re.compile(r"^transformer\.layers\.(\d{1,4})\.")

# name -> (cut, whole shape in terms of V vocabulary, P positions, h hidden)
TABLE: dict[str, tuple[Cut, tuple[str, ...]]] = {
    "word_embeddings.weight": (ROWS, ("V", "h")),
    "position_embeddings.weight": (COPIED, ("P", "h")),
    _LAYER + "input_layernorm.weight": (COPIED, ("h",)),
    _LAYER + "input_layernorm.bias": (COPIED, ("h",)),
    _LAYER + "attention.query_key_value.weight": (QKV, ("3h", "h")),
    _LAYER + "attention.query_key_value.bias": (QKV, ("3h",)),
    _LAYER + "attention.dense.weight": (COLUMNS, ("h", "h")),
    _LAYER + "attention.dense.bias": (COPIED, ("h",)),
    _LAYER + "post_attention_layernorm.weight": (COPIED, ("h",)),
    _LAYER + "post_attention_layernorm.bias": (COPIED, ("h",)),
    _LAYER + "mlp.dense_h_to_4h.weight": (ROWS, ("4h", "h")),
    _LAYER + "mlp.dense_h_to_4h.bias": (ROWS, ("4h",)),
    _LAYER + "mlp.dense_4h_to_h.weight": (COLUMNS, ("h", "4h")),
    _LAYER + "mlp.dense_4h_to_h.bias": (COPIED, ("h",)),
    "transformer.final_layernorm.weight": (COPIED, ("h",)),
    "transformer.final_layernorm.bias": (COPIED, ("h",)),
}
HEAD = "lm_head.weight"  # of networks whose output head is not the word embedding, cut as that is; CPM-1 has none
_WITH_HEAD = {**TABLE, HEAD: (ROWS, ("V", "h"))}


def split_layer(name: str) -> tuple[int | None, str]:
    """Layer number and name within the layer of a tensor; (None, name) for a tensor outside the layers."""
    found = _LAYER_NUMBER.match(name)
    return (int(found[1]), name[found.end() :]) if found else (None, name)


def cut_of(name: str) -> Cut | None:
    """The cut of a tensor by its checkpoint name; None if the table has no such tensor."""
    entry = _WITH_HEAD.get(_LAYER_NUMBER.sub(_LAYER, name))
    return entry[0] if entry else None


def whole_shape(
    name: str, *, vocabulary: int, positions: int, hidden: int, inner: int | None = None
) -> tuple[int, ...]:
    """Shape of the uncut tensor. inner: width of the MLP's hidden layer; None: four times ``hidden``."""
    sizes = {"V": vocabulary, "P": positions, "h": hidden, "3h": 3 * hidden, "4h": inner or 4 * hidden}
    return tuple(sizes[s] for s in _WITH_HEAD[_LAYER_NUMBER.sub(_LAYER, name)][1])


def names(layers: int) -> Iterator[str]:
    """Every tensor name of a network with that many layers, in the order of the original's files."""
    for name in TABLE:
        if not name.startswith(_LAYER):
            if name == "transformer.final_layernorm.weight":
                for n in range(layers):
                    yield from (k.replace("N", str(n), 1) for k in TABLE if k.startswith(_LAYER))
            yield name


def rank_shape(cut: Cut, shape: tuple[int, ...], degree: int) -> tuple[int, ...]:
    """Shape that one rank of ``degree`` holds of a whole tensor of ``shape``; see :func:`pieces` for sizes that do not divide."""
    if cut.dim is None:
        return shape
    return tuple(-(-s // degree) if d == cut.dim else s for d, s in enumerate(shape))


@dataclass(frozen=True)
class Piece:
    """A contiguous range along the cut dimension, copied from one source rank's tensor into the target rank's."""

    source: int
    source_start: int
    target_start: int
    length: int


def pieces(cut: Cut, size: int, source_degree: int, target_degree: int, rank: int) -> list[Piece]:
    """The ranges that make up the slice of target ``rank``, for a dimension whose whole size is ``size``.

    The degrees need not divide each other. A degree that does not divide the size, which only a vocabulary's may be, is padded: all
    ranks hold the same number of rows, and the last rows of the last ranks are no part of the tensor; no piece fills them. Not for
    copied tensors, which any source rank has whole.
    """
    assert cut.dim is not None
    block = size // cut.blocks
    held, wanted = -(-block // source_degree), -(-block // target_degree)
    result = []
    for b in range(cut.blocks):
        at, end = rank * wanted, min((rank + 1) * wanted, block)
        while at < end:
            source = at // held
            length = min(end, (source + 1) * held) - at
            result.append(Piece(source, b * held + at - source * held, b * wanted + at - rank * wanted, length))
            at += length
    return result


def split(cut: Cut, whole: Tensor, degree: int) -> list[Tensor]:
    """The slices of ``whole`` that ``degree`` ranks hold, each in compact storage of its own, padded with zeros."""
    if cut.dim is None:
        return [whole.clone() for _ in range(degree)]
    slices = [whole.new_zeros(rank_shape(cut, tuple(whole.shape), degree)) for _ in range(degree)]
    for rank, part in enumerate(slices):
        for p in pieces(cut, whole.shape[cut.dim], 1, degree, rank):
            part.narrow(cut.dim, p.target_start, p.length).copy_(whole.narrow(cut.dim, p.source_start, p.length))
    return slices


def possible_degrees(*, vocabulary: int | None, heads: int | None, hidden: int, inner: int | None = None) -> list[int]:
    """Degrees at which a network of these sizes can be cut; without ``heads``, what the matrices alone allow.

    vocabulary: None if its rows are padded, so that any degree fits. inner: as in :func:`whole_shape`.
    """
    sizes = [hidden, inner or hidden, hidden if vocabulary is None else vocabulary, hidden if heads is None else heads]
    return [p for p in range(1, (heads or hidden) + 1) if all(size % p == 0 for size in sizes)]


def check_degree(
    degree: int, *, vocabulary: int | None, heads: int | None, hidden: int, inner: int | None = None, where: str
) -> None:
    """Raise CheckpointError, with the possible degrees, if ``degree`` does not divide the sizes (of :func:`possible_degrees`)."""
    allowed = possible_degrees(vocabulary=vocabulary, heads=heads, hidden=hidden, inner=inner)
    if degree not in allowed:
        named = [("vocabulary {}", vocabulary), ("{} heads", heads), ("hidden {}", hidden), ("inner {}", inner)]
        sizes = ", ".join(text.format(size) for text, size in named if size)
        raise CheckpointError(
            f"{where}: cannot be cut for {shown(degree)} ranks ({sizes} must divide); possible: {', '.join(map(str, allowed))}"
        )
