"""schemathesis over the whole OpenAPI document."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import Server, idle, until


@pytest.mark.slow
def test_no_request_that_can_be_made_from_the_documentation_breaks_anything(start, tmp_path):
    short = (
        "--max-text-tokens",
        "256",
        "--request-timeout",
        "60",
        "--max-work-tokens",
        "64",
    )  # followers wait for a work's end
    server: Server = start(*short, "--no-access-log")
    (tmp_path / "schemathesis.toml").write_text(  # a list with too many entries may be a body that is too large
        "[checks.negative_data_rejection]\n"
        "expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, '5xx']\n"
    )
    command = Path(sys.executable).with_name("schemathesis")
    run = subprocess.run(
        [
            command, "run", f"{server.url}/openapi.json", "--seed", "1", "--max-examples", "25", "--workers", "2",
            "--checks", "all",
            # what a schema cannot tell (limits are settings) makes some valid bodies unacceptable
            "--exclude-checks", "positive_data_acceptance",
            "--continue-on-failure", "--request-timeout", "60", "--suppress-health-check", "all",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    with server.client() as client:
        assert client.get("/health/ready").status_code == 200
        for work in client.get("/works", params={"limit": 200}).json()["works"]:
            assert client.delete(f"/works/{work['id']}").status_code == 204
    until(lambda: idle(server))
    assert "Traceback" not in server.log, server.log
