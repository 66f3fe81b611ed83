"""``GET /settings`` says what ``/generate`` takes."""

import httpx
import pytest

from cpm_gen.config.fields import declared
from cpm_gen.config.options import SamplingParams, TextOptions
from tests.service_process import Server, error


@pytest.fixture
def settings(client: httpx.Client) -> dict[str, dict[str, object]]:
    return {s["name"]: s for s in client.get("/settings").json()["settings"]}


def test_each_setting_of_a_generation_is_there_as_declared(settings) -> None:
    window = {"window.hop", "window.boundary", "window.keep"}
    assert set(settings) == {*declared(SamplingParams), *declared(TextOptions), *window}
    assert settings["top_p"] == {
        "name": "top_p",
        "type": "number",
        "default": 0.0,
        "min": 0,
        "max": 1,
        "choices": None,
        "help": declared(SamplingParams)["top_p"].description,
    }
    assert settings["style"]["choices"] == ["lyric", "novel", "plain"]
    assert settings["window.boundary"]["choices"] == ["token", "sentence", "eod"]
    assert (settings["window.hop"]["default"], settings["window.hop"]["min"]) == (None, 1)
    assert (settings["stop"]["type"], settings["stop"]["default"]) == ("array", [])
    assert settings["seed"]["max"] == 2**53 - 1
    assert settings["stop_at_eod"]["type"] == "boolean"


def test_bounds_are_those_that_a_request_meets(client, settings) -> None:
    for name, setting in settings.items():
        for bound, beyond in ((setting["min"], -1), (setting["max"], 1)):
            if bound is None:
                continue
            first, _, second = name.partition(".")
            body = {first: {second: bound + beyond} if second else bound + beyond}
            response = client.post("/generate", json={"prompt": "从前", "max_new_tokens": 1} | body)
            assert response.status_code == 422
            assert error(response)["field"] == name
            assert error(response)["message"].startswith(f"{name} must be at ")


def test_presets_are_the_shipped_files_and_can_be_sent(client) -> None:
    presets = client.get("/settings").json()["presets"]
    assert presets["lyric"] == {
        "style": "lyric",
        "window.boundary": "eod",
        "temperature": 0.95,
        "top_k": 50,
        "top_p": 0.95,
        "max_new_tokens": 200,
    }
    assert presets["novel"]["window.boundary"] == "sentence"


def test_it_needs_no_key(start) -> None:
    server: Server = start(environment={"CPM_GEN_API_KEYS": "me:a-key-of-twenty-characters-and-more"})
    with server.client() as client:
        assert client.get("/settings").status_code == 200
