"""/completion and /props: llama.cpp's interface."""

import pytest

import cpm_gen
from tests.embedded import ended, seed_of
from tests.server.test_conversations import data_lines
from tests.service_process import WINDOW, error, idle, until

PROMPT = "春江潮水连海平，"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


def complete(client, **body):
    response = client.post("/completion", json={"prompt": PROMPT, "n_predict": 12, "seed": 1} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_is_what_the_library_writes(client, llm):
    options = {"max_new_tokens": 12, "repetition_penalty": 1.1, "top_k": 40, "stop_at_eod": True}
    seed = seed_of(llm, PROMPT, ended, **options)
    expected = llm.generate(PROMPT, seed=seed, **options)
    body = {"seed": seed, "repeat_penalty": 1.1, "top_k": 40}
    answer = complete(client, **body, typical_p=1, tfs_z=1, mirostat=0, cache_prompt=True)
    assert answer["content"] == expected.text
    assert answer["tokens"] == list(expected.token_ids)
    assert (answer["stop"], answer["stop_type"], answer["truncated"]) == (True, "eos", False)
    assert answer["tokens_predicted"] == len(expected.token_ids)
    assert answer["tokens_evaluated"] == len(expected.prompt_token_ids)
    assert answer["generation_settings"]["n_predict"] == 12
    assert complete(client, **body, prompt=llm.encode(PROMPT))["content"] == expected.text


def test_a_stream_joins_to_the_whole_and_says_that_it_ended(client):
    body = {"prompt": PROMPT, "n_predict": 30, "seed": 2, "ignore_eos": True}
    whole = complete(client, **body)
    *pieces, last = data_lines(client.post("/completion", json=body | {"stream": True}).text)
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert [i for piece in pieces for i in piece["tokens"]] == whole["tokens"]
    assert not any(piece["stop"] for piece in pieces)
    assert (last["stop"], last["content"], last["stop_type"]) == (True, "", "limit")
    assert last["tokens_predicted"] == whole["tokens_predicted"] == 30


def test_without_a_length_the_text_ends_where_it_ends(client, llm):
    seed = seed_of(llm, PROMPT, ended, max_new_tokens=500, stop_at_eod=True)
    expected = llm.generate(PROMPT, max_new_tokens=500, seed=seed, stop_at_eod=True)
    assert complete(client, n_predict=-1, seed=seed)["content"] == expected.text


def test_a_stop_string_and_the_length_are_told_apart(client):
    plain = complete(client, n_predict=40, ignore_eos=True)
    assert plain["stop_type"] == "limit"
    stopped = complete(client, n_predict=40, ignore_eos=True, stop=[plain["content"][10:12]])
    assert stopped["stop_type"] == "word"
    assert stopped["content"] == plain["content"][: plain["content"].index(plain["content"][10:12])]


def test_a_prompt_longer_than_the_window_is_shown_in_part(client, llm):
    answer = complete(client, prompt=PROMPT * (WINDOW // 4))
    assert answer["truncated"]
    assert answer["content"] == llm.generate(PROMPT * (WINDOW // 4), max_new_tokens=12, seed=1, stop_at_eod=True).text


@pytest.mark.parametrize(
    "bias",
    [lambda i: {str(i): -100}, lambda i: [[i, False]], lambda i: [[str(i), -100]]],
    ids=["object", "pair", "name"],
)
def test_a_bias_is_an_object_or_pairs(client, llm, bias):
    [first] = llm.generate(PROMPT, max_new_tokens=1, seed=1).token_ids
    expected = llm.generate(PROMPT, max_new_tokens=12, seed=1, banned_ids=[first], stop_at_eod=True)
    assert complete(client, logit_bias=bias(first))["content"] == expected.text


def test_probabilities_of_tokens_are_the_models(client, llm):
    answer = complete(client, n_probs=3)
    shown = answer["completion_probabilities"]
    assert "".join(entry["token"] for entry in shown) == answer["content"]
    scores = llm.score([*llm.encode(PROMPT), *answer["tokens"]])[len(llm.encode(PROMPT)) :]
    assert [entry["logprob"] for entry in shown] == pytest.approx(scores[: len(shown)], abs=1e-3)
    pieces = data_lines(
        client.post(
            "/completion", json={"prompt": PROMPT, "n_predict": 12, "seed": 1, "n_probs": 3, "stream": True}
        ).text
    )
    assert [p for piece in pieces for p in piece.get("completion_probabilities", [])] == shown


def test_closing_the_connection_stops_the_text(server):
    body = {"prompt": PROMPT, "n_predict": 10_000, "ignore_eos": True, "stream": True}
    with server.client() as client, client.stream("POST", "/completion", json=body) as response:
        next(response.iter_raw())
    until(lambda: idle(server))


def test_props_tell_the_window(client):
    props = client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == WINDOW
    assert props["total_slots"] == 8
    assert props["model_alias"] == "cpm-embedded"
    assert client.head("/props").status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n_predict": 20_000}, "n_predict"),
        ({"n_predict": -2}, "n_predict"),
        ({"repeat_penalty": 1000}, "repeat_penalty"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"n_probs": 21}, "n_probs"),
        ({"logit_bias": [["江", 1]]}, "logit_bias"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"model": "davinci"}, "model"),
    ],
    ids=str,
)
def test_a_refusal_names_the_field_as_the_client_did(client, change, field):
    response = client.post("/completion", json={"prompt": PROMPT} | change)
    assert response.status_code == (404 if field == "model" else 422)
    assert error(response)["field"] == field
