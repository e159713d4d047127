"""Process -> daemon or command. The first statement takes SIGTERM and SIGINT, before any slow import.

As process 1 of a container a process without a handler ignores SIGTERM altogether, and any other dies of it
in the midst of an import. So until the daemon has its own, a handler ends the process at once and with status
0: nothing has been accepted yet that could be lost.
"""

import os
import signal

for _number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(_number, lambda _received, _frame: os._exit(0))

import sys  # noqa: E402 - after the handler

__all__ = ["main"]

_SERVE_OPTIONS = ("--config", "--log-format", "--log-level")


def main() -> None:
    """Run the command line."""
    options = parse_serve_options(sys.argv[1:])
    if options is None:
        # A command that was interrupted did not succeed.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from aiokpl_metricsd.cli import run

        run()
    else:
        # It asks for a configuration to be read that has not been read yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from aiokpl_metricsd.process import serve

        sys.exit(serve(**options))


def parse_serve_options(arguments: list[str]) -> dict[str, str] | None:
    """Return the options that start the daemon, by their argument's name, or None for anything else.

    The command line proper is Typer's, in `cli`, with help, commands and errors. It costs 15 MiB and 90 ms
    (Typer 0.29 with what it imports), which a daemon in ten thousand pods would pay for its three options.
    """
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if name not in _SERVE_OPTIONS or (not separator and not rest):
            return None
        options[name.removeprefix("--").replace("-", "_")] = value if separator else rest.pop(0)
    known = options.get("log_format", "text") in ("text", "json") and options.get("log_level", "info") in (
        "debug",
        "info",
        "warning",
        "error",
    )
    return options if known else None


if __name__ == "__main__":
    main()
