"""Log lines of the service on standard error: as text, or as one JSON object each.

Lines of a request carry its ids, also those that the engine's thread writes. Other libraries' warnings and errors have the same form.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

from cpm_gen.config.serve_options import LogFormat, LogLevel
from cpm_gen.serving.request_ids import current_request


def configure(level: LogLevel, format: LogFormat) -> None:
    """Write all log lines of the process to standard error; lines of other libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.addFilter(_add_ids)
    ours = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(ours, logging.WARNING))
    logging.getLogger("cpm_gen").setLevel(ours)
    logging.captureWarnings(
        False
    )  # it does nothing where it was on before, although a catch_warnings() may have ended it
    logging.captureWarnings(True)


def _add_ids(record: logging.LogRecord) -> bool:
    """Note the request that a line was written for. Runs where the line is written; keeps every line."""
    record.request = current_request()
    return True


class TextFormatter(logging.Formatter):
    """Time, level, the request's id, the message; the id of the caller's trace at the end of the first line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by the traceback if there is one."""
        ids = getattr(record, "request", None)
        before = f"{ids.id} " if ids else ""
        after = f" trace={ids.trace_id}" if ids and ids.trace_id else ""
        line = f"{self.formatTime(record)} {record.levelname} {before}{record.getMessage()}{after}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object on one line. The fields of ``extra={"fields": {…}}`` become fields of the object."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, with the traceback as its field ``exception``."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        ids = getattr(record, "request", None)
        if ids:
            entry["request_id"] = ids.id
            if ids.traceparent:
                entry |= {"trace_id": ids.trace_id, "traceparent": ids.traceparent}
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
