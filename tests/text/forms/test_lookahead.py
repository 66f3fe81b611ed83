"""The lookahead of forms, beside a sum over every way to complete a line; and the tables of bigrams it reads."""

import lzma
import math
from pathlib import Path

import numpy as np
import pytest

from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.errors import InputError
from cpm_gen.sampling.constraints import state_after
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.find_tokenizer import open_tokenizer
from cpm_gen.text.forms import bigrams
from cpm_gen.text.forms.bigrams import Bigrams, PairCounter
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.named import named
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.tokenizer import TextTokenizer
from tests.embedded import VOCABULARY
from tests.text.vocabularies import SPECIALS, bert

PIECES = [*SPECIALS, *"床明月光霜乡望头眠晓鸟少，。", "明月", "故乡", "举头望"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    pytest.importorskip("tokenizers")
    return open_tokenizer(bert(tmp_path / "model", pieces=PIECES))


def random_bigrams(size: int) -> Bigrams:
    """A table with a third of all pairs."""
    draw, counter = np.random.default_rng(3), PairCounter(size)
    counter.add(draw.integers(size, size=size**2), draw.integers(size, size=size**2), 1.0)
    return counter.bigrams(least=1.0)


def completions(masks: FormMasks, table: list[list[float]], tokens: list[int]) -> float:
    """The probability of every way to go on from the last token to the next sign, added up one by one."""
    state = state_after(masks, tokens)
    total = 0.0
    for token in map(int, masks.allowed(state)):
        chance = table[tokens[-1]][token]
        after = masks.advance(state, token)
        done = after.end >= 0 or masks.finished(after) or after.segment > state.segment
        if done and after.end >= 0:  # the characters are complete, and the sign follows
            chance *= sum(table[token][int(sign)] for sign in masks.allowed(after))
        total += chance if state.end >= 0 or done else chance * completions(masks, table, [*tokens, token])
    return total


@pytest.mark.parametrize(
    "form", ["4，2", "2，1", "1，2", "仄平平，1", "1-3，2", "读音: 宽\n韵: 通韵, a=昂\n3a，2a", "2「月」2，1"]
)
def test_the_bias_is_the_probability_of_every_completion(tokenizer, form):
    table = random_bigrams(len(PIECES))
    masks = FormMasks(parse(form + "\n读音: 宽" * ("读音" not in form)), Lexicon(tokenizer, True, len(PIECES)), table)
    rows = np.stack([table.expected(one) for one in np.eye(len(PIECES))], axis=1).tolist()
    state = masks.begin()
    ids = masks.allowed(state)
    wanted = []
    slots = parse(form).sections[0].lines[0].parts[0].most
    strength = {1: 1.0, 2: 1.5}.get(slots, 2.0)  # weaker near the end
    for token in map(int, ids):
        after = masks.advance(state, token)
        signs = map(int, masks.allowed(after)) if after.end >= 0 else ()
        chance = sum(rows[token][i] for i in signs) if after.end >= 0 else completions(masks, rows, [token])
        wanted.append(strength * math.log(chance) if chance else -math.inf)
    found = masks.bias(state, ids)
    assert len(ids) > 3
    assert found is not None and found.max() == 0
    assert found == pytest.approx(np.maximum(np.array(wanted) - max(wanted), -32), abs=1e-3)


def test_separators_have_no_bias_and_characters_have_one_without_a_table(tokenizer):
    masks = FormMasks(parse("2，2"), Lexicon(tokenizer, True, len(PIECES)))
    two = tokenizer.encode("明月")
    assert masks.bias(masks.begin(), masks.allowed(masks.begin())) is not None
    state = state_after(masks, two)
    assert masks.bias(state, masks.allowed(state)) is None


@pytest.mark.slow
def test_a_long_line_of_given_characters_does_not_underflow():
    tokenizer = Tokenizer(model_folder(None))
    table = bigrams.load(model_folder(None) / bigrams.FILE, tokenizer, tokenizer.size)
    masks = FormMasks(
        parse("2「春江花月夜明月江水相思黄昏风雨山中何处秋风」12，1"), Lexicon(tokenizer, True, tokenizer.size), table
    )
    bias = masks.bias(masks.begin(), masks.allowed(masks.begin()))
    assert bias is not None
    assert -32 < np.median(bias) < 0


def test_equal_states_have_equal_bias_whatever_was_written_before():
    tokenizer = Tokenizer(model_folder(None))
    table = bigrams.load(model_folder(None) / bigrams.FILE, tokenizer, tokenizer.size)
    lexicon = Lexicon(tokenizer, True, tokenizer.size)
    used = FormMasks(named("七绝"), lexicon, table)
    tokens: list[int] = []
    state = used.begin()
    while not used.finished(state):
        ids = used.allowed(state)
        bias = used.bias(state, ids)
        fresh = FormMasks(named("七绝"), lexicon, table)
        again = fresh.bias(state_after(fresh, tokens), ids)
        assert (bias is None) == (again is None)
        if bias is not None and again is not None:
            assert bias.tobytes() == again.tobytes()
            tokens.append(int(ids[bias.argmax()]))
        else:
            tokens.append(int(ids[0]))
        state = used.advance(state, tokens[-1])


def test_a_table_is_the_same_after_it_was_stored(tmp_path, tokenizer):
    counter = PairCounter(tokenizer.size)
    for text in ("床前明月光，疑是地上霜。", "举头望明月，低头思故乡。") * 3:
        counter.add_text(tokenizer.encode(text))
    table = counter.bigrams()
    size = bigrams.save(table, tmp_path / "table.xz", tokenizer, counter.tokens)
    again = bigrams.load(
        tmp_path / "table.xz", tokenizer, tokenizer.size + 3
    )  # a network with rows that pad the vocabulary
    assert size == (tmp_path / "table.xz").stat().st_size
    weights = np.random.default_rng(1).random(tokenizer.size)
    found = again.expected(np.concatenate([weights, np.zeros(3)]))
    assert (found[:-3] == pytest.approx(table.expected(weights), rel=1e-12)) and found.min() >= 0
    assert table.expected(np.ones(tokenizer.size)) == pytest.approx(1.0, abs=0.02)  # stored in steps of 1/16 nat


def test_a_table_that_does_not_belong_to_the_vocabulary_is_refused_by_name(tmp_path, tokenizer):
    shipped = model_folder(None) / bigrams.FILE
    with pytest.raises(
        InputError,
        match=rf"form_bigrams.xz: bigrams of another vocabulary \(CPM, {VOCABULARY} tokens\) than .*cpm-gen form learn",
    ):
        bigrams.load(shipped, tokenizer, tokenizer.size)
    content = lzma.decompress(shipped.read_bytes())
    own = Tokenizer(model_folder(None))
    for name, changed, message in [
        ("text.xz", b"a text", "not a table of bigrams"),
        ("cut.xz", lzma.compress(content[:-1]), "is damaged"),
        (
            "new.xz",
            lzma.compress(content.replace(b'"version": 1', b'"version": 2')),
            "version 2 of the table is not known",
        ),
        ("empty.xz", b"", "not a table of bigrams"),
        ("nothing.xz", lzma.compress(b"{}\n"), "not a table of bigrams"),
    ]:
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            bigrams.load(tmp_path / name, own, own.size)
    with pytest.raises(InputError, match=r"nowhere\.xz: No such file"):
        bigrams.load(tmp_path / "nowhere.xz", own, own.size)
