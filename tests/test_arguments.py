"""Every argument of the public interface takes numbers of any library; what is no number or text raises a CpmGenError."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.config.arguments import shown
from cpm_gen.llm import LLM


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with cpm_gen.load() as llm:
        yield llm


@pytest.mark.parametrize("whole", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda number: number.__name__)
def test_whole_numbers_of_numpy_and_torch_are_whole_numbers(llm: LLM, whole: Callable[[int], Any]) -> None:
    expected = llm.generate_many(["从前"], n=2, max_new_tokens=3, seed=3, top_k=20)
    got = llm.generate_many(["从前"], n=whole(2), max_new_tokens=whole(3), seed=whole(3), top_k=whole(20))
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]


@pytest.mark.parametrize("real", [np.float32, np.float64, np.array, torch.tensor], ids=lambda number: number.__name__)
def test_numbers_of_numpy_and_torch_are_numbers(llm: LLM, real: Callable[[float], Any]) -> None:
    expected = llm.generate("从前", max_new_tokens=3, seed=3, top_p=0.5, temperature=0.75)
    assert llm.generate("从前", max_new_tokens=3, seed=3, top_p=real(0.5), temperature=real(0.75)).text == expected.text


@pytest.mark.parametrize(
    "many",
    [
        np.array,
        torch.tensor,
        tuple,
        iter,
        lambda ids: [np.int32(i) for i in ids],
        lambda ids: [torch.tensor(i) for i in ids],
    ],
    ids=["numpy", "torch", "tuple", "iterator", "numpy scalars", "torch scalars"],
)
def test_token_ids_may_be_any_iterable_of_whole_numbers(llm: LLM, many: Callable[[list[int]], Any]) -> None:
    ids = llm.encode("床前明月光")
    assert llm.score(many(ids)) == llm.score(ids)
    assert llm.tokenizer.decode(many(ids)) == llm.tokenizer.decode(ids)


def test_banned_ids_may_be_an_array(llm: LLM) -> None:
    first = llm.generate("从前", max_new_tokens=1, temperature=0).token_ids
    assert llm.generate("从前", max_new_tokens=1, temperature=0, banned_ids=np.array(first)).token_ids != first


class _Thing:
    pass


WRONG = [
    None,
    b"x",
    {},
    {"a": 1},
    [],
    [None],
    ["x", 1],
    object(),
    _Thing,
    1.5,
    True,
    float("nan"),
    set(),
    np.array([1.5]),
    3 + 4j,
    10**5000,
    -(10**5000),
]


def calls(llm: LLM) -> dict[str, Callable[[Any], object]]:
    tokenizer = llm.tokenizer
    short = {"max_new_tokens": 1}
    named = (
        "seed",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "style",
        "banned_ids",
        "max_new_tokens",
        "stop_at_eod",
    )
    return {
        "load": cpm_gen.load,
        **{
            f"load {name}": lambda v, name=name: cpm_gen.load(**{name: v}).close()
            for name in (
                "tokenizer",
                "dtype",
                "batch",
                "threads",
                "window_hop",
                "window_limit",
                "tensor_parallel",
                "heads",
            )
        },
        "generate": lambda v: llm.generate(v, **short),
        "generate_many": lambda v: llm.generate_many(v, **short),
        "stream": lambda v: list(llm.stream(v, **short)),
        "stream_many": lambda v: list(llm.stream_many(v, **short)),
        **{f"generate {name}": lambda v, name=name: llm.generate_many(["从前"], **short | {name: v}) for name in named},
        "score": llm.score,
        "encode": llm.encode,
        "encode style": lambda v: llm.encode("从前", v),
        "Tokenizer": cpm_gen.Tokenizer,
        "Tokenizer.encode": tokenizer.encode,
        "Tokenizer.decode": tokenizer.decode,
        "Tokenizer.surface": tokenizer.surface,
        "Tokenizer.special": tokenizer.special,
        "reshard": lambda v: cpm_gen.reshard(v, 2),
        "reshard degree": lambda v: cpm_gen.reshard(EMBEDDED, v, "/nonexistent/folder/target"),
        "reshard target": lambda v: cpm_gen.reshard("/nonexistent", 2, v),
        "reshard heads": lambda v: cpm_gen.reshard("/nonexistent", 2, "/nonexistent/b", heads=v),
        "reshard progress": lambda v: cpm_gen.reshard("/nonexistent", 2, "/nonexistent/b", progress=v),
        "LLM": lambda v: LLM(v),
    }


def test_what_is_no_text_or_number_is_one_of_our_errors_or_taken(llm: LLM) -> None:
    raw = []
    for name, call in calls(llm).items():
        for value in WRONG:
            if name == "generate max_new_tokens" and value is None:
                continue  # means without end
            try:
                call(value)
            except cpm_gen.CpmGenError as error:
                assert len(str(error)) < 400, (name, value)
            except Exception as error:
                raw.append((name, value, repr(error)[:200]))
    assert [(name, shown(value), error) for name, value, error in raw] == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: t.encode(["从前", "话说"]),
        lambda t: t.encode(None),
        lambda t: t.decode(["5"]),
        lambda t: t.decode(5),
        lambda t: t.decode("5"),
        lambda t: t.decode([True]),
        lambda t: t.decode([1.0]),
        lambda t: t.special(None),
    ],
)
def test_wrong_arguments_of_a_tokenizer_are_errors(llm: LLM, wrong: Callable[[cpm_gen.Tokenizer], object]) -> None:
    with pytest.raises(cpm_gen.CpmGenError):
        wrong(llm.tokenizer)


@pytest.mark.parametrize("degree", ["2", 2.0, None, True])
def test_a_degree_that_is_no_whole_number_is_an_input_error(degree: object) -> None:
    with pytest.raises(cpm_gen.InputError, match="number of ranks"):
        cpm_gen.reshard(EMBEDDED, degree, "/nonexistent/folder/target")


def test_resharding_works_several_times_and_is_listed(tmp_path) -> None:
    for degree in (1, np.int64(2)):
        assert cpm_gen.reshard(EMBEDDED, degree, tmp_path / str(degree)).is_dir()
    assert {"load", "reshard", "Tokenizer"} <= set(dir(cpm_gen))
