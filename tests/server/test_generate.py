"""POST /generate over HTTP against the library in this process."""

import itertools

import pytest

import cpm_gen
from tests.service_process import WINDOW, error, idle, stream, until

PROMPT = "春江潮水连海平，"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


def post(client, **body):
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_is_what_the_library_writes(client, llm):
    expected = llm.generate(PROMPT, style="lyric", max_new_tokens=40, seed=7, temperature=0.8, top_k=30)
    answer = post(client, prompt=PROMPT, style="lyric", max_new_tokens=40, seed=7, temperature=0.8, top_k=30)
    [choice] = answer["choices"]
    assert choice == {
        "index": 0,
        "text": expected.text,
        "token_ids": list(expected.token_ids),
        "finish_reason": "length",
        "window_slides": 0,
    }
    prompt = len(expected.prompt_token_ids)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 40, "total_tokens": prompt + 40}
    assert answer["model"] == "cpm-embedded"
    timing = answer["timing"]
    assert 0 <= timing["queued"] <= timing["first_token"] <= timing["total"]
    assert timing["tokens_per_second"] > 1


def test_prompts_and_samples_are_counted_through(client, llm):
    expected = llm.generate_many([PROMPT, "从前"], n=2, max_new_tokens=15, seed=3)
    answer = post(client, prompt=[PROMPT, "从前"], n=2, max_new_tokens=15, seed=3)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in answer["choices"]] == [c.text for c in expected]
    assert answer["usage"]["completion_tokens"] == 60
    assert answer["usage"]["prompt_tokens"] == sum(len(c.prompt_token_ids) for c in expected[::2])


def test_a_stream_joins_to_the_whole(client):
    body = {"prompt": PROMPT, "style": "lyric", "max_new_tokens": 60, "seed": 2, "n": 3, "stop": ["。\n"]}
    whole = post(client, **body)
    happened = stream(client, **body)
    *pieces, (last, done) = happened
    assert last == "done"
    assert {name for name, _ in pieces} == {"token"}
    for choice in whole["choices"]:
        mine = [data for _, data in pieces if data["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert [i for piece in mine for i in piece["token_ids"]] == choice["token_ids"]
        assert [piece["finish_reason"] for piece in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        summary = {k: choice[k] for k in ("index", "finish_reason", "window_slides")}
        assert done["choices"][choice["index"]] == summary
    assert done["usage"] == whole["usage"]
    assert done["seed"] == 2
    assert {c["finish_reason"] for c in whole["choices"]} >= {"stop"}


def test_a_stream_is_raw_utf_8(client):
    body = {"prompt": PROMPT, "max_new_tokens": 5, "seed": 2, "stream": True}
    response = client.post("/generate", json=body)
    assert "\\u" not in response.text
    assert any("\u4e00" <= c <= "\u9fff" for c in response.text)


def test_a_drawn_seed_is_reported_and_repeats_the_text(client):
    first = post(client, prompt=PROMPT, max_new_tokens=20)
    assert 0 <= first["seed"] < 2**53
    assert post(client, prompt=PROMPT, max_new_tokens=20, seed=first["seed"])["choices"] == first["choices"]
    assert post(client, prompt=PROMPT, max_new_tokens=20)["seed"] != first["seed"]


@pytest.mark.slow
def test_a_window_of_ones_own_moves_and_tells_where_to(client, llm):
    window = {"hop": 100, "boundary": "sentence", "keep": 8}
    body = {"prompt": PROMPT, "style": "lyric", "max_new_tokens": 700, "seed": 4, "window": window}
    happened = stream(client, **body)
    moves = [data for name, data in happened if name == "window"]
    with cpm_gen.load(window_limit=WINDOW, window_hop=100, window_boundary="sentence", window_keep=8) as other:
        chunks = list(other.stream(PROMPT, style="lyric", max_new_tokens=700, seed=4))
    text = "".join(chunk.text for chunk in chunks)
    assert "".join(data["text"] for name, data in happened if name == "token") == text
    expected = [b for a, b in itertools.pairwise(chunks) if a.window_start != b.window_start]
    assert [(m["start"], m["slides"], m["text_start"]) for m in moves] == [
        (c.window_start, c.slides, c.text_start) for c in expected
    ]
    assert len(moves) >= 2
    # the network sees what follows this character: a sentence begins there
    unseen = chunks[-1].completion.prompt_token_ids
    tokens = [*unseen, *chunks[-1].completion.token_ids]
    shown = llm.tokenizer.decode(tokens[moves[-1]["start"] :]).replace("<eod>", "\n")
    assert text[moves[-1]["text_start"] :] == shown


def test_the_recomputing_decoder_writes_the_same(client):
    body = {"prompt": PROMPT, "max_new_tokens": 25, "seed": 9}
    assert post(client, **body, decoder="recompute")["choices"] == post(client, **body, decoder="cached")["choices"]


def test_a_long_prompt_is_refused_or_cut_as_the_caller_says(client, llm):
    prompt = PROMPT * (WINDOW // 4)
    refused = client.post("/generate", json={"prompt": prompt, "max_new_tokens": 5})
    assert refused.status_code == 422
    assert error(refused)["code"] == "prompt_too_long"
    assert error(refused)["field"] == "prompt"
    refused = client.post("/generate", json={"prompt": ["a", prompt], "max_new_tokens": 5})
    assert error(refused)["field"] == "prompt.1"
    happened = stream(client, prompt=prompt, max_new_tokens=5, seed=1, truncate_prompt=True)
    assert (
        "".join(d["text"] for n, d in happened if n == "token") == llm.generate(prompt, max_new_tokens=5, seed=1).text
    )
    moves = [data for name, data in happened if name == "window"]
    assert moves[0]["start"] > 0
    assert moves[0]["text_start"] == 0


def test_when_time_is_up_what_is_there_is_the_answer(client):
    answer = post(client, prompt=PROMPT, max_new_tokens=16_000, timeout=3)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "timeout"
    assert 0 < len(choice["token_ids"]) < 16_000
    *_, (name, data) = stream(client, prompt=PROMPT, max_new_tokens=16_000, timeout=0.5)
    assert name == "done"
    assert data["choices"][0]["finish_reason"] == "timeout"


def test_a_silent_stream_is_kept_alive(single):
    endless = {"prompt": "从前", "max_new_tokens": 16_000, "stream": True}
    with single.client() as client, client.stream("POST", "/generate", json=endless) as busy:
        pieces = busy.iter_raw()
        next(pieces)
        waiting = {"prompt": "话说", "max_new_tokens": 3, "stream": True}
        with single.client() as other, other.stream("POST", "/generate", json=waiting) as waits:
            lines = waits.iter_lines()
            assert [next(lines), next(lines)] == [": keep-alive", ""]
            busy.close()
            assert "event: done" in list(lines)
    until(lambda: idle(single))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  \n"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["从前", ""]}, "prompt.1"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["从前"] * 17}, "prompt"),
        ({"prompt": "长" * 150_001}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 16_385}, "max_new_tokens"),
        ({"max_new_tokens": None}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["。"] * 17}, "stop"),
        ({"stop": ["。" * 257]}, "stop"),
        ({"stop": "。"}, "stop"),
        ({"style": "poem"}, "style"),
        ({"decoder": "fast"}, "decoder"),
        ({"window": {"hop": 0}}, "window.hop"),
        ({"window": {"hop": WINDOW + 1}}, "window.hop"),
        ({"window": {"keep": WINDOW}}, "window.keep"),
        ({"window": {"boundary": "page"}}, "window.boundary"),
        ({"window": {"size": 5}}, "window.size"),
        ({"banned_ids": [-1]}, "banned_ids.0"),
        ({"banned_ids": [30_000_000]}, "banned_ids"),
        ({"timeout": 0}, "timeout"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_by_name(client, change, field):
    response = client.post("/generate", json={"prompt": "从前", "max_new_tokens": 2} | change)
    assert response.status_code == 422, response.text
    said = error(response)
    assert said["field"] == field
    assert said["message"]
    assert "长长" not in said["message"]


def test_a_missing_prompt_is_named(client):
    assert error(client.post("/generate", json={}))["field"] == "prompt"
