"""Log lines: structured, on standard error, one per event; for people on a console, as JSON for machines.

Every process calls ``configure_logs`` once. Both ``structlog.get_logger()`` and the standard library's loggers, which
the web server and the database driver use, come out in the same form, with time, level, actor and process id.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from tradeengine.settings import Log


def configure_logs(settings: Log, actor: str) -> None:
    """Send all log lines of this process to standard error, marked with the actor's name."""
    level = settings.level_of(actor)
    context = {"actor": actor, "pid": os.getpid()}

    def add_context(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # What has no value says nothing to anyone.
        return context | {name: value for name, value in event.items() if value is not None}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_context,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        # Plain tracebacks: the pretty ones print variables, and with them secrets.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    finish: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if settings.format == "json":
        finish.append(structlog.processors.format_exc_info)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*finish, renderer]))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Libraries that say a line for every request or connection.
    for name in ("hypercorn.access", "psycopg.pool", "trio", "yoyo.migrations", "numba", "httpx2"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
