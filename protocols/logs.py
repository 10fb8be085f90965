"""Logging to stderr: structured, one line each; what libraries log goes the same way."""

import logging
import sys

import structlog
from structlog.typing import Processor


def configure_logs(level: str, style: str) -> None:
    """Set up structlog and the standard library's logging; `style` is `json` or `console`."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    rendering: list[Processor] = (
        [strip, structlog.processors.format_exc_info, last] if style == "json" else [strip, last]
    )
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for library in ("alembic", "uvicorn"):
        # Their news is of each connection and step; only what went wrong is worth a line of ours.
        logging.getLogger(library).setLevel(logging.WARNING)
    for chatty in ("websockets", "httpx2", "httpcore2", "paramiko", "dramatiq"):
        # Libraries log what the daemon reports itself, in other words and with tracebacks.
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
