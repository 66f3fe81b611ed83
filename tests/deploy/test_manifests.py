"""The manifests of deploy/: they fit Kubernetes' schemas, the chart and kustomize make the same ones, and the service's settings fit."""

import copy
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import cpm_gen
from cpm_gen.config.resolve import resolve
from cpm_gen.server import main
from tests.deploy.manifests import (
    CHART,
    DEPLOY,
    KUSTOMIZE,
    ROOT,
    Manifest,
    containers,
    environment,
    helm,
    kustomize,
    mistakes,
    of_kind,
    values,
)

pytestmark = pytest.mark.deploy

ALERTS = yaml.safe_load((ROOT / "docker" / "alerts.yml").read_text(encoding="utf-8"))
COMPONENTS = ("monitoring", "network-policy")
# folders of resources, components besides COMPONENTS, and files of the chart's values that say the same
COMBINATIONS = {
    "base": ("base", (), ()),
    **{name: (f"overlays/{name}", (), (name,)) for name in ("cpu", "gpu", "postgres")},
    **{f"{name}-postgres": ("base", ("model", name, "postgres"), (name, "postgres")) for name in ("cpu", "gpu")},
    "postgres-and-an-overlay": ("overlays/gpu", ("postgres",), ("gpu", "postgres")),
}
RAY_SERVICE = yaml.safe_load((DEPLOY / "kuberay" / "rayservice.yaml").read_text(encoding="utf-8"))
KEY_LINE = f"me sha256:{'0' * 64} rate=60\n"


@pytest.fixture(scope="module", params=COMBINATIONS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Manifest], list[Manifest]]:
    """What kustomize makes of a combination with COMPONENTS, and the chart of the same values."""
    resources, components, names = COMBINATIONS[request.param]
    copied = tmp_path_factory.mktemp("deploy") / "kustomize"
    shutil.copytree(KUSTOMIZE, copied)  # resources must be below a folder that they are named from
    own = copied / "own"
    own.mkdir()
    lines = {
        "resources": [f"../{resources}"],
        "components": [f"../components/{c}" for c in (*components, *COMPONENTS)],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return kustomize(own), helm(values(*names, *COMPONENTS))


def comparable(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Manifests by kind and name, without what only the chart or only kustomize can say."""
    found = {}
    for manifest in copy.deepcopy(manifests):
        for metadata in _metadata(manifest):
            for label in ("app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"):
                metadata.get("labels", {}).pop(label, None)
            metadata.pop("annotations", None)
        if manifest["kind"] == "Service":
            manifest["spec"].setdefault("type", "ClusterIP")
        for container in containers(manifest):
            container.pop("imagePullPolicy", None)
            container["image"] = container["image"].replace(f":{cpm_gen.__version__}", "")
            container["env"].sort(key=lambda variable: variable["name"])
            container["volumeMounts"].sort(key=lambda mount: mount["name"])
        if manifest["kind"] == "Deployment":
            manifest["spec"]["template"]["spec"]["volumes"].sort(key=lambda volume: volume["name"])
        found[manifest["kind"], manifest["metadata"]["name"]] = manifest
    return found


def _metadata(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, dict):
        own = [part["metadata"]] if isinstance(part.get("metadata"), dict) else []
        return own + [m for value in part.values() for m in _metadata(value)]
    return [m for value in part for m in _metadata(value)] if isinstance(part, list) else []


def test_the_chart_and_kustomize_make_the_same(made: tuple[list[Manifest], list[Manifest]]) -> None:
    by_kustomize, by_helm = map(comparable, made)
    assert by_kustomize.keys() == by_helm.keys()
    for name, manifest in by_kustomize.items():
        assert manifest == by_helm[name], name


def test_the_schemas_of_kubernetes_accept_them(made: tuple[list[Manifest], list[Manifest]]) -> None:
    kinds = {"Deployment", "Service", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"}
    for manifests in made:
        assert kinds <= {m["kind"] for m in manifests}
        for manifest in manifests:
            assert mistakes(manifest) == [], manifest["metadata"]["name"]


def test_every_part_of_the_chart_fits_the_schemas() -> None:
    everything = values("gpu", *COMPONENTS) | {
        "keys": {"lines": KEY_LINE},
        "ingress": {"enabled": True, "host": "texts.example", "className": "nginx", "tlsSecret": "tls"},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "fast"},
        "podAnnotations": {"a": "b"},
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "works": {"storageClass": "fast"},
    }
    everything["monitoring"]["labels"] = {"release": "prometheus"}
    manifests = helm(everything, release="my")
    assert {m["kind"] for m in manifests} >= {"Secret", "Ingress", "PersistentVolumeClaim"}
    for manifest in manifests:
        assert mistakes(manifest) == [], manifest
        assert manifest["metadata"]["name"].startswith("my-cpm-gen")
    assert of_kind(manifests, "Secret")["stringData"] == {"keys": KEY_LINE}


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("Deployment", "failureThreshold", "failureTreshold"),
        ("Deployment", "terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: a"),
        ("PrometheusRule", "expr:", "expression:"),
        ("ServiceMonitor", "endpoints:", "endpoint:"),
        ("RayService", "rayStartParams:", "rayStartParam:"),
        ("RayService", "readinessProbe:", "readynessProbe:"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(kind: str, right: str, wrong: str) -> None:
    manifest = RAY_SERVICE if kind == "RayService" else of_kind(helm(values("monitoring")), kind)
    text = yaml.safe_dump(manifest)
    assert right in text
    assert mistakes(yaml.safe_load(text.replace(right, wrong)))


def test_helm_finds_nothing_in_the_chart_but_a_missing_icon() -> None:
    import helm_python

    report = helm_python.lint(CHART, strict=True, kube_version="v1.29.0")
    assert report["errors"] == []
    assert [m["error"] for m in report["messages"]] == ["icon is recommended"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == cpm_gen.__version__


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"setting": {"quantize": "int8"}}, "setting"),
        ({"settings": {"port": 9000}}, "port"),
        ({"keys": {"lines": "me:SECRET"}}, "lines"),
        ({"keys": {"secret": ""}}, "keys.secret"),
        ({"replicas": 2}, "one process owns an SQLite file"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_the_chart_refuses_values_that_would_not_work(wrong: Manifest, said: str) -> None:
    import helm_python

    with pytest.raises(helm_python.HelmError, match=said):
        helm(wrong)


def test_settings_of_the_chart_are_settings_of_the_service() -> None:
    settings = {"quantize": "int8", "max_body": 2_097_152, "request_timeout": 0.5, "restart_workers": True}
    [container] = containers(of_kind(helm({"settings": settings}), "Deployment"))
    resolved = resolve(environment=environment(container))
    assert resolved.model.quantize == "int8"
    assert resolved.serve.max_body == 2_097_152
    assert resolved.serve.request_timeout == 0.5
    assert resolved.serve.restart_workers


def test_the_pods_settings_probes_and_volumes_fit_the_service(made: tuple[list[Manifest], list[Manifest]]) -> None:
    for manifests in made:
        pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        settings = resolve(environment=environment(container))
        assert settings.serve.open_metrics  # the ServiceMonitor sends no key
        mounts = {m["mountPath"] for m in container["volumeMounts"]}
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert {"/data", "/tmp"} <= mounts  # the root file system is read-only
        for variable in container["env"]:
            if found := re.match("/(run/secrets|models)(/[^/]+)?", variable["value"]):
                assert found[0] in mounts or "/models" in mounts, variable
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert ports == {"http": 8000}
        assert "CPM_GEN_PORT=8000" in (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
        for probe, path in (("startup", "ready"), ("readiness", "ready"), ("liveness", "live")):
            assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "http"}
        assert pod["terminationGracePeriodSeconds"] >= _shutdown_seconds(settings.serve.drain_timeout) + 5
        assert of_kind(manifests, "PrometheusRule")["spec"] == ALERTS
        monitor = of_kind(manifests, "ServiceMonitor")["spec"]
        service = of_kind(manifests, "Service")
        assert service["metadata"]["labels"].items() >= monitor["selector"]["matchLabels"].items()
        assert service["metadata"]["labels"][monitor["jobLabel"]] == "cpm-gen"  # job of the alerts


def _shutdown_seconds(drain_timeout: float) -> float:
    """Most seconds from SIGTERM to the end of the process, with 2 for the interpreter."""
    return max(drain_timeout, main.COMMIT_SECONDS) + main.TRACE_SECONDS + main.RESPONSE_SECONDS + main.END_SECONDS + 2


def test_the_kustomizations_of_the_page_render_and_are_the_same_in_chinese(tmp_path: Path) -> None:
    pages = [(ROOT / "docs" / "how-to" / name).read_text("utf-8") for name in ("kubernetes.md", "kubernetes.zh-CN.md")]
    blocks = [re.findall(r"^```(?:yaml|ini|bash)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for page in pages]
    for command in ("apiVersion", "helm install", "kubectl"):
        assert [b for b in blocks[0] if b.startswith(command)] == [b for b in blocks[1] if b.startswith(command)]
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    deployments = []
    for example in (block for block in blocks[0] if block.startswith("apiVersion")):
        (tmp_path / "kustomization.yaml").write_text(example)
        made = kustomize(tmp_path)
        assert [mistake for manifest in made for mistake in mistakes(manifest)] == []
        deployments.append(of_kind(made, "Deployment"))
        assert ("components/monitoring" in example) == ("PrometheusRule" in {m["kind"] for m in made})
    images = [next(containers(deployment))["image"] for deployment in deployments]
    assert images == ["REGISTRY/cpm-gen:TAG", "REGISTRY/cpm-gen:cuda"]
    settings = environment(next(containers(deployments[1])))
    assert settings.keys() >= {"CPM_GEN_MODEL", "CPM_GEN_DEVICE", "CPM_GEN_DATABASE"}
    for file in re.findall(r"--values (\S+)", pages[0]):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("seconds", [1, 30, 99.5])
def test_kubernetes_waits_for_the_drain_that_is_set(seconds: float) -> None:
    pod = of_kind(helm({"settings": {"drain_timeout": seconds}, "preStopSeconds": 7}), "Deployment")["spec"]["template"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= _shutdown_seconds(seconds) + 7


def test_the_ray_service_fits_its_schema_and_the_version_of_ray() -> None:
    assert mistakes(RAY_SERVICE) == []
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={RAY_SERVICE['spec']['rayClusterConfig']['rayVersion']}\n" in constraints


def test_the_ray_service_fits_its_schema_with_the_model_and_the_gpus_of_its_comments() -> None:
    text = (DEPLOY / "kuberay" / "rayservice.yaml").read_text(encoding="utf-8")
    manifest = yaml.safe_load(re.sub(r"^( +)# ", r"\1", text, flags=re.MULTILINE))
    assert mistakes(manifest) == []
    [application] = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    head, worker = containers(manifest)
    for container in (head, worker):  # the head reads the model's headers
        assert str(Path(application["args"]["model"]).parent) in [m["mountPath"] for m in container["volumeMounts"]]
    assert (application["args"]["device"], worker["resources"]["limits"]["nvidia.com/gpu"]) == ("cuda", "1")


def test_the_ray_services_application_fits_ray_and_the_settings() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs the extra ray, with Ray Serve")
    config = yaml.safe_load(RAY_SERVICE["spec"]["serveConfigV2"])
    [application] = schema.ServeDeploySchema.model_validate(config).applications
    assert importlib.util.find_spec(application.import_path.partition(":")[0])
    settings = resolve(flags={name: value for name, value in application.args.items() if name != "replicas"})
    *_, worker = containers(RAY_SERVICE)
    mounts = [m["mountPath"] for m in worker["volumeMounts"]]
    assert str(Path(settings.serve.keys).parent) in mounts
    assert str(Path(worker["env"][0]["value"]).parent) in mounts
