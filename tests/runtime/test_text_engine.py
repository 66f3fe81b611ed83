"""Texts on a loaded model: what the service and the command line build on."""

import dataclasses
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, CpmGenError, InputError
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.loaded_model import LoadedModel
from cpm_gen.runtime.plan import Machine, plan_load
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.runtime.vocabulary import ModelVocabulary
from tests.random_networks import random_checkpoint

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def engine() -> Iterator[TextEngine]:
    with TextEngine.load(ModelOptions(batch=2)) as engine:
        yield engine


def test_a_plan_becomes_a_loaded_model_and_an_engine_over_it() -> None:
    plan = plan_load(ModelOptions(), Machine.detect())
    loaded = LoadedModel.start(plan)
    with TextEngine(loaded, ModelVocabulary(plan)) as engine:
        assert engine.loaded is loaded
        assert (engine.size, engine.window, engine.options) == (plan.size, plan.window, plan.options)
        assert engine.notes == list(plan.notes)
        assert engine.rank == 0
        assert len(engine.digest()) == 16
        assert len(engine.score([1, 2])) == 2
    with pytest.raises(CpmGenError, match="closed"):
        engine.score([1, 2])


def test_an_llm_writes_what_its_engine_writes() -> None:
    with cpm_gen.load() as llm:
        want = llm.generate("明月", temperature=0, max_new_tokens=12).text
        chunks = llm.engine.run([llm.encode("明月")], GREEDY, TextOptions(max_new_tokens=12))
        assert "".join(c.text for c in chunks) == want


def test_requests_join_and_leave_between_steps(engine: TextEngine) -> None:
    text = TextOptions(max_new_tokens=5, n=3)
    ready: deque[Chunk] = deque()
    streams = engine.begin(engine.requests([engine.vocabulary.encode("春风")], GREEDY, text), text, ready)
    assert (engine.running, engine.waiting) == (0, 3)
    engine.step()
    assert (engine.running, engine.waiting) == (2, 1)  # the batch holds two
    assert engine.slots is not None
    assert engine.slots[0] == 2
    engine.end(streams[:1])
    engine.step()
    assert (engine.running, engine.waiting) == (2, 0)
    engine.end(streams[1:])
    assert (engine.running, engine.waiting, engine.slots[0]) == (0, 0, 0)
    assert {chunk.place for chunk in ready} == {0, 1, 2}


def test_a_stopped_run_ends_with_a_cancelled_chunk_for_each_sample(engine: TextEngine) -> None:
    chunks = list(engine.run([engine.vocabulary.encode("春风")], GREEDY, TextOptions(n=2), stop=lambda: True))
    assert [c.finish_reason for c in chunks] == ["cancelled", "cancelled"]


def test_requests_are_checked(engine: TextEngine) -> None:
    with pytest.raises(InputError, match="token id -1"):
        engine.requests([[-1]], GREEDY, TextOptions())
    with pytest.raises(InputError, match="token id 999999"):
        engine.requests([[1]], SamplingParams(banned_ids=(999_999,)), TextOptions())
    with pytest.raises(ConfigError, match="window limit must be at most"):
        engine.requests([[1]], GREEDY, TextOptions(), window=Window(5000, 10))


def test_time_is_accounted_for(engine: TextEngine) -> None:
    before, _ = engine.profile()
    list(engine.run([engine.vocabulary.encode("春风")], GREEDY, TextOptions(max_new_tokens=3)))
    steps, seconds = engine.profile()
    assert steps == before + 3
    assert {"sampling", "communication", "Python"} < seconds.keys()


def test_a_model_that_cannot_load_gives_the_threads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    plan = plan_load(ModelOptions(model=str(random_checkpoint(tmp_path)), threads=threads + 1), Machine.detect())

    def fail(*_: object) -> None:
        raise MemoryError("no memory for the network")

    monkeypatch.setattr("cpm_gen.runtime.loaded_model.build_runner", fail)
    with pytest.raises(MemoryError):
        LoadedModel.start(plan)
    assert torch.get_num_threads() == threads


def test_without_other_ranks_there_are_none_to_kill(engine: TextEngine) -> None:
    assert not engine.kill_ranks()


def test_stop_strings_are_analysed_once_for_a_style(engine: TextEngine) -> None:
    text = TextOptions(stop=("春风", "<sep>"))
    found = engine.vocabulary.stops(text)
    assert found.strings == ("春风", "<sep>") and found.ids
    assert engine.vocabulary.stops(dataclasses.replace(text, n=3)) is found
    assert engine.vocabulary.stops(dataclasses.replace(text, style="lyric")) is not found


def test_what_ends_a_text_and_what_it_never_holds(engine: TextEngine) -> None:
    tokenizer = engine.vocabulary.tokenizer
    stop_ids, never = engine.vocabulary.bounds(TextOptions(stop_at_eod=True))
    assert stop_ids == {tokenizer.end} and tokenizer.unk in never
    assert engine.vocabulary.bounds(TextOptions())[0] == frozenset()
    stop_ids, never = engine.vocabulary.bounds(TextOptions(stop=("<unk>",)))
    assert stop_ids == {tokenizer.unk} and tokenizer.unk not in never
