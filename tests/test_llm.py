"""The Python interface, on the embedded model."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.llm import LLM
from tests.embedded import LIMIT, POSITIONS, VOCABULARY
from tests.random_networks import random_checkpoint

LINE = "明月几时有，把酒问青天。"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with cpm_gen.load() as llm:
        yield llm


def test_same_seed_same_text_and_another_seed_another(llm: LLM) -> None:
    options = {"style": "lyric", "max_new_tokens": 30, "temperature": 1.0}
    first = llm.generate(LINE, seed=11, **options)
    assert llm.generate(LINE, seed=11, **options).token_ids == first.token_ids
    assert llm.generate(LINE, seed=12, **options).token_ids != first.token_ids
    assert first.seed == 11


def test_a_drawn_seed_is_reported_and_gives_the_same_text_again(llm: LLM) -> None:
    first = llm.generate(LINE, style="lyric", max_new_tokens=20)
    again = llm.generate(LINE, style="lyric", max_new_tokens=20, seed=first.seed)
    assert again.token_ids == first.token_ids


def test_both_decoders_write_the_same_sampled_text_past_the_window() -> None:
    options = {"style": "novel", "max_new_tokens": 120, "seed": 3, "temperature": 0.9, "top_k": 40}
    window = {"window_limit": 48, "window_hop": 16, "window_boundary": "sentence"}
    texts = []
    for decoder in ("cached", "recompute"):
        with cpm_gen.load(decoder=decoder, **window) as llm:
            completion = llm.generate("话说天下大势", **options)
            assert completion.window_slides >= 3
            texts.append(completion.text)
    assert texts[0] == texts[1]


def test_completion_fields_agree_with_each_other(llm: LLM) -> None:
    c = llm.generate(LINE, style="lyric", max_new_tokens=25, seed=1)
    assert c.finish_reason == "length"
    assert len(c.token_ids) == 25
    assert c.text == llm.tokenizer.decode(c.token_ids).replace("<eod>", "\n")
    assert list(c.prompt_token_ids) == [*llm.tokenizer.encode(LINE), llm.tokenizer.eod]
    assert c.timing.first_token > 0
    assert c.timing.tokens_per_second > 0


def test_chunks_join_to_the_completion(llm: LLM) -> None:
    chunks = list(llm.stream(LINE, style="lyric", max_new_tokens=40, seed=2))
    completion = chunks[-1].completion
    assert completion is not None
    assert [c.completion for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert "".join(c.text for c in chunks) == completion.text
    assert tuple(i for c in chunks for i in c.token_ids) == completion.token_ids


def test_closing_a_stream_ends_it_and_leaves_the_model_usable(llm: LLM) -> None:
    stream = llm.stream(LINE, max_new_tokens=None, seed=2)
    first = next(stream)
    stream.close()
    assert not llm.engine.token_engine.busy
    assert llm.generate(LINE, max_new_tokens=1, seed=2).token_ids == first.token_ids


def test_streams_read_in_turn_each_get_their_own_text(llm: LLM) -> None:
    options = {"style": "novel", "max_new_tokens": 20, "seed": 6}
    prompts = ("话说", "且说那日", "宝玉")
    alone = [llm.generate(p, **options).text for p in prompts]
    streams = [llm.stream(p, **options) for p in prompts]
    texts = ["", "", ""]
    texts[0] += next(streams[0]).text  # the first is ahead
    for _ in range(20):
        for i, stream in enumerate(streams):
            texts[i] += getattr(next(stream, None), "text", "")
    assert texts == alone


def test_samples_differ_and_do_not_depend_on_how_many_there_are(llm: LLM) -> None:
    options = {"style": "lyric", "max_new_tokens": 15, "seed": 9, "temperature": 1.0}
    three = llm.generate_many([LINE, "春江潮水"], n=3, **options)
    assert [(c.index, c.prompt_token_ids) for c in three] == [
        (i, c.prompt_token_ids) for c in (three[0], three[3]) for i in range(3)
    ]
    assert len({c.token_ids for c in three}) == 6
    assert llm.generate(LINE, **options).token_ids == three[0].token_ids
    assert llm.generate_many(["春江潮水"], n=2, **options)[1].token_ids == three[4].token_ids


def test_a_stop_string_split_over_tokens_ends_the_text_before_it(llm: LLM) -> None:
    options = {"style": "novel", "seed": 5, "temperature": 0.8, "top_k": 20}
    whole = llm.generate("话说", max_new_tokens=80, **options)
    pieces = [llm.tokenizer.surface(i) for i in whole.token_ids]
    at = next(i for i in range(10, 70) if pieces[i] and pieces[i + 1])
    stop = pieces[at][-1] + pieces[at + 1][0]
    expected = whole.text[: whole.text.index(stop)]
    stopped = llm.generate("话说", max_new_tokens=80, stop=[stop], **options)
    assert stopped.finish_reason == "stop"
    assert stopped.text == expected
    assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]
    assert "".join(c.text for c in llm.stream("话说", max_new_tokens=80, stop=[stop], **options)) == expected


def test_stop_at_eod_ends_a_line_and_min_new_tokens_delays_it(llm: LLM) -> None:
    options = {"style": "lyric", "seed": 4, "max_new_tokens": 200, "stop_at_eod": True}
    line = llm.generate(LINE, **options)
    assert line.finish_reason == "stop"
    assert line.token_ids[-1] == llm.tokenizer.eod
    assert line.token_ids.count(llm.tokenizer.eod) == 1
    assert line.text == llm.tokenizer.decode(line.token_ids[:-1])
    longer = llm.generate(LINE, min_new_tokens=40, **options)
    assert len(longer.token_ids) > 40
    assert llm.tokenizer.eod not in longer.token_ids[:40]


def test_a_stop_string_that_straddles_min_new_tokens_still_ends_the_text(llm: LLM) -> None:
    options = {"style": "novel", "temperature": 1.0, "seed": 8, "max_new_tokens": 30}
    whole = llm.generate("话说", **options)
    pieces = [llm.tokenizer.surface(i) for i in whole.token_ids]
    at = next(i for i in range(4, 25) if whole.text.index(pieces[i] + pieces[i + 1]) == len("".join(pieces[:i])))
    stop = pieces[at] + pieces[at + 1]
    stopped = llm.generate("话说", stop=[stop], min_new_tokens=at + 2, **options)
    assert stopped.finish_reason == "stop"
    assert stopped.text == "".join(pieces[:at])
    inside = llm.generate("话说", stop=[stop], min_new_tokens=at + 3, **options)
    assert inside.text.startswith("".join(pieces[: at + 2]))


def test_penalties_count_what_was_written_within_keep(llm: LLM) -> None:
    with cpm_gen.load(window_keep=60) as kept:
        c = kept.generate("春", max_new_tokens=50, temperature=0, presence_penalty=100.0)
    assert len(set(c.token_ids)) == 50


def test_one_text_that_cannot_go_on_takes_nothing_from_another(llm: LLM) -> None:
    options = {"temperature": 0.0, "max_new_tokens": 20}
    alone = llm.generate("春江", **options)
    stream = llm.stream("春江", **options)
    text = next(stream).text
    with pytest.raises(cpm_gen.NumericsError, match="banned"):
        llm.generate("月", banned_ids=range(VOCABULARY))
    assert text + "".join(c.text for c in stream) == alone.text
    assert not llm.engine.token_engine.busy


def test_an_interrupted_step_leaves_the_model_usable(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = llm.generate("春江", temperature=0.0, max_new_tokens=20)
    stream = llm.stream("春江", temperature=0.0, max_new_tokens=20)
    text = next(stream).text
    with monkeypatch.context() as patch:
        patch.setattr(
            llm.engine.loaded.runner.network, "next_logits", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            llm.generate("月")
    assert text + "".join(c.text for c in stream) == alone.text


def test_bad_ids_do_not_stay_behind(llm: LLM) -> None:
    from cpm_gen import SamplingParams, TextOptions

    for ids in ([[1, 2], []], [[10**6]], [[1.5]]):
        with pytest.raises(cpm_gen.InputError):
            list(llm.engine.run(ids, SamplingParams(), TextOptions()))
    assert not llm.engine.token_engine.busy
    assert llm.generate("春", max_new_tokens=2).finish_reason == "length"


def test_threads_are_put_back_whatever_the_order(llm: LLM) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        a = cpm_gen.load(threads=1)
        b = cpm_gen.load(threads=1)
        a.close()
        b.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_scores_of_a_broken_network_are_an_error(tmp_path: Path) -> None:
    import torch

    folder = random_checkpoint(tmp_path)
    path = folder / "7" / "mp_rank_00_model_states.pt"
    content = torch.load(path)
    content["module"]["transformer.final_layernorm.weight"][3] = float("nan")
    torch.save(content, path)
    with cpm_gen.load(folder) as broken, pytest.raises(cpm_gen.NumericsError):
        broken.score([1, 2, 3])


def test_banned_ids_and_ngrams_never_appear(llm: LLM) -> None:
    comma = llm.tokenizer.special("，")
    c = llm.generate("话说", max_new_tokens=150, seed=1, banned_ids=[comma, 0], no_repeat_ngram=2, temperature=0.0)
    assert comma not in c.token_ids
    pairs = list(zip(c.token_ids, c.token_ids[1:], strict=False))
    assert len(pairs) == len(set(pairs))


def test_scores_are_logarithms_of_probabilities(llm: LLM) -> None:
    ids = llm.tokenizer.encode(LINE)
    scores = llm.score(ids)
    assert scores[0] is None
    assert all(s <= 0 for s in scores[1:])
    total = sum(math.exp(llm.score([*ids[:3], token])[-1]) for token in range(0, VOCABULARY, 100))
    assert 0 < total < 1
    assert llm.score([]) == []
    assert llm.score([5]) == [None]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.generate(""), cpm_gen.InputError, "empty"),
        (lambda m: m.generate(" \n "), cpm_gen.InputError, "empty"),
        (lambda m: m.generate("\r", style="plain"), cpm_gen.InputError, "empty"),
        (lambda m: m.generate("a\ud800"), cpm_gen.InputError, "character 1"),
        (lambda m: m.generate("春", temperature=float("nan")), cpm_gen.ConfigError, "temperature"),
        (lambda m: m.generate("春", warmth=1), cpm_gen.ConfigError, "warmth"),
        (lambda m: m.generate("春", window_hop=3), cpm_gen.ConfigError, "load"),
        (lambda m: m.generate("春", style="poem"), cpm_gen.ConfigError, "lyric or novel or plain"),
        (lambda m: m.generate("春", stop=[""]), cpm_gen.ConfigError, "stop"),
        (lambda m: m.generate("春", max_new_tokens=0), cpm_gen.ConfigError, "max_new_tokens"),
        (lambda m: m.generate(None), cpm_gen.InputError, "must be text"),
        (lambda m: m.generate(b"x"), cpm_gen.InputError, "must be text"),
        (lambda m: m.generate_many("春江"), cpm_gen.InputError, "list of texts"),
        (lambda m: m.generate("春", n=2), cpm_gen.ConfigError, "generate_many"),
        (lambda m: m.generate("春", banned_ids=[VOCABULARY]), cpm_gen.InputError, str(VOCABULARY)),
        (lambda m: m.score([VOCABULARY]), cpm_gen.InputError, str(VOCABULARY)),
        (lambda m: m.score([1.5]), cpm_gen.InputError, "1.5"),
    ],
)
def test_mistakes_are_named(llm: LLM, call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(llm)
    assert not llm.engine.token_engine.busy


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 7}, "7 heads"),
        ({"window_hop": 0}, "hop"),
        ({"window_hop": LIMIT + 1}, "hop"),
        ({"window_limit": POSITIONS + 1}, "limit"),
        ({"window_keep": LIMIT}, "keep"),
        ({"tensor_parallel": 7}, "possible: 1, 2"),
        ({"tensor_parallel": 0}, "possible"),
        ({"device": "toaster"}, "toaster"),
        ({"device": "cuda:99"}, "GPU"),
        ({"dtype": "int3"}, "float32 or bfloat16 or float16"),
        ({"batch": 0}, "batch"),
        ({"threads": 0}, "threads"),
        ({"hidden": 2560}, "2560"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_impossible_settings_are_refused_when_loading(options: dict, says: str) -> None:
    with pytest.raises(cpm_gen.CpmGenError, match=says):
        cpm_gen.load(**options)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "network")
    with cpm_gen.load(folder) as llm, pytest.raises(cpm_gen.TokenizerError, match="--tokenizer"):
        llm.generate("春")
    with pytest.raises(cpm_gen.TokenizerError, match="belong together"):
        cpm_gen.load(folder, tokenizer=EMBEDDED)


def test_score_needs_no_tokenizer(tmp_path: Path) -> None:
    with cpm_gen.load(random_checkpoint(tmp_path)) as llm:
        assert len(llm.score([1, 2, 3])) == 3


def test_a_closed_model_says_so() -> None:
    llm = cpm_gen.load()
    llm.close()
    llm.close()
    with pytest.raises(cpm_gen.CpmGenError, match="closed"):
        llm.generate("春")


def test_dropped_objects_are_reported(tmp_path: Path) -> None:
    import torch

    folder = random_checkpoint(tmp_path)
    path = folder / "7" / "mp_rank_00_model_states.pt"
    content = torch.load(path)
    torch.save({**content, "args": dataclasses.field}, path)
    with cpm_gen.load(folder) as llm:
        assert llm.notes == ["the checkpoint names what is not loaded, dropped unseen: dataclasses.field"]


def test_padded_rows_of_the_vocabulary_are_never_written(tmp_path: Path) -> None:
    import torch

    from cpm_gen.checkpoints.formats.megatron import save_checkpoint
    from cpm_gen.checkpoints.locate import open_checkpoint

    source = open_checkpoint(EMBEDDED)
    state = {name: tensor.shards[0].view().clone() for name, tensor in source.tensors.items()}
    words = state["word_embeddings.weight"]
    state["word_embeddings.weight"] = torch.cat([words, 4 * words[:64]])  # tempting, and without text
    save_checkpoint(tmp_path, state, degree=1, iteration=1)
    for name in ("config.json", "chinese_vocab.model"):
        shutil.copy(EMBEDDED / name, tmp_path)
    with cpm_gen.load(tmp_path) as padded:
        completion = padded.generate(LINE, max_new_tokens=30, seed=1)
    assert max(completion.token_ids) < VOCABULARY


def test_public_names_are_these() -> None:
    assert sorted(cpm_gen.__all__) == cpm_gen.__all__ or set(cpm_gen.__all__)
    for name in cpm_gen.__all__:
        assert getattr(cpm_gen, name) is not None
    assert (Path(cpm_gen.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError):
        _ = cpm_gen.nothing


def test_newlines_end_lines_of_a_lyric_prompt(llm: LLM) -> None:
    options = {"style": "lyric", "max_new_tokens": 4, "temperature": 0}
    lines = llm.generate("床前明月光\n疑是地上霜", **options)
    assert lines == dataclasses.replace(
        llm.generate("床前明月光<eod>疑是地上霜", **options), seed=lines.seed, timing=lines.timing
    )
    with cpm_gen.load(lyric_lines="eod") as original:
        assert original.encode("床前明月光\n疑是地上霜", "lyric").count(original.tokenizer.eod) == 1
