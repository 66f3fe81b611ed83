"""``cpm-gen doctor``: what this machine can run, and what to do about what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from cpm_gen.cli.wide_text import pad
from cpm_gen.config.arguments import bytes_text
from cpm_gen.config.resolve import Settings
from cpm_gen.runtime.diagnosis.diagnose import diagnose
from cpm_gen.runtime.diagnosis.finding import Finding
from cpm_gen.translation import localized

_MARKS = {"ok": "ok", "absent": "-", "warning": "!", "failed": "FAILED"}


def doctor(args: argparse.Namespace, settings: Settings) -> int:
    """Print the findings, as they come; 0 if the model can run, otherwise 1."""
    findings = []
    for finding in diagnose(settings):
        findings.append(finding)
        if not args.json:
            sys.stdout.write(to_text(finding))
            sys.stdout.flush()
    failed = [finding.name for finding in findings if finding.status == "failed"]
    name = settings.model.model or "embedded"
    if args.json:
        content = {"model": name, "can_run": not failed, "findings": list(map(dataclasses.asdict, findings))}
        sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    elif failed:
        names = ", ".join(map(localized, failed))
        sys.stdout.write("\n" + localized(f"The model {name} cannot run here: {names}.") + "\n")
    else:
        sys.stdout.write("\n" + localized(f"The model {name} can run here.") + "\n")
    return 1 if failed else 0


def to_text(finding: Finding) -> str:
    """A finding as lines for a terminal: what was found, what to do, and for memory the table of needs."""
    begin = pad(localized(finding.name), 13) + " " + pad(localized(_MARKS[finding.status]), 6)
    text = f"{begin} {localized(finding.text)}\n"
    if finding.remedy is not None:
        text += f"{'':<20} → {localized(finding.remedy)}\n"
    if needs := finding.values.get("needs"):
        text += _table(needs, finding.values["windows"])
    return text


def _table(needs: list[Mapping[str, Any]], windows: int) -> str:
    many = "one window" if windows == 1 else f"{windows} windows"
    said = localized(f"weights + {many} of keys and values; * does not fit")
    text = f"{'':<20} {said}\n"
    text += f"{'':<20} {'':<14}{'float32':>21}{'float16 / bfloat16':>21}{'int8':>21}\n"
    for need in needs:
        cells = ""
        for n in need["formats"].values():
            mark = "*" if n["fits"] is False else " "
            cells += f"{bytes_text(n['weights_bytes'])} + {bytes_text(windows * n['window_bytes'])}{mark}".rjust(21)
        text += f"{'':<20} {need['model']:<14}{cells}".rstrip() + "\n"
    return text
