"""Folders in the forms that people own, as shared/hf records them: their texts, written without a prompt and by ids."""

import json
from typing import Any

import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.llm import LLM
from tests.text.vocabularies import models_folder

pytest.importorskip("tokenizers")

NAMES = ["cpm-small-hub", "uer-small", "gpt2-chinese-2019", "openai-small", "sharded-small"]


def load(name: str) -> tuple[LLM, dict[str, Any]]:
    ok = models_folder() / "ok"
    recorded: dict[str, Any] = json.loads((ok / f"{name}.expected.json").read_text(encoding="utf-8"))
    options: dict[str, Any] = {"window_hop": 1}
    if "tokenizer_folder" in recorded:
        options |= {"tokenizer": ok / recorded["tokenizer_folder"], "start_token": "[MASK]", "end_token": "[CLS]"}
    return cpm_gen.load(ok / name, **options), recorded


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_the_decoded_greedy_tokens_and_streams_join_to_them(name: str) -> None:
    llm, recorded = load(name)
    with llm:
        prompt, expected = recorded["greedy_beyond_prompt"], recorded["greedy_beyond"]
        chunks = list(
            llm.engine.run([prompt], SamplingParams(temperature=0.0), TextOptions(max_new_tokens=len(expected)))
        )
        done = chunks[-1].completion
        assert done is not None
        assert list(done.token_ids) == expected
        assert "".join(chunk.text for chunk in chunks) == done.text == llm.tokenizer.decode(expected)


@pytest.mark.parametrize("name", NAMES)
def test_unconditional_texts_begin_with_the_recorded_token(name: str) -> None:
    llm, recorded = load(name)
    with llm:
        done = llm.generate(unconditional=True, max_new_tokens=2, seed=1)
        assert list(done.prompt_token_ids) == recorded["start_ids_for_unconditional"]


@pytest.mark.parametrize("name", ["vocab-not-utf8", "vocab-too-big"])
def test_a_bad_vocabulary_is_refused_when_the_folder_is_loaded(name: str) -> None:
    with pytest.raises(cpm_gen.TokenizerError, match="vocab"):
        cpm_gen.load(models_folder() / "broken" / name)


@pytest.mark.parametrize("name", ["gelu-small", "scaled-small"])
def test_a_folder_without_a_vocabulary_writes_ids(name: str) -> None:
    llm, recorded = load(name)
    with llm:
        options = TextOptions(max_new_tokens=len(recorded["greedy"]))
        chunks = list(llm.engine.run([recorded["greedy_prompt"]], SamplingParams(temperature=0.0), options))
        assert [i for chunk in chunks for i in chunk.token_ids] == recorded["greedy"]
        with pytest.raises(cpm_gen.TokenizerError, match="--tokenizer"):
            llm.generate("床")
