"""What operators read on stderr: a line of JSON in a pipe, a plain line on a terminal. Never content, never a secret."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, TextIO

_PLAIN: Final = {"name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "exc_info", "exc_text",
    "stack_info", "lineno", "funcName", "created", "msecs", "relativeCreated", "thread", "threadName", "processName",
    "process", "taskName", "message"}  # fmt: skip


class JsonLines(logging.Formatter):
    """One record, one line: ts, level, logger, message, and what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        text = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        text.update({key: value for key, value in vars(record).items() if key not in _PLAIN and not key.startswith("_")})
        if record.exc_info:
            text["trace"] = self.formatException(record.exc_info)
        return json.dumps(text, default=str)


def set_up(stream: TextIO | None = None) -> logging.Logger:
    """Send the gateway's log, and Sanic's warnings, to ``stream`` (stderr). Returns the gateway's logger."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(plain if stream.isatty() else JsonLines())
    log = logging.getLogger("streamgate")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in ("sanic.root", "sanic.error", "sanic.server", "sanic.access", "sanic.websockets"):
        theirs = logging.getLogger(name)
        theirs.handlers[:] = [handler]
        theirs.propagate = False
        theirs.setLevel(logging.WARNING)
    return log
