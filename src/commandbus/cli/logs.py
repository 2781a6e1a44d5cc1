"""Log lines for people and for machines; the facts in ``extra=`` are part of both."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from commandbus.cli.output import printable

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """How a log line looks."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Write the whole program's log to stderr, one line per record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record was given as ``extra=``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO commandbus.worker [4711] worker started domain=payments``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback below it if there is one."""
        facts = "".join(f" {name}={_word(value)}" for name, value in facts_of(record).items())
        head = f"{_time(record)} {record.levelname} {record.name} [{record.process}]"
        line = f"{head} {printable(record.getMessage())}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line; facts are members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = facts_of(record) | {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _word(value: object) -> str:
    """Return a value as one word, quoted where it is none; of a list its members."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else str(value)
    return text if text.isprintable() and text and " " not in text else json.dumps(text)
