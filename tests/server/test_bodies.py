"""Bodies of all endpoints that write: what their values may be, whatever they are called there."""

import json

import pytest

TEXT = "从前"
WRITING = {
    "/generate": {"prompt": TEXT, "max_new_tokens": 1},
    "/works": {"prompt": TEXT, "max_new_tokens": 1},
    "/v1/completions": {"prompt": TEXT, "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 1},
    "/api/v1/generate": {"prompt": TEXT, "max_length": 1},
    "/api/extra/generate/stream": {"prompt": TEXT, "max_length": 1},
    "/completion": {"prompt": TEXT, "n_predict": 1},
}


def message(response):
    """What a refusal says, in whichever shape."""
    body = response.json()
    return body["error"]["message"] if "error" in body else body["detail"]["msg"]


@pytest.mark.parametrize("path", WRITING)
@pytest.mark.parametrize("bias", [10**310, -(10**4000), 101, float("nan"), float("inf")], ids=lambda b: repr(b)[:8])
def test_a_bias_beyond_the_range_is_refused_however_long_it_is(client, path, bias):
    for given in ({"5": bias}, [[5, bias]]):
        content = json.dumps(WRITING[path] | {"logit_bias": given})
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422), response.text
        assert "logit_bias must have biases from -100 to 100" in message(response)


def post(client, path, fields):
    """The response to a body with further fields, as JSON."""
    content = json.dumps(WRITING[path])[:-1] + f", {fields}}}"
    return client.post(path, content=content, headers={"Content-Type": "application/json"})


def nested(depth: int) -> str:
    """JSON of lists in lists."""
    return "[" * depth + "5" + "]" * depth


@pytest.mark.parametrize("path", WRITING)
@pytest.mark.parametrize("depth", [65, 500, 900])
def test_a_value_that_is_nested_deeply_is_refused(client, path, depth):
    deep = nested(depth)
    for field in ("logit_bias", "stop", "top_k", "response_format", "prompt"):
        response = post(client, path, f'"{field}": {deep}')
        assert response.status_code in (400, 422), response.text
        assert f"{field} is nested too deeply" in message(response)


def test_a_value_that_is_ignored_may_be_nested(client):
    assert post(client, "/completion", f'"user": {nested(64)}').status_code == 200


def test_no_depth_of_a_value_is_a_bug(client):
    for depth in range(900, 1000):  # Python's limit of recursion is 1000, and a part of it is in use
        deep = nested(depth)
        for fields in (f'"logit_bias": [[{deep}, 1]]', f'"stop": {deep}, "stop_sequence": {deep}'):
            response = post(client, "/completion", fields)
            assert response.status_code in (400, 422), (depth, response.text)
