"""Chapters over small vocabularies: characters are counted by text, also where one has several tokens."""

import random
from pathlib import Path

import pytest

from cpm_gen.errors import InputError
from cpm_gen.text.find_tokenizer import open_tokenizer
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt, line_end
from cpm_gen.text.stories.chapters import Chapters, Characters, Place
from cpm_gen.text.stories.story import Chapter
from tests.text.vocabularies import bert, byte_level

pytest.importorskip("tokenizers")

TEXT = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。😀鸟the moon 乡！"


@pytest.mark.parametrize("make", [bert, byte_level])
def test_characters_are_counted_as_the_text_has_them(tmp_path: Path, make):
    tokenizer = open_tokenizer(make(tmp_path / "vocabulary"))
    counted = Characters(tokenizer, tokenizer.size + 3)
    ids = tokenizer.encode("".join(c for c in TEXT if c not in tokenizer.unknown(TEXT)))
    place = Place()
    for at, token in enumerate(ids, 1):
        chars, partial = counted.add(place, token)
        place = place._replace(chars=chars, partial=partial)
        text = tokenizer.decode(ids[:at])
        assert chars == len("".join(text.split()))  # a part of a character counts as one
    assert place.partial == ()


@pytest.mark.parametrize("make", [bert, byte_level])
def test_any_allowed_tokens_end_with_the_last_chapter(tmp_path: Path, make):
    tokenizer = open_tokenizer(make(tmp_path / "vocabulary"))
    outline = (Chapter("明月", 10, 20), Chapter("故乡", 5, 5))
    rows = tokenizer.size + 3
    for seed in range(20):
        chance = random.Random(seed)
        chapters = Chapters(outline, tokenizer, "novel", Characters(tokenizer, rows))
        place, ids = chapters.begin(), []
        while not chapters.finished(place):
            allowed = chapters.allowed(place)
            ids_left = range(tokenizer.size) if allowed is None else allowed[allowed < tokenizer.size].tolist()
            token = chance.choice([i for i in ids_left if i not in chapters.forbidden(place)])
            ids.append(token)
            place = chapters.advance(place, token)
        text = tokenizer.decode(ids)
        assert text.startswith("明月")
        assert "故乡" in text


def test_tokens_that_are_not_allowed_are_refused(tmp_path: Path):
    tokenizer = open_tokenizer(byte_level(tmp_path / "vocabulary"))
    chapters = Chapters((Chapter("明月", 10, 20),), tokenizer, "novel", Characters(tokenizer, tokenizer.size))
    place = chapters.begin()
    with pytest.raises(InputError, match="is not the next one of the heading 明月"):
        chapters.advance(place, tokenizer.end)
    assert not chapters.forbidden(place)  # a heading is given as the allowed ids
    for token in tokenizer.encode("明月\n"):
        place = chapters.advance(place, token)
    assert chapters.allowed(place) is None
    assert chapters.forbidden(place) == {tokenizer.end}
    with pytest.raises(InputError, match="ends 明月 before its 10 characters"):
        chapters.advance(place, tokenizer.end)


@pytest.mark.parametrize(
    ("make", "style"),  # BERT's plain prompts have no lines
    [(bert, "novel"), (bert, "lyric"), (byte_level, "novel"), (byte_level, "lyric"), (byte_level, "plain")],
)
def test_a_heading_at_the_end_of_a_prompt_gets_its_line_end_once(tmp_path: Path, make, style):
    tokenizer = open_tokenizer(make(tmp_path / "vocabulary"))
    outline = (Chapter("明月", 10, 20), Chapter("故乡", 5, 5))
    chapters = Chapters(outline, tokenizer, style, Characters(tokenizer, tokenizer.size))
    newline = line_end(style, tokenizer)
    for prompt in ("明月", "明月\n", "明月\n\n", "明月\n举头", "明月\n举头望明月，低头思故乡。\n故乡"):
        ids = encode_prompt(style, prompt, tokenizer)
        reader = detokenizer(style, tokenizer, chapters=True)
        text = "".join([*map(reader.push, ids), reader.flush()])
        place, written = chapters.after(text).begin(), []
        while (allowed := chapters.allowed(place)) is not None and len(allowed) == 1:
            written.append(int(allowed[0]))
            place = chapters.advance(place, written[-1])
        ended = text.rstrip(" ").endswith("\n") or "举头" in text.split("\n")[-1]
        assert written == ([] if ended else newline), (prompt, text)
