"""``cpm-gen download``: list the public models, or fetch one."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from pathlib import Path

from tqdm import tqdm

from cpm_gen.checkpoints import hub
from cpm_gen.checkpoints.download_source import Source, file_name, target_of
from cpm_gen.checkpoints.fetch import fetch
from cpm_gen.checkpoints.registry import PublicFile, PublicModel, is_hub_id, registry
from cpm_gen.cli.notes import show_note
from cpm_gen.config.arguments import path_argument
from cpm_gen.errors import ConfigError
from cpm_gen.translation import localized


def download(args: argparse.Namespace) -> int:
    """Fetch what ``args.name`` names, and print the folder or file; without a name, list the registry."""
    folder = None if args.to is None else path_argument(args.to, "--to", ConfigError)
    if args.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        raise ConfigError("--sha256 must be 64 hexadecimal digits")
    if args.name is None:
        if (folder, args.sha256, args.mirror) != (None, None, None):
            raise ConfigError("give the name of a model or a URL; cpm-gen download alone lists the public models")
        sys.stdout.write(_listing())
        return 0
    if "://" in args.name:
        if args.mirror is not None:
            raise ConfigError("--from is for a model of the list; a URL says itself where its file is")
        checksum = None if args.sha256 is None else ("sha256", args.sha256.lower())
        path = _fetch_all([Source(args.name, file_name(args.name), checksum=checksum)], folder or Path())
        sys.stdout.write(f"{path}\n")
        return 0
    if args.sha256 is not None:
        raise ConfigError("--sha256 is for a URL; a model's checksums are those that were published")
    sources, model = _sources(args.name, args.mirror)
    target = folder or Path(args.name.rpartition("/")[2])
    _fetch_all(sources, target)
    if model is not None and not model.tried:
        show_note("these weights were never tried with cpm-gen by its developers; models of the same form were")
    sys.stdout.write(f"{target}\n")
    return 0


def _sources(name: str, mirror: str | None) -> tuple[list[Source], PublicModel | None]:
    """The files of a model of the list, or of the Hub."""
    models = registry()
    model = models.get(name) or next((m for m in models.values() if m.hub == name), None)
    if mirror is not None:
        if model is None or not model.files or model.hub is not None:
            with_files = ", ".join(n for n, m in models.items() if m.files and m.hub is None)
            raise ConfigError(f"--from is for models whose files are listed: {with_files}")
        file_name(mirror.rstrip("/") + "/x")
        return [_mirrored(mirror.rstrip("/"), file) for file in model.files], model
    if model is not None:
        if model.hub is None:
            how = " Give an address that has its files: --from URL" if model.files else ""
            raise ConfigError(f"{name}: {model.note or 'No address is known.'}{how}")
        known = {file.path: file for file in model.files}
        return [_compared(source, known.get(source.path)) for source in hub.sources(model.hub)], model
    if is_hub_id(name):
        return hub.sources(name), None
    near = difflib.get_close_matches(name, models, n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"{name!r} is no public model, no owner/name of the Hub and no URL{guess} (cpm-gen download lists the models)"
    )


def _mirrored(address: str, file: PublicFile) -> Source:
    checksum = ("sha256", file.sha256) if file.sha256 else ("sha1", file.sha1) if file.sha1 else None
    return Source(f"{address}/{file.path}", file.path, file.size, checksum)


def _compared(source: Source, known: PublicFile | None) -> Source:
    """Prefer what the registry has of a file to what the Hub says of it now."""
    if known is None or known.sha256 is None:
        return source
    return Source(source.url, source.path, known.size, ("sha256", known.sha256), source.headers)


def _fetch_all(sources: list[Source], folder: Path) -> Path:
    """Fetch the files one after the other, with a progress bar on a terminal; return the last one's path."""
    path = folder
    for source in sources:
        target_of(folder, source.path)  # refuse a bad name before anything is written
    try:
        for source in sources:
            if len(sources) > 1 and source.checksum is None and target_of(folder, source.path).is_file():
                continue  # an earlier run completed it
            with tqdm(desc=source.path, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

                def progress(have: int, of: int | None, bar: tqdm[None] = bar) -> None:
                    bar.total = of
                    bar.update(have - bar.n)

                path = fetch(source, folder, progress)
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write(localized("stopped; the same command continues") + "\n")
        raise
    return path


def _listing() -> str:
    models = registry()
    width = max(map(len, models))
    lines = [
        localized(
            "Public models; cpm-gen download NAME [--to DIR] fetches one, or any owner/name of the Hugging Face Hub, or a URL."
        ),
        "",
    ]
    for name, model in models.items():
        lines.append(f"{name:<{width}}  {model.parameters:>6}  {localized(model.about)}")
        details = [
            model.hub or "no address known",
            localized("tried" if model.tried else "never tried here"),
            _checksums(model),
        ]
        lines.append(f"{'':<{width}}          {'; '.join(map(localized, details))}")
        if model.note:
            lines.append(f"{'':<{width}}          {localized(model.note)}")
    return "\n".join(lines) + "\n"


def _checksums(model: PublicModel) -> str:
    kinds = [kind for kind in ("sha256", "sha1") if any(getattr(file, kind) for file in model.files)]
    if kinds:
        return localized(f"{kinds[0].upper().replace('SHA', 'SHA-')} known")
    return "SHA-256 of the Hub" if model.hub else "no checksum published"
