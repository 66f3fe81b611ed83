"""The image, as its Dockerfile makes it on this machine, and the services around it."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from cpm_gen.config.resolve import resolve
from cpm_gen.server import main
from cpm_gen.serving.api_keys import ApiKeys
from tests.process.dockerfile import Builder, Image, StepError, copy_context, parse
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
FROM = "FROM python:3.11.1-slim-bookworm AS only\n"

can_mount = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "apt-get"))),
    reason="carrying out a Dockerfile needs root on Debian, for mounts of its own",
)


def test_instructions_are_read_as_docker_reads_them() -> None:
    steps = parse("# a comment\nFROM x AS y\n\nRUN one \\\n    # between\n    && two\ncopy a b\n")
    assert [(s.line, s.word, s.rest) for s in steps] == [
        (2, "FROM", "x AS y"), (4, "RUN", "one     && two"), (7, "COPY", "a b"),
    ]  # fmt: skip


def test_the_image_is_made_of_what_git_knows_and_not_of_tests(tmp_path: Path) -> None:
    copy_context(ROOT, tmp_path / "context")
    found = {str(p.relative_to(tmp_path / "context")) for p in (tmp_path / "context").rglob("*") if p.is_file()}
    known = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    assert {f for f in known if f.startswith(("cpm_gen/", "configs/", "native/src/"))} <= found
    assert not any(re.match(r"tests|benchmarks|docs|\.git|native/tests|.*__pycache__", f) for f in found)


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    context = tmp_path / "context"
    (context / "kept").mkdir(parents=True)
    (context / ".dockerignore").write_text("*\n!kept\n**/secret\n")
    for name in ("kept/file", "kept/secret", "other"):
        (context / name).write_text(name)
    builder = Builder(tmp_path / "build", context)
    yield builder
    builder.close()


@can_mount
@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("RUN echo so; exit 3", "line 2, RUN: status 3\nso"),
        ("COPY other .", "line 2, COPY: (?s:.*)cannot stat"),
        ("COPY kept/secret .", "line 2, COPY: (?s:.*)cannot stat"),
        ("USER 10001:10001\nRUN touch /opt/mine", "line 3, RUN: status 1\n.*Permission denied"),
        ("ENTRYPOINT serve --now", "line 2, ENTRYPOINT: not in exec form"),
        ("ONBUILD RUN true", "line 2, ONBUILD: not known here"),
    ],
)
def test_a_step_that_fails_fails_the_build(builder: Builder, steps: str, told: str) -> None:
    with pytest.raises(StepError, match=told):
        builder.build(FROM + steps)


@can_mount
def test_steps_have_their_effects_in_the_image_alone(builder: Builder) -> None:
    name = f"/opt/of-{os.getpid()}"
    image = builder.build(
        "ARG MORE=1\n" + FROM + "ARG WORD=hello\nENV A=a B=$WORD\nWORKDIR " + name + "\nCOPY kept inside/\n"
        "RUN test $WORD = other -a $B = other -a $(cat inside/file) = kept/file -a ! -e inside/secret && python -V > said\n"
        "FROM python:3.11.1-slim-bookworm\nCOPY --from=only " + name + " /copy/\nRUN test ! -e " + name + "\n"
        "RUN grep 'Python 3' /copy/said && test -z \"$WORD$A\" && id -u > /copy/user\nUSER 10001:10001",
        WORD="other",
    )  # fmt: skip
    assert not Path(name).exists()
    assert not Path("/copy").exists()
    words = builder.chroot(image, image.environment, ["sh", "-c", "cat /copy/user; id -u; ls -a /copy"])
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", "10001", ".", "..", "inside", "said", "user"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, Image]]:
    """The CPU image. Some GiB while it is there."""
    builder = Builder(tmp_path_factory.mktemp("image"), ROOT)
    try:
        yield builder, builder.build(DOCKERFILE)
    finally:
        builder.close()


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@can_mount
@pytest.mark.slow
def test_the_image_serves_is_healthy_keeps_works_and_drains(built: tuple[Builder, Image], tmp_path: Path) -> None:
    builder, image = built
    assert image.volumes == ["/data"]
    assert image.labels["org.opencontainers.image.licenses"] == "MIT"
    container = builder.container(image, {"/data": tmp_path})
    at = port()
    environment = container.environment | {"CPM_GEN_PORT": str(at), "CPM_GEN_API_KEYS": "me:secret"}
    environment["CPM_GEN_DRAIN_TIMEOUT"] = "300"  # the machine may be busy with something else
    command = builder.chroot(container, environment, [*container.entrypoint, *container.cmd])
    health = builder.chroot(container, environment, container.health)

    def healthy() -> bool:
        return subprocess.run(health, capture_output=True, timeout=30).returncode == 0

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{at}{path}", json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer secret"},
        )  # fmt: skip
        return direct(request, timeout=300)

    assert not healthy()
    log = (tmp_path / "log").open("w+")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: healthy() or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "log").read_text()
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                direct(f"http://127.0.0.1:{at}/metrics", timeout=20)
            with post("/works", {"prompt": "话说", "max_new_tokens": 5}) as answer:
                assert answer.status == 201
            assert (tmp_path / "works.db").stat().st_uid == 10001

            whole = post("/generate", {"prompt": "从前", "max_new_tokens": 2000, "stream": True})
            whole.readline()
            process.send_signal(signal.Signals[container.stop_signal])
            until(lambda: not healthy())
            events = whole.read().decode()
            assert events.rindex("event: done") > events.rindex("event: token")
            assert '"completion_tokens":2000' in events
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
        log.seek(0)
        said = log.read()
    assert "Traceback" not in said
    assert "note:" not in said  # such as: there are no kernels, so torch computes


@can_mount
@pytest.mark.slow
def test_the_image_does_not_serve_everybody_and_writes_nowhere_but_to_its_data(
    built: tuple[Builder, Image], tmp_path: Path
) -> None:
    builder, image = built
    container = builder.container(image, {"/data": tmp_path})
    command = builder.chroot(container, container.environment, [*container.entrypoint, *container.cmd])
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "no API keys" in refused.stderr
    for path, status in (("/data/x", 0), ("/tmp/x", 0), ("/opt/cpm-gen/x", 1), ("/models/x", 1), ("/x", 1)):
        touch = builder.chroot(container, container.environment, ["touch", path])
        assert subprocess.run(touch, capture_output=True).returncode == status, path
    inspect = builder.chroot(container, container.environment, ["cpm-gen", "inspect", "embedded"])
    subprocess.run(inspect, check=True, capture_output=True)


def compose(text: str = COMPOSE) -> Any:
    """The compose file, checked, with its variables' defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "${" not in text
    compose_spec.PyCompose.from_yaml(text).to_spec()
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("restart:", "restrat:", "restrat"),
        ("service_healthy", "service_health", "service_health"),
        ("interval: 5s", "interval: 5x", "not a valid duration"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(right: str, wrong: str, told: str) -> None:
    assert right in COMPOSE
    with pytest.raises(ValueError, match=told):
        compose(COMPOSE.replace(right, wrong))


def test_what_the_services_mount_wait_for_and_are_told_is_there() -> None:
    made = compose()
    services = made["services"]
    for name, service in services.items():
        assert set(service["secrets"]) <= set(made["secrets"]), name
        assert set(service["networks"]) <= set(made["networks"]), name
        assert service["read_only"] and service["restart"] == "unless-stopped", name
        assert service["cap_drop"] == ["ALL"], name
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        for other, how in service.get("depends_on", {}).items():
            assert other in services
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[other] or other == "cpm-gen"  # which has the image's
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", [])), name
        told = json.dumps(service.get("environment", {}))
        assert set(re.findall(r"/run/secrets/(\w+)", told)) <= set(service["secrets"]), name
    ours = services["cpm-gen"]
    settings = resolve(environment=ours["environment"])
    assert settings.serve.keys == "/run/secrets/api_keys"
    ending = (
        max(settings.serve.drain_timeout, main.COMMIT_SECONDS)
        + main.TRACE_SECONDS
        + main.RESPONSE_SECONDS
        + main.END_SECONDS
    )
    assert float(ours["stop_grace_period"].rstrip("s")) >= ending + 2  # and the last answers' and the interpreter's
    assert all(
        v["bind"]["create_host_path"] for v in ours["volumes"] if v["type"] == "bind"
    )  # older ones do not by themselves
    assert (ROOT / "docker" / ours["build"]["context"] / ours["build"]["dockerfile"]).read_text() == DOCKERFILE
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert set(ours["build"]["args"]) <= arguments
    scraping = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraping["authorization"]["credentials_file"] == "/run/secrets/prometheus_key"
    assert scraping["static_configs"] == [{"targets": ["cpm-gen:8000"]}]
    assert set(made["networks"]) == {"front", "database"}
    assert set(ours["networks"]) & set(services["prometheus"]["networks"])


def test_the_secrets_fit_each_other_and_nobody_else_reads_them(tmp_path: Path) -> None:
    script = shutil.copy(ROOT / "docker" / "secrets.sh", tmp_path)
    said = subprocess.run(["bash", script], capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "secrets"
    assert {f.name for f in folder.iterdir()} == set(compose()["secrets"])
    assert {Path(s["file"]).parent.name for s in compose()["secrets"].values()} == {"secrets"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()} == {0o444}
    keys = ApiKeys(str(folder / "api_keys"), {}, streams=1, rate=0)
    key = said.split()[-1]
    assert keys.find(f"Bearer {key}").name == "writer"
    assert keys.find(f"Bearer {(folder / 'prometheus_key').read_text()}").name == "prometheus"
    password = (folder / "postgres_password").read_text()
    assert len(password) > 40
    assert f"\npassword={password}\n" in (folder / "postgres_service").read_text()
    again = subprocess.run(["bash", script], capture_output=True, text=True)
    assert again.returncode == 1
    assert "already" in again.stderr
    assert (folder / "postgres_password").read_text() == password
