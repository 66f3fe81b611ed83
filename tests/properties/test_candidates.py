"""Candidates for each sentence with the embedded model: in forms and free text, alone, together, resumed and past the window."""

import dataclasses
from collections import deque

import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.networks.native.library import library_path
from cpm_gen.outputs import Chunk, Completion
from cpm_gen.sampling.ranking import mean_logprob
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named

SETTINGS = {"temperature": 0.95, "top_k": 50, "top_p": 0.95}
SAMPLING = SamplingParams(**SETTINGS)  # type: ignore[arg-type]
SONG = "7,7a\n3+4a\n4-6，5a\n[副歌]\n「就让风吹」4b\n5b\n[副歌] 重复"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load() as llm:
        yield llm


def run(llm: cpm_gen.LLM, request: Request, text: TextOptions) -> list[Chunk]:
    """The chunks that a request gives."""
    ready: deque[Chunk] = deque()
    streams = llm.engine.begin([request], dataclasses.replace(text, n=1), ready)
    while not streams[0].done:
        llm.engine.step()
    llm.engine.end(streams)
    return list(ready)


def ids(chunks: list[Chunk]) -> list[int]:
    return [i for chunk in chunks for i in chunk.token_ids]


def request(llm: cpm_gen.LLM, prompt: str | None = None, **options: object) -> tuple[Request, TextOptions]:
    text = TextOptions(**{"style": "lyric", "seed": 5, "candidates": 4} | options)  # type: ignore[arg-type]
    begin = llm.engine.vocabulary.start_ids() if prompt is None else llm.encode(prompt, text.style)
    [found] = llm.engine.requests([begin], SAMPLING, text, complete=True)
    return found, text


@pytest.mark.parametrize("name", ["五绝", "浣溪沙"])
def test_a_text_in_a_form_comes_by_clauses_and_has_no_fault(llm, name):
    whole, text = request(llm, form=name)
    chunks = run(llm, whole, text)
    done = chunks[-1].completion
    assert done is not None and done.finish_reason == "form"
    assert check(named(name), done.text) == []
    sentences = [s for chunk in chunks for s in chunk.sentences]
    assert [s.text for s in sentences] == [chunk.text for chunk in chunks]
    assert len(sentences) == sum(part.end != "+" for line in named(name).lines() for part in line.parts)
    for sentence in sentences:
        scores = [c.score for c in sentence.candidates]
        assert len(scores) == 4 and sentence.kept == scores.index(max(scores))


@pytest.mark.parametrize("form", ["五绝", "浣溪沙", SONG])
def test_candidates_that_cannot_win_are_not_written_to_their_ends_and_the_text_is_the_same(llm, form):
    rows = dict.fromkeys((True, False), 0)
    for seed in range(3):
        whole, text = request(llm, form=form, candidates=8, seed=seed)
        texts = []
        for complete in rows:
            before = llm.engine.scheduler.counts.decoded
            texts.append(ids(run(llm, dataclasses.replace(whole, complete=complete), text)))
            rows[complete] += llm.engine.scheduler.counts.decoded - before
        assert texts[0] == texts[1]
    assert rows[False] < rows[True]


def test_candidates_read_better_by_the_model_s_own_measure(llm):
    def nats(candidates: int) -> float:
        texts = llm.generate_many(
            [""], n=8, form="五绝", style="lyric", seed=2, candidates=candidates, rank=True, **SETTINGS
        )
        return sum(t.logprob for t in texts) / len(texts)

    assert nats(8) > nats(1) + 0.3


@pytest.mark.parametrize("form", [SONG, None])
@pytest.mark.parametrize("window", [None, Window(20, 6, keep=3), Window(24, 8, "sentence")], ids=str)
def test_a_text_resumes_at_every_sentence_and_recomputes(llm, form, window):
    whole, text = request(llm, None if form else "春江潮水连海平，", form=form, max_new_tokens=70)
    if window is not None:
        whole = dataclasses.replace(whole, window=window, ends=llm.tokenizer.boundary_ids(window.boundary))
    chunks = run(llm, whole, text)
    assert len(chunks) > 3
    assert ids(run(llm, dataclasses.replace(whole, recompute=True), text)) == ids(chunks)
    for cut in range(1, len(chunks)):
        resumed = run(llm, dataclasses.replace(whole, written=tuple(ids(chunks[:cut]))), text)
        assert [(c.text, c.token_ids, c.sentences) for c in resumed] == [
            (c.text, c.token_ids, c.sentences) for c in chunks[cut:]
        ]


def test_a_text_with_a_story_resumes_and_recomputes_past_the_window(llm):
    story = "[前提]\n武松上山打虎。\n[设定: 山, 虎]\n山上有老虎。"
    window = Window(48, 15)
    text = TextOptions(style="novel", seed=5, candidates=3, max_new_tokens=90, story=story)
    [whole] = llm.engine.requests([llm.encode("那一日，武松")], SAMPLING, text, window=window)
    chunks = run(llm, whole, text)
    assert chunks[-1].slides >= 2
    assert ids(run(llm, dataclasses.replace(whole, recompute=True), text)) == ids(chunks)
    half = ids(chunks[: len(chunks) // 2])
    assert half + ids(run(llm, dataclasses.replace(whole, written=tuple(half)), text)) == ids(chunks)


def test_texts_are_the_same_alone_and_together(llm):
    together = llm.generate_many(
        ["春", "江南"], n=3, style="lyric", seed=5, max_new_tokens=30, candidates=3, **SETTINGS
    )
    for index, prompt in enumerate(("春", "江南")):
        text = TextOptions(style="lyric", seed=5, max_new_tokens=30, candidates=3, n=3)
        alone = llm.engine.requests([llm.encode(prompt, "lyric")], SAMPLING, text)
        assert [tuple(ids(run(llm, one, text))) for one in alone] == [
            c.token_ids for c in together[3 * index : 3 * index + 3]
        ]


@pytest.mark.skipif(library_path() is None, reason="the native kernels were not built")
@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"kv_cache": "int8"}], ids=str)
def test_cached_text_equals_recomputed_text_in_every_format(options):
    with cpm_gen.load(kernels="native", window_limit=40, **options) as llm:
        whole, text = request(llm, "春江潮水连海平，", max_new_tokens=60)
        assert ids(run(llm, whole, text)) == ids(run(llm, dataclasses.replace(whole, recompute=True), text))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kernels": "native"}, id="native"),
        pytest.param({"tensor_parallel": 2}, id="degree 2", marks=pytest.mark.slow),
    ],
)
def test_candidates_are_the_same_on_every_backend_and_degree(options):
    if "kernels" in options and library_path() is None:
        pytest.skip("the native kernels were not built")
    settings = {"n": 2, "style": "lyric", "seed": 5, "candidates": 4, **SETTINGS}
    with cpm_gen.load(kernels="torch") as reference, cpm_gen.load(**options) as other:
        for form in ("七绝", SONG):
            want = reference.generate_many([""], form=form, **settings)
            assert [c.token_ids for c in other.generate_many([""], form=form, **settings)] == [
                c.token_ids for c in want
            ]


def test_a_stop_string_ends_the_text_inside_a_sentence(llm):
    whole, text = request(llm, "春江潮水连海平，", max_new_tokens=60)
    plain = run(llm, whole, text)

    def stop_in(at: int) -> str:
        """Two characters of a chunk; empty if the chunk is short or they stand before it."""
        stop = plain[at].text[2:4] if len(plain[at].token_ids) > 5 else ""
        return "" if stop in "".join(c.text for c in plain[:at]) else stop

    long = next(at for at in range(1, len(plain)) if stop_in(at))
    stop = stop_in(long)
    stopped = run(llm, whole, dataclasses.replace(text, stop=(stop,)))
    done = stopped[-1].completion
    assert done is not None and done.finish_reason == "stop"
    assert done.text == "".join(c.text for c in plain[:long]) + plain[long].text[:2]
    kept = ids(plain)[: len(done.token_ids)]
    assert list(done.token_ids) == kept == ids(stopped)
    assert stop in llm.tokenizer.decode(kept) and stop not in llm.tokenizer.decode(kept[:-1])


def ranks(texts: list[Completion]) -> list[float]:
    return [t.logprob for t in texts if t.logprob is not None]


def test_samples_come_best_first_with_rank(llm):
    options = {"n": 5, "style": "lyric", "seed": 5, "max_new_tokens": 20, **SETTINGS}
    plain = llm.generate_many(["春", "江南"], **options)
    ranked = llm.generate_many(["春", "江南"], rank=True, **options)
    assert [t.logprob for t in plain] == [None] * 10
    for at in (0, 5):
        own = ranked[at : at + 5]
        assert ranks(own) == sorted(ranks(own), reverse=True)
        assert sorted((t.index, t.text) for t in own) == sorted((t.index, t.text) for t in plain[at : at + 5])
    assert [t.index for t in ranked] != [t.index for t in plain]
    one = ranked[0]
    scores = llm.score([*one.prompt_token_ids, *one.token_ids])[len(one.prompt_token_ids) :]
    assert one.logprob == pytest.approx(mean_logprob(sum(s for s in scores if s is not None), one.text), abs=2e-3)
    with pytest.raises(ConfigError, match="rank orders whole texts"):
        llm.stream_many(["春"], rank=True)


def test_candidates_that_do_not_fit_are_refused_before_anything_is_written():
    with cpm_gen.load(batch=4) as llm:
        with pytest.raises(
            ConfigError, match="candidates must be at most 4, the batch that the model was loaded with, not 5"
        ):
            llm.generate("春", candidates=5)
        for wrong in (0, 17, "many"):
            with pytest.raises(ConfigError, match="candidates"):
                llm.generate("春", candidates=wrong)
        assert llm.generate("春", candidates=4, max_new_tokens=3).token_ids


def test_a_text_that_stops_inside_a_sentence_leaves_the_batch_and_others_write_on(llm):
    prompt, settings = (
        "春江潮水连海平，",
        {"n": 3, "seed": 5, "candidates": 2, "max_new_tokens": 60, "rank": True, **SETTINGS},
    )
    plain = {c.index: c for c in llm.generate_many([prompt], **settings)}
    first = plain[0].text
    stop = next(
        first[at : at + 2] for at in range(4, 40) if all(first[at : at + 2] not in plain[i].text for i in (1, 2))
    )
    stopped = {c.index: c for c in llm.generate_many([prompt], stop=[stop], **settings)}
    assert stopped[0].text == first[: first.index(stop)]
    assert [stopped[i].token_ids for i in (1, 2)] == [plain[i].token_ids for i in (1, 2)]
    ids = stopped[0].token_ids
    scores = llm.score([*llm.encode(prompt), *ids])[-len(ids) :]
    assert stopped[0].logprob == pytest.approx(
        mean_logprob(sum(s or 0.0 for s in scores), first[: first.index(stop)] + stop), abs=2e-3
    )
