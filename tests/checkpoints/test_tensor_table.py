"""Cutting tensors over ranks, against plain ``torch.chunk`` of q, k and v each."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints import tensor_table
from cpm_gen.errors import CheckpointError
from tests.oracles import merge

DEGREES = (1, 2, 3, 4, 6, 12)
SIZES = {"vocabulary": 36, "positions": 5, "hidden": 24}
NAMES = list(tensor_table.names(2))

CUT_BY_ROWS = {"word_embeddings.weight", "mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias"}
CUT_BY_COLUMNS = {"attention.dense.weight", "mlp.dense_4h_to_h.weight"}
CUT_QKV = {"attention.query_key_value.weight", "attention.query_key_value.bias"}

degrees = st.sampled_from(DEGREES)
tensor_names = st.sampled_from(NAMES)


def whole(name: str) -> torch.Tensor:
    shape = tensor_table.whole_shape(name, **SIZES)
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def kind(name: str) -> str:
    short = name.removeprefix("transformer.layers.0.").removeprefix("transformer.layers.1.")
    for word, names in (("rows", CUT_BY_ROWS), ("columns", CUT_BY_COLUMNS), ("qkv", CUT_QKV)):
        if short in names:
            return word
    return "copied"


def chunked(name: str, tensor: torch.Tensor, degree: int) -> list[torch.Tensor]:
    """What each rank holds, said with torch.chunk and the table of DESIGN.md."""
    match kind(name):
        case "rows":
            return list(tensor.chunk(degree, dim=0))
        case "columns":
            return list(tensor.chunk(degree, dim=1))
        case "qkv":
            q, k, v = (block.chunk(degree, dim=0) for block in tensor.chunk(3, dim=0))
            return [torch.cat(parts) for parts in zip(q, k, v, strict=True)]
        case _:
            return [tensor] * degree


@settings(deadline=None)
@given(tensor_names, degrees)
def test_split_gives_each_rank_what_chunking_q_k_and_v_each_gives(name, degree):
    tensor = whole(name)
    parts = tensor_table.split(tensor_table.cut_of(name), tensor, degree)
    expected = chunked(name, tensor, degree)
    assert len(parts) == degree
    assert all(torch.equal(a, b) for a, b in zip(parts, expected, strict=True))


@settings(deadline=None)
@given(tensor_names, degrees)
def test_merge_inverts_split(name, degree):
    tensor, cut = whole(name), tensor_table.cut_of(name)
    assert torch.equal(merge(cut, tensor_table.split(cut, tensor, degree)), tensor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("degree", DEGREES)
def test_every_name_survives_the_round_trip_at_every_degree(name, degree):
    tensor, cut = whole(name), tensor_table.cut_of(name)
    parts = tensor_table.split(cut, tensor, degree)
    assert torch.equal(merge(cut, parts), tensor)
    assert {tuple(p.shape) for p in parts} == {tensor_table.rank_shape(cut, tuple(tensor.shape), degree)}


@settings(max_examples=300, deadline=None)
@given(tensor_names.filter(lambda name: kind(name) != "copied"), degrees, degrees)
def test_pieces_from_any_degree_to_any_degree_equal_merging_then_splitting(name, source_degree, target_degree):
    tensor, cut = whole(name), tensor_table.cut_of(name)
    held = chunked(name, tensor, source_degree)
    for rank, expected in enumerate(chunked(name, tensor, target_degree)):
        target = torch.full_like(expected, float("nan"))
        for p in tensor_table.pieces(cut, tensor.shape[cut.dim], source_degree, target_degree, rank):
            place = target.narrow(cut.dim, p.target_start, p.length)
            assert place.isnan().all()  # nothing is written twice
            place.copy_(held[p.source].narrow(cut.dim, p.source_start, p.length))
        assert torch.equal(target, expected)  # and nothing is left out


@settings(deadline=None)
@given(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 8), st.integers(1, 8), st.data())
def test_pieces_hold_for_degrees_that_share_no_factor(blocks, unit, source_degree, target_degree, data):
    block = unit * source_degree * target_degree
    rank = data.draw(st.integers(0, target_degree - 1))
    rows = torch.arange(blocks * block)
    held = [torch.cat([b.chunk(source_degree)[r] for b in rows.chunk(blocks)]) for r in range(source_degree)]
    runs = tensor_table.pieces(tensor_table.Cut(0, blocks), len(rows), source_degree, target_degree, rank)
    got = torch.cat(
        [held[p.source][p.source_start :][: p.length] for p in sorted(runs, key=lambda run: run.target_start)]
    )
    assert got.equal(torch.cat([b.chunk(target_degree)[rank] for b in rows.chunk(blocks)]))


def test_same_degree_takes_each_block_whole_from_the_same_rank():
    runs = tensor_table.pieces(tensor_table.QKV, 24, 4, 4, 2)
    assert [(p.source, p.source_start, p.target_start, p.length) for p in runs] == [
        (2, 0, 0, 2),
        (2, 2, 2, 2),
        (2, 4, 4, 2),
    ]


@settings(deadline=None)
@given(tensor_names, degrees)
def test_parts_lie_in_compact_storage_of_their_own(name, degree):
    tensor = whole(name)
    for part in tensor_table.split(tensor_table.cut_of(name), tensor, degree):
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()
        assert part.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int8])
def test_dtype_stays_what_it_was(dtype):
    parts = tensor_table.split(tensor_table.QKV, torch.arange(12).to(dtype), 2)
    assert {p.dtype for p in parts} == {dtype}
    assert merge(tensor_table.QKV, parts).dtype == dtype


def test_names_stand_in_the_order_of_the_originals_files():
    layer = [
        "input_layernorm.weight",
        "input_layernorm.bias",
        "attention.query_key_value.weight",
        "attention.query_key_value.bias",
        "attention.dense.weight",
        "attention.dense.bias",
        "post_attention_layernorm.weight",
        "post_attention_layernorm.bias",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_h_to_4h.bias",
        "mlp.dense_4h_to_h.weight",
        "mlp.dense_4h_to_h.bias",
    ]
    assert list(tensor_table.names(12)) == [
        "word_embeddings.weight",
        "position_embeddings.weight",
        *(f"transformer.layers.{n}.{name}" for n in range(12) for name in layer),
        "transformer.final_layernorm.weight",
        "transformer.final_layernorm.bias",
    ]


@settings(deadline=None)
@given(st.integers(0, 120))
def test_names_are_complete_and_distinct_for_any_depth(layers):
    names = list(tensor_table.names(layers))
    assert len(names) == len(set(names)) == 4 + 12 * layers
    assert all(tensor_table.cut_of(name) is not None for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_cut_of_says_what_the_design_says(name):
    expected = {"rows": (0, 1), "columns": (1, 1), "qkv": (0, 3), "copied": (None, 1)}
    cut = tensor_table.cut_of(name)
    assert (cut.dim, cut.blocks) == expected[kind(name)]


@pytest.mark.parametrize(
    "name",
    [
        "transformer.layers.0.attention.query_key_value",
        "transformer.layers.x.mlp.dense_h_to_4h.bias",
        "transformer.layers.0.mlp.dense_h_to_4h.weight.extra",
        "layers.0.mlp.dense_h_to_4h.weight",
        "module.word_embeddings.weight",
        "transformer.lm_head.weight",
        "",
    ],
)
def test_a_name_that_is_not_in_the_table_has_no_cut(name):
    assert tensor_table.cut_of(name) is None


def test_an_output_head_of_its_own_is_cut_as_the_word_embedding():
    assert tensor_table.cut_of(tensor_table.HEAD) == tensor_table.cut_of("word_embeddings.weight")
    assert tensor_table.HEAD not in tensor_table.names(3)


def test_layer_numbers_of_several_digits_are_numbers():
    assert tensor_table.cut_of("transformer.layers.107.attention.query_key_value.bias") == tensor_table.QKV
    shape = tensor_table.whole_shape("transformer.layers.31.mlp.dense_4h_to_h.weight", **SIZES)
    assert shape == (24, 96)


def test_shapes_of_a_rank_are_those_of_the_design():
    V, P, h, p = 30000, 1024, 2560, 4
    expected = {
        "word_embeddings.weight": (V // p, h),
        "position_embeddings.weight": (P, h),
        "attention.query_key_value.weight": (3 * h // p, h),
        "attention.query_key_value.bias": (3 * h // p,),
        "attention.dense.weight": (h, h // p),
        "attention.dense.bias": (h,),
        "mlp.dense_h_to_4h.weight": (4 * h // p, h),
        "mlp.dense_h_to_4h.bias": (4 * h // p,),
        "mlp.dense_4h_to_h.weight": (h, 4 * h // p),
        "mlp.dense_4h_to_h.bias": (h,),
    }
    for name in tensor_table.names(1):
        shape = tensor_table.whole_shape(name, vocabulary=V, positions=P, hidden=h)
        short = name.removeprefix("transformer.layers.0.")
        assert tensor_table.rank_shape(tensor_table.cut_of(name), shape, p) == expected.get(short, (h,)), name


@pytest.mark.parametrize(
    ("heads", "hidden", "expected"),
    [
        (32, 2560, [1, 2, 4, 8, 16]),
        (16, 1024, [1, 2, 4, 8, 16]),
        (12, 768, [1, 2, 3, 4, 6, 12]),
        (20, 1280, [1, 2, 4, 5, 10, 20]),
    ],
)
def test_possible_degrees_of_the_real_vocabulary(heads, hidden, expected):
    assert tensor_table.possible_degrees(vocabulary=30000, heads=heads, hidden=hidden) == expected


def test_vocabulary_alone_allows_the_degrees_of_the_design():
    allowed = tensor_table.possible_degrees(vocabulary=30000, heads=None, hidden=30000)
    assert allowed[:11] == [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16]


def test_unknown_heads_leave_what_the_matrices_allow():
    assert tensor_table.possible_degrees(vocabulary=30000, heads=None, hidden=64) == [1, 2, 4, 8, 16]


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 24), st.integers(1, 8))
def test_a_degree_is_possible_exactly_when_everything_divides(vocabulary, heads, head_dim):
    hidden = heads * head_dim
    sizes = {"vocabulary": vocabulary, "heads": heads, "hidden": hidden}
    allowed = tensor_table.possible_degrees(**sizes)
    for degree in range(1, hidden + 3):
        divides = all(size % degree == 0 for size in sizes.values())
        assert (degree in allowed) == divides
        if divides:
            tensor_table.check_degree(degree, **sizes, where="here")
        else:
            with pytest.raises(CheckpointError):
                tensor_table.check_degree(degree, **sizes, where="here")


@pytest.mark.parametrize("degree", [3, 7, 32, 0, -1])
def test_impossible_degree_is_an_error_that_lists_what_is_possible(degree):
    with pytest.raises(CheckpointError) as caught:
        tensor_table.check_degree(degree, vocabulary=30000, heads=32, hidden=2560, where="/models/CPM")
    message = str(caught.value)
    assert message.startswith("/models/CPM: ")
    assert f" {degree} ranks" in message
    assert message.endswith("possible: 1, 2, 4, 8, 16")
    assert all(size in message for size in ("30000", "32 heads", "2560"))
