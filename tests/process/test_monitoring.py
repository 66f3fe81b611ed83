"""The dashboard and the alert rules beside the image: they name metrics that the service has, and fire when they are meant to."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.service_process import error, stream

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = DOCKER / "alerts.yml"
DASHBOARD = json.loads((DOCKER / "grafana-dashboard.json").read_text())
OF_PROMETHEUS = {"up"}  # which it makes of each scrape
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}
METRIC = re.compile(r"\b(?:cpm|process)_\w+|\bup\b")


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and the expression."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


@pytest.fixture(scope="module")
def exposed(server) -> dict[str, set[str]]:
    """The names of all time series that the service exposes after some requests, each with its labels."""
    with server.client() as client:
        stream(client, prompt="春江", max_new_tokens=3)
        assert error(client.post("/generate", json={"prompt": "从前", "n": 0}))
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value[:30])
def test_every_metric_and_label_of_an_expression_exists(exposed, where, expression):
    named = set(METRIC.findall(expression))
    assert named, where
    assert named <= exposed.keys() | OF_PROMETHEUS
    labels = LABELS_OF_PROMETHEUS.union(*(exposed.get(name, set()) for name in named))
    used = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        used |= set(re.findall(r"\w+", grouping))
    assert used <= labels


def test_a_wrong_metric_would_be_found(exposed):
    assert "cpm_generated_tokens" not in exposed  # the counter's name without its ending
    assert exposed["cpm_requests_total"] == {"route", "status"}


def test_the_dashboard_shows_every_metric_of_the_service(exposed):
    shown = {name for _, expression in expressions() for name in METRIC.findall(expression)}
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed if not name.endswith("_created")}
    assert {name for name in families if name.startswith("cpm_")} == {
        re.sub("_bucket$", "", name) for name in shown if name.startswith("cpm_")
    }


def test_panels_do_not_overlap_and_legends_name_labels_that_are_left():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"] or "sum" not in target["expr"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_reads_the_rules_where_compose_mounts_them():
    configuration = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    mounts = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["prometheus"]["volumes"]
    for name in configuration["rule_files"]:
        assert (DOCKER / name).is_file()
        assert f"./{name}:/etc/prometheus/{name}:ro" in mounts


# series for 30 minutes, one value a minute: the alert that must fire after 20 of them, and no other
FIRING: dict[str, dict[str, str]] = {
    "CpmGenDown": {"up": "0x30"},
    "CpmGenNotReady": {"cpm_ready": "0x30"},
    "CpmGenStalled": {"cpm_running_sequences": "2x30", "cpm_generated_tokens_total": "500x30"},
    "CpmGenErrors": {
        'cpm_requests_total{route="/generate",status="200"}': "0+90x30",
        'cpm_requests_total{route="/generate",status="500"}': "0+10x30",
    },
    "CpmGenOverloaded": {'cpm_requests_total{route="/generate",status="429"}': "0+60x30"},
    "CpmGenSlowFirstToken": {
        'cpm_time_to_first_token_seconds_bucket{le="10"}': "0+5x30",
        'cpm_time_to_first_token_seconds_bucket{le="30"}': "0+10x30",
        'cpm_time_to_first_token_seconds_bucket{le="+Inf"}': "0+10x30",
    },
    "CpmGenSlowTokens": {
        'cpm_inter_token_seconds_bucket{le="1"}': "0+5x30",
        'cpm_inter_token_seconds_bucket{le="2.5"}': "0+10x30",
        'cpm_inter_token_seconds_bucket{le="+Inf"}': "0+10x30",
    },
    "CpmGenEngineRestarted": {"cpm_engine_restarts_total": "0x10 1x20"},
    "CpmGenOpenFiles": {"process_open_fds": "950x30", "process_max_fds": "1000x30"},
}
WELL = {
    "up": "1x30",
    "cpm_ready": "1x30",
    "cpm_running_sequences": "2x30",
    "cpm_generated_tokens_total": "0+1000x30",
    'cpm_requests_total{route="/generate",status="200"}': "0+100x30",
    "cpm_engine_restarts_total": "0x30",
    "process_open_fds": "100x30",
    "process_max_fds": "1000x30",
}


def test_every_alert_has_a_case():
    assert {where for where, _ in expressions() if where.startswith("CpmGen")} == FIRING.keys()


@pytest.mark.parametrize("alert", [*FIRING, None])
def test_an_alert_fires_when_it_is_meant_to(alert, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs Prometheus' promtool")
    series = WELL | (FIRING[alert] if alert else {})
    rules = {rule["alert"]: rule for g in yaml.safe_load(ALERTS.read_text())["groups"] for rule in g["rules"]}
    test: dict[str, Any] = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": _of_the_job(name), "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": "20m",
                        "exp_samples": [{"labels": "{}", "value": 1}] if name == alert else [],
                    }
                    for name in rules
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))
    run = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _of_the_job(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{job="cpm-gen",instance="a:8000"{"," + labels if labels else ""}}}'


def test_promtool_accepts_rules_and_configuration(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs Prometheus' promtool")
    for name in ("alerts.yml", "prometheus.yml"):
        shutil.copy(DOCKER / name, tmp_path)
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]):
        run = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs Prometheus' promtool")
    rules = [
        {"record": f"panel_{number}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for number, target in enumerate(target for panel in DASHBOARD["panels"] for target in panel["targets"])
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
