"""Sampling on the device against sampling on the host, on the CPU and, where there is one, on a GPU."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from cpm_gen.config.options import SamplingParams
from cpm_gen.errors import NumericsError
from cpm_gen.sampling import batched, sample
from cpm_gen.sampling.sample import FAILURES, Draw

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and --gpu")),
]
on_every_device = pytest.mark.parametrize("device", DEVICES)


def some_draw(dice: random.Random, size: int) -> Draw:
    """Any mixture of options, each off in half of the cases."""

    def maybe(value: float, off: float = 0.0) -> float:
        return value if dice.random() < 0.5 else off

    params = SamplingParams(
        temperature=dice.choice([0.0, 0.3, 0.95, 1.0, 1.0, 3.0, 100.0]),
        top_k=int(maybe(dice.choice([1, 2, 7, 50, size - 1, size, 10 * size]))),
        top_p=maybe(dice.choice([1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])),
        min_p=maybe(dice.choice([0.001, 0.05, 0.5, 1.0])),
        repetition_penalty=maybe(dice.choice([0.8, 1.3, 5.0]), 1.0),
        presence_penalty=maybe(dice.uniform(-2, 2)),
        frequency_penalty=maybe(dice.uniform(-1, 1)),
        no_repeat_ngram=dice.choice([0, 0, 1, 2, 3]),
        dry_multiplier=maybe(dice.choice([0.8, 5.0])),
        dry_allowed_length=dice.choice([1, 2, 3]),
        logit_bias=tuple(
            f"{i}:{dice.uniform(-9, 9):.3f}" for i in dice.sample(range(size + 5), dice.choice([0, 0, 3]))
        ),
        banned_ids=tuple(dice.sample(range(size + 5), dice.choice([0, 0, 1, 5]))),
    )
    context = [dice.randrange(min(size, 12)) for _ in range(dice.choice([0, 1, 30]))]
    written = context[len(context) // 2 :]
    forbidden = frozenset({7}) if dice.random() < 0.3 else frozenset()
    return Draw(
        params,
        context,
        written,
        forbidden,
        seed=dice.getrandbits(64),
        sample_index=3,
        step=dice.randrange(999),
        history=[*context, *context[:9]],
    )


def some_logits(dice: random.Random, rows: int, size: int) -> torch.Tensor:
    logits = np.random.default_rng(dice.getrandbits(32)).normal(size=(rows, size)) * dice.choice([0.1, 3, 12])
    result = torch.from_numpy(logits).float()
    return result.bfloat16().float() if dice.random() < 0.5 else result  # bfloat16 brings many equal ones


def on_the_host(logits: torch.Tensor, draws: list[Draw]) -> list[int | str]:
    chosen: list[int | str] = []
    for row, draw in zip(logits.numpy(), draws, strict=True):
        try:
            chosen.append(draw.choose(row))
        except NumericsError as error:
            chosen.append(str(error))
    return chosen


def on_the_device(logits: torch.Tensor, draws: list[Draw], device: str) -> list[int | str]:
    return [c if isinstance(c, int) else str(c) for c in batched.choose(logits.to(device), draws)]


@on_every_device
@pytest.mark.parametrize("size", [11, 120, 3000])
def test_the_device_chooses_what_the_host_chooses(size: int, device: str) -> None:
    dice = random.Random(size)
    for _ in range(60):
        draws = [some_draw(dice, size) for _ in range(dice.choice([1, 2, 9]))]
        logits = some_logits(dice, len(draws), size)
        assert on_the_device(logits, draws, device) == on_the_host(logits, draws), draws


@on_every_device
def test_a_bias_changes_the_allowed_tokens_alone(device: str) -> None:
    dice = random.Random(17)
    for size in (11, 120, 3000):
        draws = []
        for _ in range(40):
            allowed = np.array(sorted(dice.sample(range(size), dice.randint(1, size // 2))))
            bias = np.float32([dice.choice([0, -2.5, -32]) for _ in allowed])
            draws.append(dataclasses.replace(some_draw(dice, size), allowed=allowed, bias=dice.choice([bias, None])))
        logits = some_logits(dice, len(draws), size)
        chosen = on_the_host(logits, draws)
        assert on_the_device(logits, draws, device) == chosen
        plain = dataclasses.replace(
            draws[0], params=SamplingParams(temperature=0), forbidden=(), bias=np.float32([0] * len(draws[0].allowed))
        )
        best = draws[0].allowed[-1]  # a bias decides where logits do not
        bias = np.where(draws[0].allowed == best, 0, -1000).astype(np.float32)
        assert on_the_host(logits[:1], [dataclasses.replace(plain, bias=bias)]) == [best]


@on_every_device
def test_a_rows_token_does_not_depend_on_the_other_rows(device: str) -> None:
    dice = random.Random(5)
    draws = [some_draw(dice, 500) for _ in range(40)]
    logits = some_logits(dice, 40, 500)
    together = on_the_device(logits, draws, device)
    assert together == [on_the_device(logits[i : i + 1], [draw], device)[0] for i, draw in enumerate(draws)]


@on_every_device
@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_the_outermost_numbers_take_tokens_that_have_weight(
    u: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "uniform", lambda *_: u)
    params = SamplingParams(banned_ids=(0, 1, 19))
    draws = [Draw(params, (), (), (), seed=1, sample_index=0, step=0)]
    logits = some_logits(random.Random(9), 1, 20)
    assert on_the_device(logits, draws, device) == on_the_host(logits, draws) == [2 if u == 0 else 18]


@on_every_device
def test_a_whole_vocabulary_in_the_novels_settings(device: str) -> None:
    dice = random.Random(6)
    params = SamplingParams(temperature=0.95, top_k=50, top_p=0.95)
    draws = [Draw(params, (), (), (), seed=1, sample_index=0, step=step) for step in range(32)]
    logits = some_logits(dice, 32, 30000)
    assert on_the_device(logits, draws, device) == on_the_host(logits, draws)
    plain = [dataclasses.replace(draw, params=SamplingParams()) for draw in draws]
    assert on_the_device(logits, plain, device) == on_the_host(logits, plain)


@on_every_device
def test_what_ails_one_row_is_no_matter_of_the_others(device: str) -> None:
    params = SamplingParams(top_k=3)
    draws = [Draw(params, (), (), (), seed=1, sample_index=0, step=0)] * 5
    draws[2] = dataclasses.replace(draws[2], params=SamplingParams(banned_ids=tuple(range(20))))
    logits = some_logits(random.Random(7), 5, 20)
    well = on_the_host(logits[[0, 4]], [draws[0], draws[4]])
    logits[1, 5], logits[3, 5] = torch.nan, torch.inf
    chosen = on_the_device(logits, draws, device)
    assert [chosen[0], chosen[4]] == well
    assert chosen[1:4] == [FAILURES[-1], FAILURES[-2], FAILURES[-3]]
    assert chosen == on_the_host(logits, draws)


@on_every_device
def test_raw_logits_stay_as_they_are(device: str) -> None:
    dice = random.Random(8)
    draws = [some_draw(dice, 120) for _ in range(20)]
    logits = some_logits(dice, 20, 120).to(device)
    before = logits.clone()
    batched.choose(logits, draws)
    assert torch.equal(logits, before)


def test_nothing_to_choose() -> None:
    assert batched.choose(torch.empty(0, 120), []) == []
