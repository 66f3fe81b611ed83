"""A Dockerfile's steps carried out without Docker: every stage a copy-on-write view of this machine, its steps run in it by chroot.

This machine stands in for the base image, which must be Debian with this Python. Needs root, for mounts in a namespace of their own: they
end with it, and nothing outside the folder given is written to. What a build gets from its machine (pip's settings, proxies,
certificates) is passed on to RUN, and to nothing else.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.processes import with_death_signal

_PASSED_ON = re.compile(r"PIP_.*|(https?|no)_proxy|SSL_CERT_.*|REQUESTS_CA_BUNDLE", re.IGNORECASE)
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


class StepError(Exception):
    """A step failed; the message names its line and holds its output."""


@dataclass(frozen=True)
class Step:
    """An instruction, its continuation lines joined."""

    line: int
    word: str
    rest: str


def parse(text: str) -> list[Step]:
    """The instructions of a Dockerfile."""
    steps, words, began = [], "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not (line.strip() or words):
            continue
        began = began if words else number
        words += line
        if words.endswith("\\"):
            words = words[:-1]
            continue
        word, _, rest = words.strip().partition(" ")
        steps.append(Step(began, word.upper(), rest.strip()))
        words = ""
    return steps


@dataclass
class Image:
    """A stage: where its files are, and what its instructions said of the container."""

    root: Path
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
    )
    labels: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    user: str = "0:0"
    workdir: str = "/"
    volumes: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)


class Builder:
    """Build in ``folder``. COPY sees ``context`` without what ``.dockerignore`` excludes. Closing it removes mounts and files."""

    def __init__(self, folder: Path, context: Path) -> None:
        self._folder = folder
        self._context = folder / "context"
        copy_context(context, self._context)
        self._stages: dict[str, Image] = {}
        # the mounts live in its namespace and end with it
        self._holder = subprocess.Popen(
            with_death_signal(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep infinity"]
            ),
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()

    def close(self) -> None:
        """End the mounts and remove the files."""
        self._holder.kill()
        self._holder.communicate()
        shutil.rmtree(self._folder)

    def command(self, *words: object) -> list[str]:
        """A command that sees the mounts."""
        return ["nsenter", f"--target={self._holder.pid}", "--mount", *map(str, words)]

    def chroot(
        self, image: Image, environment: dict[str, str], words: list[str], root: Path | None = None
    ) -> list[str]:
        """A command in a stage, as its user, in its folder, with this environment and no other."""
        pairs = [f"{name}={value}" for name, value in environment.items()]
        inside = ["env", "-i", f"--chdir={image.workdir}", *pairs, *words]
        return self.command("chroot", f"--userspec={image.user}", root or image.root, *inside)

    def _do(self, *words: object) -> None:
        done = subprocess.run(self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise StepError(f"{shlex.join(map(str, words))}: status {done.returncode}\n{done.stdout[-4000:]}")

    def _stage(self, name: str) -> Image:
        """A fresh view of this machine."""
        folder = self._folder / f"stage-{name}"
        root = folder / "root"
        for path in (root, folder / "tmp"):
            path.mkdir(parents=True)
        self._overlay("/", root, folder / "all")
        self._overlay(sys.base_prefix, root / "usr/local", folder / "local")  # where the base image has its Python
        self._do("ln", "-sf", _PYTHON, root / "usr/local/bin/python")
        for system in ("proc", "dev"):
            self._do("mount", "--rbind", f"/{system}", root / system)
        self._do("mount", "--bind", folder / "tmp", root / "tmp")
        (folder / "tmp").chmod(0o1777)
        self._do("chroot", root, "ldconfig")  # its library, too
        return Image(root)

    def _overlay(self, lower: str, target: Path, changes: Path) -> None:
        """Show a folder where writing to it changes nothing."""
        for part in ("upper", "work"):
            (changes / part).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={changes}/upper,workdir={changes}/work"
        self._do("mount", "-t", "overlay", "overlay", "-o", options, target)

    def build(self, text: str, **arguments: str) -> Image:
        """Carry a Dockerfile out; returns its last stage. Raises StepError."""
        image: Image | None = None
        shared: dict[str, str] = {}
        for step in parse(text):
            try:
                if step.word == "FROM":
                    base, name = re.fullmatch(r"(\S+)(?: AS (\S+))?", _expand(step.rest, shared)).groups()  # type: ignore[union-attr]
                    if not re.fullmatch(r"python:[\d.]+-slim-bookworm", base):
                        raise StepError(f"{base} is not what this machine stands in for")
                    image = self._stages[name or "last"] = self._stage(name or "last")
                elif image is None:
                    name, _, default = step.rest.partition("=")
                    shared[name] = arguments.get(name, default)
                else:
                    self._carry_out(step, image, arguments)
            except StepError as error:
                raise StepError(f"line {step.line}, {step.word}: {error}") from None
        assert image is not None
        return image

    def _carry_out(self, step: Step, image: Image, arguments: dict[str, str]) -> None:
        known = image.arguments | image.environment
        match step.word:
            case "ARG":
                name, _, default = step.rest.partition("=")
                image.arguments[name] = arguments.get(name, _expand(default, known))
            case "ENV":
                image.environment |= _pairs(step.rest, known)
            case "LABEL":
                image.labels |= _pairs(step.rest, known)
            case "RUN":
                passed = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
                environment = passed | {"HOME": "/root"} | known
                words = self.chroot(image, environment, [*image.shell, step.rest])
                done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if done.returncode:
                    raise StepError(f"status {done.returncode}\n{done.stdout[-4000:]}")
            case "COPY":
                self._copy(image, shlex.split(_expand(step.rest, known)))
            case "WORKDIR":
                image.workdir = str(Path(image.workdir, _expand(step.rest, known)))
                self._do("mkdir", "-p", f"{image.root}{image.workdir}")
            case "USER":
                image.user = step.rest
            case "SHELL" | "ENTRYPOINT" | "CMD":
                setattr(image, step.word.lower(), _json(step.rest))
            case "VOLUME":
                image.volumes = _json(step.rest)
            case "EXPOSE":
                image.ports = step.rest.split()
            case "STOPSIGNAL":
                image.stop_signal = step.rest
            case "HEALTHCHECK":
                image.health = _json(step.rest.partition(" CMD ")[2])
            case _:
                raise StepError("not known here")

    def _copy(self, image: Image, words: list[str]) -> None:
        source = self._context
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")].root
        if words[0].startswith("--"):
            raise StepError(f"{words[0]} is not known here")
        *names, target = words
        place = f"{image.root}{Path(image.workdir, target)}"
        if target.endswith(("/", ".")):
            self._do("mkdir", "-p", place)
        for name in names:
            path = f"{source}/{name.lstrip('/')}"
            is_folder = subprocess.run(self.command("test", "-d", path)).returncode == 0
            if is_folder:  # what is in it
                self._do("mkdir", "-p", place)
                self._do("cp", "-a", "--no-preserve=ownership", f"{path}/.", place)
            else:
                self._do("cp", "--no-preserve=ownership", path, place)

    def container(self, image: Image, volumes: dict[str, Path]) -> Image:
        """A stage to run: its root read-only, a fresh /tmp, and folders of ours for what is to last."""
        root = self._folder / f"container-{len(list(self._folder.glob('container-*')))}"
        root.mkdir()
        self._do("mount", "--rbind", image.root, root)
        self._do("mount", "-o", "remount,bind,ro", root)
        self._do("mount", "-t", "tmpfs", "tmpfs", root / "tmp")
        for inside, folder in volumes.items():
            shutil.chown(folder, *map(int, image.user.split(":")))
            self._do("mount", "--bind", folder, f"{root}{inside}")
        return replace(image, root=root)


def _expand(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda found: known.get(found[1] or found[2], ""), text)


def _pairs(text: str, known: dict[str, str]) -> dict[str, str]:
    return dict(_expand(pair, known).split("=", 1) for pair in shlex.split(text))


def _json(text: str) -> list[str]:
    """The exec form, which is the only one here: a shell in between would keep signals to itself."""
    try:
        words: Any = json.loads(text)
    except ValueError:
        raise StepError("not in exec form") from None
    return list(words)


def copy_context(source: Path, target: Path) -> None:
    """What ``.dockerignore`` lets a build see of a folder: the last line that fits a path or a folder above it decides."""
    lines = (source / ".dockerignore").read_text().splitlines()
    rules = [(not line.startswith("!"), line.lstrip("!")) for line in lines if line and not line.startswith("#")]

    def ignored(path: Path) -> bool:
        verdict = False
        for ignore, pattern in rules:
            pattern = pattern.removeprefix("**/") if (anywhere := pattern.startswith("**/")) else pattern
            for part in (path, *list(path.parents)[:-1]):
                if fnmatch.fnmatchcase(part.name if anywhere else str(part), pattern):
                    verdict = ignore
        return verdict

    target.mkdir(parents=True)
    for top, folders, files in os.walk(source):
        here = Path(top).relative_to(source)
        folders[:] = [f for f in folders if not ignored(here / f)]
        for name in files:
            if not ignored(here / name):
                (target / here).mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(top, name), target / here / name)
