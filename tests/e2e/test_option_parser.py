"""The fast parser of the daemon's options and the command line proper say the same, whatever is given."""

import itertools
import signal
from collections.abc import Callable

import pytest
import typer.main
from typer.testing import CliRunner

from aiokpl_metricsd import process
from aiokpl_metricsd.cli import LogFormat, LogLevel, app

TOKENS = (
    "--config",
    "--config=a.toml",
    "--config=",
    "a.toml",
    "--log-format",
    "--log-format=json",
    "json",
    "--log-level",
    "--log-level=warning",
    "debug",
    "--log-format=xml",
    "--",
    "--nope",
)

DEFAULTS = {"config": None, "log_format": "text", "log_level": "info"}


def _import_parser() -> Callable[[list[str]], dict[str, str] | None]:
    """Import it from the program, which takes signals at once, and give these back to the test runner."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        from aiokpl_metricsd.__main__ import parse_serve_options
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return parse_serve_options


parse_serve_options = _import_parser()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str | None]]:
    """With which arguments the command line proper would have started the daemon."""
    calls: list[dict[str, str | None]] = []

    def serve(config: str | None = None, log_format: str = "text", log_level: str = "info") -> int:
        calls.append({"config": config, "log_format": log_format, "log_level": log_level})
        return 0

    monkeypatch.setattr(process, "serve", serve)
    return calls


def run_typer(
    served: list[dict[str, str | None]], arguments: list[str]
) -> tuple[int, list[dict[str, str | None]]]:
    """Return exit status and starts of the command line proper."""
    served.clear()
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, list(served)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_what_the_fast_parser_takes_the_command_line_takes_in_the_same_way(
    served: list[dict[str, str | None]], length: int
) -> None:
    taken = 0
    for arguments in itertools.product(TOKENS, repeat=length):
        options = parse_serve_options(list(arguments))
        if options is not None:
            taken += 1
            assert run_typer(served, list(arguments)) == (0, [{**DEFAULTS, **options}]), arguments
    assert taken >= 1


@pytest.mark.parametrize("level", LogLevel)
@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("joined", [True, False])
def test_every_choice_is_taken_by_both(
    served: list[dict[str, str | None]], level: LogLevel, log_format: LogFormat, joined: bool
) -> None:
    expected = {"config": "a.toml", "log_format": log_format.value, "log_level": level.value}
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in expected.items()]
    arguments = [f"{name}={value}" for name, value in pairs] if joined else [*itertools.chain(*pairs)]
    assert parse_serve_options(arguments) == expected
    assert run_typer(served, arguments) == (0, [expected])


def test_the_fast_parser_knows_every_option_of_the_daemon() -> None:
    command = typer.main.get_command(app)
    options = {parameter.name for parameter in command.params if not parameter.is_eager}
    assert options == DEFAULTS.keys()
    for name in options:
        assert name is not None
        value = {"config": "a.toml", "log_format": "json", "log_level": "error"}[name]
        assert parse_serve_options([f"--{name.replace('_', '-')}", value]) == {name: value}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nope"],
        ["--config"],
        ["--config", "a.toml", "b.toml"],
        ["--log-format", "xml"],
        ["--log-format", "JSON"],
        ["--log-level", "loud"],
        ["--log-level="],
        ["-c", "a.toml"],
        ["--conf", "a.toml"],
        ["serve"],
        ["--config", "a.toml", "check"],
    ],
)
def test_what_is_no_option_is_left_to_the_command_line_and_refused_there(
    served: list[dict[str, str | None]], arguments: list[str]
) -> None:
    assert parse_serve_options(arguments) is None
    assert run_typer(served, arguments) == (2, [])
