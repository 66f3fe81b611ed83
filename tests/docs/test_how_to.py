"""The examples of the how-to pages fit the service."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from cpm_gen.cli.main import build_parser
from tests.docs.console import ROOT
from tests.service_process import Server

HOW_TO = ROOT / "docs" / "how-to"


def block(page: str, kind: str) -> str:
    """The only block of this kind of a page."""
    (found,) = re.findall(
        rf"^```{kind}\n(.*?)^```$", (HOW_TO / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return found


def test_the_example_of_openais_client_runs_and_is_the_same_in_chinese(server: Server) -> None:
    code = block("openai.md", "python")
    assert code == block("openai.zh-CN.md", "python")
    run = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8000", server.url)],
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(run.stdout) > 60


@pytest.fixture
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(block("kubernetes.md", "yaml")))


def test_the_manifests_are_the_same_in_chinese(manifests: list[dict[str, Any]]) -> None:
    assert manifests == list(yaml.safe_load_all(block("kubernetes.zh-CN.md", "yaml")))


def test_the_manifests_fit_each_other_and_the_service(manifests: list[dict[str, Any]], server: Server) -> None:
    deployment, claim, service = manifests
    assert [m["kind"] for m in manifests] == ["Deployment", "PersistentVolumeClaim", "Service"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert build_parser().parse_args(["serve", *container["args"]]).open_metrics
    with server.client() as client:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
