"""Texts without a prompt over HTTP: asked for by a field, and never by a prompt that is missing by accident."""

import pytest

import cpm_gen
from tests.service_process import WINDOW, error, until

FREE = {"unconditional": True, "max_new_tokens": 12, "seed": 4}


@pytest.fixture(scope="module")
def expected() -> cpm_gen.Completion:
    with cpm_gen.load(window_limit=WINDOW) as llm:
        return llm.generate(**FREE)


def test_generate_writes_what_the_library_writes(client, expected) -> None:
    answer = client.post("/generate", json=FREE).json()
    assert answer["choices"][0]["token_ids"] == list(expected.token_ids)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["usage"]["prompt_tokens"] == 1


def test_completions_write_the_same(client, expected) -> None:
    body = {"unconditional": True, "max_tokens": 12, "seed": 4, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == expected.text


def test_a_work_is_written_from_nothing(client, expected) -> None:
    work = client.post("/works", json=FREE).json()
    assert (work["prompt"], work["parameters"]["unconditional"]) == ("", True)
    done = until(lambda: found if (found := client.get(f"/works/{work['id']}").json())["state"] == "finished" else None)
    assert done["choices"][0]["text"] == expected.text
    assert client.delete(f"/works/{work['id']}").status_code == 204


@pytest.mark.parametrize("path", ["/generate", "/works"])
def test_neither_and_both_are_refused(client, path: str) -> None:
    for body, says in (
        ({}, "prompt is missing"),
        ({"prompt": None}, "prompt is missing"),
        ({"unconditional": False}, "prompt is missing"),
        ({"prompt": "从前", "unconditional": True}, "leave one of them out"),
        ({"prompt": "", "unconditional": True}, "leave one of them out"),
        ({"prompt": ""}, "empty"),
    ):
        response = client.post(path, json=body | {"max_new_tokens": 1})
        assert response.status_code == 422, body
        assert error(response)["field"] == "prompt"
        assert says in error(response)["message"]


def test_completions_refuse_neither_and_both(client) -> None:
    for body in ({}, {"prompt": "从前", "unconditional": True}):
        response = client.post("/v1/completions", json=body | {"max_tokens": 1})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "prompt"
    chat = {"messages": [{"role": "user", "content": "从前"}], "unconditional": True, "max_tokens": 1}
    assert client.post("/v1/chat/completions", json=chat).status_code == 400
