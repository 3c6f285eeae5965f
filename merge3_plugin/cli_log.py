"""What a command says on stderr: lines for people or, for programs, JSON objects, one a line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import click

JSON = "json"
LOG = "log"
_EVENT = "merge3_event"

log = logging.getLogger(__name__)


class Console(logging.Handler):
    """Our own log lines on stderr; as JSON once ``as_json`` is set. A progress bar that stands there is kept whole."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        line = _json_line(record) if self.as_json else _text_line(record)
        if not line:
            return
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            print(line, file=sys.stderr, flush=True)
        else:
            tqdm.tqdm.write(line, file=sys.stderr)


def tell(name: str, message: str, /, **fields: Any) -> None:
    """Log an event: for people its message, for programs its fields too; without a message it is for programs alone."""
    level = logging.ERROR if name == "failed" else logging.INFO
    log.log(level, "%s", message, extra={_EVENT: {"event": name, **fields}})


def _text_line(record: logging.LogRecord) -> str:
    message = record.getMessage()
    return message and f"merge3: {'error: ' * (record.levelno == logging.ERROR)}{message}"


def _json_line(record: logging.LogRecord) -> str:
    fields = dict(getattr(record, _EVENT, {"event": LOG}))
    if message := record.getMessage():
        fields |= {"level": record.levelname.lower(), "message": message}
    return json.dumps({"time": round(time.time(), 3), **fields}, ensure_ascii=False)


def _choose(context: click.Context, parameter: click.Parameter, value: str) -> str:
    context.ensure_object(Console).as_json = value == JSON
    return value


def log_format_option() -> Callable[[Any], Any]:
    """The option ``--log-format`` of a command that is called through `cli.run`."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", JSON]),
        default="text",
        is_eager=True,  # what is wrong with other options is said in this format, too
        callback=_choose,
        help="What stderr is: lines, and a bar on a terminal, for people; or a JSON object a line, see below.  [text]",
    )
