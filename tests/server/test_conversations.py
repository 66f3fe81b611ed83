"""What other programs sent when they connected, wrote and stopped (recorded from the programs), and that they can read the answers."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("conversations")
CONVERSATIONS = {
    f"{file.stem}: {name}": requests
    for file in sorted(FOLDER.glob("*.json"))
    for name, requests in json.loads(file.read_text())["conversations"].items()
}


def lites_events(text):
    """The stream as KoboldAI Lite and SillyTavern read it: an event's name, then its data."""
    return [json.loads(data) for name, data in re.findall(r"^event: (.*)\ndata: (.*)\r?\n\r?\n", text, re.MULTILINE)]


def data_lines(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def written(path, streams, response):
    """The text as the clients take it out of the answer."""
    if path == "/api/extra/generate/stream":
        return "".join(event["token"] for event in lites_events(response.text))
    if path == "/api/v1/generate":
        return response.json()["results"][0]["text"]
    if path == "/completion":
        return "".join(e["content"] for e in data_lines(response.text)) if streams else response.json()["content"]
    if streams:
        choices = [choice for event in data_lines(response.text) for choice in event["choices"]]
        return "".join(c["delta"]["content"] if "delta" in c else c["text"] for c in choices)
    choice = response.json()["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_recorded_conversation_is_answered(client, name):
    for request in CONVERSATIONS[name]:
        body = request.get("body")
        if body is not None and "prompt" in body and "tokencount" not in request["path"]:
            body = body | {"seed": 3}
        response = client.request(request["method"], request["path"], json=body)
        assert response.status_code == request.get("status", 200), (request, response.text)
        if request["path"].endswith(("generate", "stream", "completion", "completions")):
            assert written(request["path"], (body or {}).get("stream"), response), (request, response.text)
