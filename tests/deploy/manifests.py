"""The manifests of deploy/, rendered, and the schemas that they are checked against."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "cpm-gen"
KUSTOMIZE = DEPLOY / "kustomize"
SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = ("1.29", "1.37")  # the oldest and the newest version whose schemas the manifests are checked against

Manifest = dict[str, Any]


def kustomize(folder: Path) -> list[Manifest]:
    """What ``kubectl apply --kustomize`` of a folder would send."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]) is None:
            continue
        run = subprocess.run([*command, folder], capture_output=True, text=True)
        if 'unknown field "labels"' in run.stderr:
            pytest.skip(f"this {command[0]} is older than kustomize 4.1")
        assert run.returncode == 0, run.stderr
        return [m for m in yaml.safe_load_all(run.stdout) if m]
    pytest.skip("needs kubectl or kustomize")


def helm(values: Manifest | None = None, release: str = "cpm-gen") -> list[Manifest]:
    """What ``helm install`` would send. Raises helm_python.HelmError."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=release, namespace="texts")
    return [m for path, text in rendered.items() if path.endswith(".yaml") for m in yaml.safe_load_all(text) if m]


def values(*names: str) -> Manifest:
    """The values of several files in deploy/helm/values."""
    merged: Manifest = {}
    for name in names:
        merged |= yaml.safe_load((DEPLOY / "helm" / "values" / f"{name}.yaml").read_text())
    return merged


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of a kind."""
    [found] = [m for m in manifests if m["kind"] == kind]
    return found


def mistakes(manifest: Manifest) -> list[str]:
    """What the schemas of Kubernetes, or of a custom resource, find wrong in a manifest; also each field that they do not know."""
    import kubernetes_validate

    if (SCHEMAS / f"{manifest['kind'].lower()}.json").exists():
        return list(_custom_mistakes(manifest))
    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {'.'.join(map(str, error.path))}: {error.message}")
    return found


def _custom_mistakes(manifest: Manifest) -> Iterator[str]:
    import jsonschema

    for error in jsonschema.Draft202012Validator(_custom_schema(manifest["kind"].lower())).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    for template in _pod_templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        yield from mistakes(pod)


@cache
def _custom_schema(name: str) -> Any:
    """The schema of a custom resource. Fields that it does not know are mistakes: the API server would drop them without a word."""

    def close(part: Any) -> Any:
        if isinstance(part, list):
            return [close(p) for p in part]
        if not isinstance(part, dict):
            return part
        closed = {key: close(value) for key, value in part.items()}
        if isinstance(part.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in part:
            closed.setdefault("additionalProperties", False)
        return closed

    return close(json.loads((SCHEMAS / f"{name}.json").read_text()))


def _pod_templates(part: Any) -> Iterator[Manifest]:
    if isinstance(part, dict):
        if "template" in part and "spec" in part["template"]:
            yield part["template"]
        part = list(part.values())
    if isinstance(part, list):
        for value in part:
            yield from _pod_templates(value)


def containers(manifest: Manifest) -> Iterator[Manifest]:
    """The containers of all pod templates of a manifest."""
    for template in _pod_templates(manifest):
        yield from template["spec"]["containers"]


def environment(container: Manifest) -> dict[str, str]:
    """The settings that a container gets."""
    return {v["name"]: v["value"] for v in container.get("env", []) if re.match("CPM_GEN_", v["name"])}
