"""Candidates for a selection: written, cut, scored, ranked."""

import re
from collections.abc import Iterator

import pytest

import cpm_gen
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.runtime.rewrite import plan_rewrite, rewrite_options

TEXT = (
    "第二天一早，天还没有亮，他便起了床。推开门，院子里积了厚厚的一层雪，连井台也看不见了。他站了一会儿，"
    "回头对母亲说：“我今天要进城去。”母亲没有答话，只把一件旧棉袄递给了他。"
)
SENTENCE = "推开门，院子里积了厚厚的一层雪，连井台也看不见了。"
SAMPLING = {"style": "novel", "temperature": 0.95, "top_k": 50, "top_p": 0.95}


@pytest.fixture(scope="module")
def llm() -> Iterator[cpm_gen.LLM]:
    with cpm_gen.load(window_limit=511) as llm:  # whatever the positions of the embedded model
        yield llm


def select(part: str, text: str = TEXT) -> tuple[str, int, int]:
    start = text.index(part)
    return text, start, start + len(part)


def test_candidates_have_the_selections_length_and_end(llm: cpm_gen.LLM) -> None:
    found = llm.rewrite(*select(SENTENCE), seed=3, **SAMPLING)
    assert len(found.candidates) == 8
    assert len({c.text for c in found.candidates}) == 8
    assert TEXT[found.start : found.end] == SENTENCE
    for candidate in found.candidates:
        assert 0.7 * len(SENTENCE) - 1 <= len(candidate.text) <= 1.3 * len(SENTENCE) + 1
        assert re.search("[。！？…]$", candidate.text)
        assert llm.tokenizer.decode(candidate.token_ids) == candidate.text


def test_candidates_are_ranked_by_what_the_model_gives_the_text_after_them(llm: cpm_gen.LLM) -> None:
    found = llm.rewrite(*select(SENTENCE), n=4, seed=3, **SAMPLING)
    left, right = TEXT[: found.start], TEXT[found.end :]
    for candidate in (*found.candidates, found.selection):
        assert candidate is not None
        first = len(llm.tokenizer.encode(left))
        # the model may have written its characters in other tokens than the whole text has
        scores = llm.score([*llm.tokenizer.encode(left), *candidate.token_ids, *llm.tokenizer.encode(right)])
        after = scores[first + len(candidate.token_ids) :][: found.right_tokens]
        own = scores[first : first + len(candidate.token_ids)]
        assert candidate.right == pytest.approx(sum(after) / len(after), abs=1e-4)
        assert candidate.own == pytest.approx(sum(own) / len(own), abs=1e-4)
    totals = [c.total for c in found.candidates]
    assert totals == sorted(totals, reverse=True)


def test_the_same_seed_gives_the_same_candidates_in_any_batch_and_with_recompute(llm: cpm_gen.LLM) -> None:
    found = llm.rewrite(*select(SENTENCE), n=4, seed=5, **SAMPLING)
    assert llm.rewrite(*select(SENTENCE), n=4, seed=6, **SAMPLING).candidates != found.candidates
    for options in ({"batch": 1}, {"decoder": "recompute"}):
        with cpm_gen.load(window_limit=511, **options) as other:
            again = other.rewrite(*select(SENTENCE), n=4, seed=5, **SAMPLING)
        assert [c.token_ids for c in again.candidates] == [c.token_ids for c in found.candidates]
    drawn = llm.rewrite(*select(SENTENCE), n=2, **SAMPLING)
    assert llm.rewrite(*select(SENTENCE), n=2, seed=drawn.seed, **SAMPLING).candidates == drawn.candidates


def test_without_text_on_the_right_candidates_are_ranked_by_themselves(llm: cpm_gen.LLM) -> None:
    found = llm.rewrite(*select("母亲没有答话，只把一件旧棉袄递给了他。"), n=4, seed=1, **SAMPLING)
    assert found.right_tokens == 0
    assert all(c.right is None and c.total == c.own for c in found.candidates)
    assert [c.own for c in found.candidates] == sorted((c.own for c in found.candidates), reverse=True)


@pytest.mark.parametrize("text", [TEXT, "雪", "雪。", "a"])
def test_a_whole_text_is_rewritten_from_nothing(llm: cpm_gen.LLM, text: str) -> None:
    found = llm.rewrite(text, 0, len(text), n=2, seed=1, **SAMPLING)
    assert all(0.7 * len(text) - 1 <= len(c.text) <= 1.3 * len(text) + 1 for c in found.candidates)
    assert found.candidates or found.drawn == 8


def test_an_empty_selection_asks_for_a_sentence_to_insert(llm: cpm_gen.LLM) -> None:
    at = TEXT.index("他站了")
    found = llm.rewrite(TEXT, at, at, n=4, seed=1, **SAMPLING)
    assert found.selection is None
    assert (found.start, found.end) == (at, at)
    assert all(re.search("[。！？…]”?$", c.text) for c in found.candidates)


def test_a_line_of_a_lyric_is_rewritten_within_its_line(llm: cpm_gen.LLM) -> None:
    text = "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。\n"
    found = llm.rewrite(*select("疑是地上霜。\n", text), n=4, seed=1, **SAMPLING | {"style": "lyric"})
    assert text[found.start : found.end] == "疑是地上霜。"
    assert found.candidates
    assert all("\n" not in c.text and c.text[-1] in "。！？" for c in found.candidates)


def test_a_line_of_a_form_does_not_end_a_novels_chapter(llm: cpm_gen.LLM) -> None:
    text = "春水东流不见人，明月照我归去也。"
    options = rewrite_options({"style": "lyric", "form": "7，7。", "seed": 1, "n": 2})
    plan = plan_rewrite(llm.engine, *select("明月照我归去也。", text), *options)
    assert plan.constraint is not None
    join = plan.constraint.passage.joined
    assert join(("又听东风吹我衣",)) == "又听东风吹我衣"
    assert join(("且听下回分解罢",)) is None


def test_a_text_longer_than_the_window_on_both_sides_fits_it(llm: cpm_gen.LLM) -> None:
    text, start, end = select(SENTENCE, TEXT * 30)
    start, end = start + len(TEXT) * 15, end + len(TEXT) * 15
    found = llm.rewrite(text, start, end, n=2, seed=1, **SAMPLING)
    assert found.candidates
    assert found.right_tokens == 64
    near = text[start - 1000 : end + 500]  # what is further off is out of sight
    assert llm.rewrite(near, 1000, 1000 + end - start, n=2, seed=1, **SAMPLING).candidates == found.candidates


def test_the_kept_beginning_of_a_text_stays_in_sight() -> None:
    with cpm_gen.load(window_limit=511, window_keep=20) as llm:
        where = select(SENTENCE, TEXT * 9)
        text, at = where[0], len(TEXT) * 8
        one = llm.rewrite(text, at + where[1], at + where[2], n=2, seed=1, **SAMPLING)
        other = "林冲上山。" + text[5:]
        assert llm.rewrite(other, at + where[1], at + where[2], n=2, seed=1, **SAMPLING).candidates != one.candidates


def test_what_cannot_be_rewritten_is_one_clear_error(llm: cpm_gen.LLM) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        llm.rewrite(" \n", 0, 0)
    with pytest.raises(InputError, match="must lie in the text"):
        llm.rewrite(TEXT, 5, 1000)
    with pytest.raises(InputError, match="select at most about"):
        llm.rewrite(TEXT * 10, 0, len(TEXT) * 8)
    with pytest.raises(InputError, match="start must be a whole number"):
        llm.rewrite(TEXT, "0", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_new_tokens is not for a rewrite"):
        llm.rewrite(TEXT, 0, 5, max_new_tokens=5)
    with pytest.raises(ConfigError, match="did you mean"):
        llm.rewrite(TEXT, 0, 5, temprature=1.0)
