"""The command line: the daemon itself, `check`, `doctor`, `send` and `status`."""

import logging
import os
import socket
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aiokpl_metricsd import __version__
from aiokpl_metricsd.errors import ConfigurationError

if TYPE_CHECKING:
    from aiokpl_metrics_protocol import MetricEvent
    from aiokpl_metricsd.config import Configuration

app = typer.Typer(
    name="aiokpl-metricsd",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What the log leaves out."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Kind(StrEnum):
    """What a metric measures."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="The TOML file. Without it: sink console, windows of 5 s."),
]


def _print_version(value: bool) -> None:  # noqa: FBT001 - Typer's callback
    if value:
        typer.echo(f"aiokpl-metricsd {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def run_daemon(
    context: typer.Context,
    config: _ConfigOption = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="How the log on standard error is written.")
    ] = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option(help="The least level that is logged.")] = LogLevel.INFO,
    version: Annotated[  # noqa: ARG001, FBT002 - a flag, which acts in its callback
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Aggregate metric events from a local socket and hand the windows to sinks."""
    if context.invoked_subcommand is not None:
        if config is not None:
            # It would be ignored, and `check` would praise the embedded default.
            raise typer.BadParameter("write it after the command", param_hint="--config")
        return
    from aiokpl_metricsd.process import serve

    raise typer.Exit(serve(config, log_format.value, log_level.value))


@app.command()
def check(
    config: _ConfigOption = None,
    series_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file of the sink jsonl: estimate what its series cost."),
    ] = None,
) -> None:
    """Read a configuration as the daemon would, build its sinks, open nothing."""
    from aiokpl_metricsd.inspection import inspect_configuration

    try:
        configuration = _load(config)
        lines = inspect_configuration(configuration, series_from)
    except ConfigurationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    sinks = ", ".join(f"{name} ({options.type})" for name, options in configuration.sinks.items())
    for options in configuration.sinks.values():
        for warning in options.warnings:
            typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"ok: windows of {configuration.interval_s} s, sinks: {sinks}")
    for line in lines:
        typer.echo(line)


@app.command()
def doctor(
    config: _ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,  # noqa: FBT002 - a flag
    offline: Annotated[bool, typer.Option("--offline", help="Connect to no backend.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Look at the machine, the configuration and its backends, and say what to do. Changes nothing.

    Ends with status 0 where all is well, 1 where there are warnings, 2 where something cannot work.
    """
    from aiokpl_metricsd.examining.examination import build_subject, examine, refuse
    from aiokpl_metricsd.examining.report import choose_status, encode_report, render_report
    from aiokpl_metricsd.log import log_fault

    try:
        found = examine(build_subject(_load(config), is_offline=offline))
    except ConfigurationError as error:
        found = refuse(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was looked at to its end
        log_fault(error)
        # 1 would say that there are warnings and no more.
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(encode_report(found), nl=False)
    else:
        # A terminal that has no Unicode shows the rest all the same.
        encoding = sys.stdout.encoding or "utf-8"
        typer.echo(render_report(found).encode(encoding, "backslashreplace"), nl=False)
    raise typer.Exit(choose_status(found))


# A negative value looks like an option, so options that are none come as arguments: too many, or as the name.
@app.command(context_settings={"ignore_unknown_options": True})
def send(
    name: Annotated[str, typer.Argument(help="The metric's name.")],
    value: Annotated[float, typer.Argument(help="The event's value.")] = 1.0,
    dim: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A dimension; may be repeated.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="What the metric measures.")] = None,
    unit: Annotated[str | None, typer.Option(help='The value\'s unit, as "ms" or "bytes".')] = None,
    socket_path: Annotated[
        str | None,
        typer.Option("--socket", metavar="PATH", help="The daemon's socket; without it, the usual places."),
    ] = None,
) -> None:
    """Send one event to the daemon."""
    from aiokpl_metrics_protocol import MetricEvent, socket_candidates

    if name.startswith("-"):
        raise typer.BadParameter(f"no such option: {name}")
    dimensions = tuple(_split_dimension(text) for text in dim or ())
    event = MetricEvent(name, value, 0.0, dimensions, None if kind is None else kind.value, unit)
    try:
        datagram = _encode_event(event)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    candidates = socket_candidates() if socket_path is None else (socket_path,)
    problems: list[str] = []
    for path in candidates:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(5.0)
            try:
                connection.connect(path)
                connection.send(datagram)
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
            else:
                return
    typer.echo(f"no daemon took the event: {'; '.join(problems)}", err=True)
    raise typer.Exit(1)


@app.command()
def status(
    socket_path: Annotated[
        str | None,
        typer.Option("--socket", metavar="PATH", help="The daemon's socket; without it, the usual places."),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--json", help="Print the daemon's answer as it is.")
    ] = False,
) -> None:
    """Ask a running daemon what came in, what went out, and what was lost."""
    from aiokpl_metricsd.rendering.statement import render_statement
    from aiokpl_metricsd.serving.inquiry import InquiryError, ask_ledger, decode_statement

    try:
        answer = ask_ledger(socket_path)
        if not as_json:
            # A terminal that has no Unicode shows the rest all the same.
            encoding = sys.stdout.encoding or "utf-8"
            answer = render_statement(decode_statement(answer)).encode(encoding, "backslashreplace")
    except InquiryError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(answer, nl=False)


def _load(config: str | None) -> "Configuration":
    """Read the configuration, and have the log show none of its secrets.

    Raises:
        ConfigurationError: it cannot be used.
    """
    from aiokpl_metricsd.config import load
    from aiokpl_metricsd.log import hide

    configuration = load(config, os.environ)
    for sink in configuration.sinks.values():
        hide(sink.hidden)
    return configuration


def _encode_event(event: "MetricEvent") -> bytes:
    """Return the datagram that carries the event.

    Raises:
        ValueError: the daemon would refuse it, or no datagram can carry it; one line that says what to do.
    """
    from aiokpl_metrics_protocol import EventsFrame, FrameTooLargeError, check_series, encode

    reason: object = check_series(event.name, event.kind, event.unit, event.dimensions)
    if reason is None and event.value - event.value != 0.0:
        reason = "value_not_finite"
    if reason is not None:
        message = f"the event would be refused: {reason}; docs/protocol.md has the limits"
        raise ValueError(message)
    try:
        return encode(EventsFrame([event]))
    except UnicodeEncodeError as error:
        message = f"the event cannot be sent: {error.object!r} is not UTF-8; write the arguments in UTF-8"
    except FrameTooLargeError as error:
        message = f"the event cannot be sent: {error}; shorten its dimensions"
    raise ValueError(message)


def _split_dimension(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        message = f"{text!r} is no dimension; write KEY=VALUE"
        raise typer.BadParameter(message, param_hint="--dim")
    return key, value


def run() -> None:
    """Run the command line of this process."""
    from aiokpl_metricsd.configuring.secrecy import find_in_environment
    from aiokpl_metricsd.log import configure, hide, log_fault

    # As the daemon does: what packages say, and what nobody expected, is shown without secrets.
    configure("text", "warning", sys.stderr)
    logging.captureWarnings(True)  # noqa: FBT003 - its only argument
    hide(tuple(find_in_environment(os.environ)))
    try:
        app()
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - Typer's own hook would print the traceback as it is
        log_fault(error)
        sys.exit(1)


__all__ = ["app", "run"]
