"""Texts in a form: no violation, the same alone, together, resumed and recomputed, also past the window."""

import dataclasses
from collections import deque

import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.networks.native.library import library_path
from cpm_gen.text.forms.named import named
from cpm_gen.text.forms.notation import parse

SAMPLING = SamplingParams(temperature=0.95, top_k=50, top_p=0.95)
SONG = "7,7a\n3+4a\n4-6，5a\n[副歌]\n「就让风吹」4b\n5b\n[副歌] 重复"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load() as llm:
        yield llm


def requests(llm: cpm_gen.LLM, form: str, **options: object) -> tuple[list[Request], TextOptions]:
    text = TextOptions(style="lyric", form=form, seed=5, **options)  # type: ignore[arg-type]
    return llm.engine.requests([llm.engine.vocabulary.start_ids()], SAMPLING, text), text


def run(llm: cpm_gen.LLM, request: Request, text: TextOptions) -> tuple[list[int], str | None]:
    """The ids that a request writes, and why it ended."""
    ready: deque[cpm_gen.Chunk] = deque()
    streams = llm.engine.begin([request], dataclasses.replace(text, n=1), ready)
    while not streams[0].done:
        llm.engine.step()
    llm.engine.end(streams)
    return [i for chunk in ready for i in chunk.token_ids], ready[-1].finish_reason


@pytest.mark.parametrize(
    ("name", "book"),
    [
        ("七绝", "平水韵"),
        ("五律 平起", "平水韵"),
        ("七绝 平起入韵", "中华通韵"),
        ("五绝", "十三辙"),
        ("浣溪沙", "中华通韵"),
    ],
)
def test_a_text_in_a_form_has_no_violation(llm, name, book):
    verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
    form = dataclasses.replace(named(name), book=book)
    written = llm.generate_many(
        [""], n=8, form=name, rhyme_book=book, style="lyric", seed=1, top_k=50, temperature=0.95
    )
    assert len({c.text for c in written}) == 8
    for completion in written:
        assert completion.finish_reason == "form"
        assert verse.violations(form, completion.text) == []


@pytest.mark.parametrize("form", ["七绝", "浣溪沙", SONG])
def test_texts_are_the_same_alone_and_together(llm, form):
    several, text = requests(llm, form, n=8)
    together = [
        c.token_ids for c in llm.generate_many([""], form=form, style="lyric", seed=5, n=8, **vars_of(SAMPLING))
    ]
    assert together == [tuple(run(llm, request, text)[0]) for request in several]


def vars_of(sampling: SamplingParams) -> dict[str, float]:
    return {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}


@pytest.mark.parametrize("form", ["七绝", SONG])
def test_a_text_resumes_after_every_token(llm, form):
    [request], text = requests(llm, form)
    whole, reason = run(llm, request, text)
    assert reason == "form"
    for cut in range(1, len(whole)):
        assert run(llm, dataclasses.replace(request, written=tuple(whole[:cut])), text) == (whole[cut:], "form")
    with pytest.raises(InputError, match="complete"):
        run(llm, dataclasses.replace(request, written=tuple(whole)), text)


@pytest.mark.parametrize("window", [Window(16, 5), Window(24, 8, "sentence"), Window(20, 6, keep=3)], ids=str)
def test_a_form_goes_on_past_the_window_and_recomputes(llm, window):
    [request], text = requests(llm, SONG)
    request = dataclasses.replace(request, window=window, ends=llm.tokenizer.boundary_ids(window.boundary))
    whole = run(llm, request, text)
    assert len(whole[0]) > 2 * window.limit
    assert run(llm, dataclasses.replace(request, recompute=True), text) == whole
    assert run(llm, dataclasses.replace(request, written=tuple(whole[0][:31])), text) == (whole[0][31:], "form")
    assert parse(SONG)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kernels": "native"}, id="native", marks=pytest.mark.slow),
        pytest.param({"tensor_parallel": 2}, id="degree 2", marks=pytest.mark.slow),
    ],
)
def test_a_text_in_a_form_is_the_same_on_every_backend_and_degree(options):
    if "kernels" in options and library_path() is None:
        pytest.skip("the native kernels were not built")
    settings = {"n": 3, "style": "lyric", "seed": 5, **vars_of(SAMPLING)}
    with cpm_gen.load(kernels="torch") as reference, cpm_gen.load(**options) as other:
        for form in ("七绝", SONG):
            want = reference.generate_many([""], form=form, **settings)
            found = other.generate_many([""], form=form, **settings)
            assert [c.token_ids for c in found] == [c.token_ids for c in want]


def test_a_form_follows_a_prompt_and_holds_under_penalties_and_bans(llm):
    verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
    greedy = llm.generate("春风", form="五绝", style="lyric", temperature=0, no_repeat_ngram=1, repetition_penalty=1.5)
    assert greedy.finish_reason == "form"
    assert verse.violations(named("五绝"), greedy.text) == []


def test_a_form_that_is_wrong_is_refused_before_anything_is_written(llm):
    with pytest.raises(InputError, match="did you mean 五绝"):
        llm.generate(form="五觉", style="lyric")
    with pytest.raises(ConfigError, match="leave stop out"):
        llm.generate(form="五绝", style="lyric", stop=["。"])
    with pytest.raises(ConfigError, match="acrostic belongs to a form"):
        llm.generate("春风", acrostic="春江", style="lyric")


def test_a_form_is_given_as_a_value_as_well_as_by_its_name(llm):
    text, form = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。", cpm_gen.Form.named("五绝")
    settings = {"style": "lyric", "seed": 1, "top_k": 50}
    want = llm.generate(form="五绝", **settings)
    assert llm.generate(form=form, **settings).token_ids == want.token_ids
    assert "".join(chunk.text for chunk in llm.stream(form=form, **settings)) == want.text
    assert [c.token_ids for c in llm.generate_many([""], form=form, **settings)] == [want.token_ids]
    again = llm.rewrite(text, 0, 12, form=form, **VERSE)
    assert again.candidates == llm.rewrite(text, 0, 12, form="五绝", **VERSE).candidates
    assert llm.rhymes(text, 2, form=form).words == llm.rhymes(text, 2, form="五绝").words
    song = llm.generate(form=cpm_gen.Form.parse(SONG), **settings)
    assert song.token_ids == llm.generate(form=SONG, **settings).token_ids


VERSE = {"style": "lyric", "seed": 2, "n": 8, "temperature": 0.95, "top_k": 50, "top_p": 0.95}


@pytest.mark.parametrize(("name", "book"), [("七律", "平水韵"), ("浣溪沙", "中华通韵"), ("五绝", "十三辙")])
def test_lines_written_again_and_rhyme_words_have_no_violation(llm, name, book):
    verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
    form = dataclasses.replace(named(name), book=book)
    settings = {"form": name, "rhyme_book": book}
    text = llm.generate(style="lyric", seed=1, top_k=50, temperature=0.95, **settings).text
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        first = sum(len(earlier) + 1 for earlier in lines[: number - 1])
        found = llm.rewrite(text, first, first + len(line), **VERSE, **settings)
        assert len(found.candidates) == 8
        assert text[found.start : found.end] == line[:-1]  # without its sign
        for candidate in found.candidates:
            assert verse.violations(form, text[: found.start] + candidate.text + text[found.end :]) == []
        words = llm.rhymes(text, number, n=50, **settings).words
        assert line[-2] in {word.text for word in words}
        end = first + len(line) - 2
        assert all(verse.violations(form, text[:end] + w.text + text[end + 1 :]) == [] for w in words)


def test_half_a_line_and_two_lines_are_written_again(llm):
    verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
    text = llm.generate(form="七绝", style="lyric", seed=1, top_k=50, temperature=0.95).text
    for start, end in ((0, 7), (8, 15), (2, 4), (8, 24), (0, len(text))):
        found = llm.rewrite(text, start, end, form="七绝", **VERSE)
        assert (found.start, found.end) == (start, end) or end == len(text)
        for candidate in found.candidates:
            assert verse.violations(named("七绝"), text[:start] + candidate.text + text[found.end :]) == []


def test_a_rewrite_in_a_form_is_ranked_and_the_same_in_any_batch(llm):
    text = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
    found = llm.rewrite(text, 0, 12, form="五绝", **VERSE)
    totals = [c.total for c in found.candidates]
    assert totals == sorted(totals, reverse=True)
    ids = [*llm.engine.vocabulary.start_ids(), *found.candidates[0].token_ids]
    own = llm.score(ids)[1:]
    assert found.candidates[0].own == pytest.approx(sum(own) / len(own), abs=1e-4)
    for options in ({"batch": 1}, {"decoder": "recompute"}):
        with cpm_gen.load(**options) as other:
            again = other.rewrite(text, 0, 12, form="五绝", **VERSE)
        assert [c.token_ids for c in again.candidates] == [c.token_ids for c in found.candidates]


def test_rhyme_words_have_the_models_probability(llm):
    text = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
    found = llm.rhymes(text, 2, form="五绝")
    assert len(found.words) == 20
    assert found.groups == ("尤",)
    assert [w.logprob for w in found.words] == sorted((w.logprob for w in found.words), reverse=True)
    before = [*llm.tokenizer.encode("白日依山尽，黄河入海流。"), llm.tokenizer.line_end]
    before += llm.tokenizer.encode("欲穷千里目，更上一层")
    for word in found.words[:5]:
        token = next(i for i in range(llm.tokenizer.size) if llm.tokenizer.surface(i) == word.text)
        assert llm.score([*before, token])[-1] == pytest.approx(word.logprob, abs=1e-4)
    assert llm.rhymes(text, 2, form="五绝", prompt="登高").words != found.words


def test_what_a_form_leaves_no_choice_for_is_one_clear_error(llm):
    text = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
    with pytest.raises(InputError, match="holds no character of a line"):
        llm.rewrite(text, 5, 5, form="五绝")
    with pytest.raises(ConfigError, match="acrostic belongs to a form"):
        llm.rewrite(text, 0, 5, acrostic="春")
    with pytest.raises(InputError, match="line 3 is no line of the form"):
        llm.rhymes(text, 3, form="五绝")
    with pytest.raises(InputError, match="rhyme words belong to a form"):
        llm.rhymes(text, 1)
    with pytest.raises(ConfigError, match="temperature is not for rhyme words"):
        llm.rhymes(text, 1, form="五绝", temperature=1.0)
    with pytest.raises(InputError, match="n must be at least 1"):
        llm.rhymes(text, 1, form="五绝", n=0)


def test_lines_that_are_kept_stay_and_the_others_have_no_violation(llm):
    verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
    settings = {"style": "lyric", "top_k": 50, "temperature": 0.95}
    lines = llm.generate(form="七律", seed=1, **settings).text.split("\n")
    for stay in ({1, 2, 3}, {1, 3}, {0, 1, 2}, {1}):
        kept = [line if at in stay else None for at, line in enumerate(lines)]
        for written in llm.generate_many([""], n=4, form="七律", seed=2, keep_lines=kept, **settings):
            assert written.finish_reason == "form"
            assert verse.violations(named("七律"), written.text) == []
            found = written.text.split("\n")
            assert [found[at] for at in sorted(stay)] == [lines[at] for at in sorted(stay)]
