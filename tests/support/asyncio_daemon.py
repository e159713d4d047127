"""The daemon's own entry point with asyncio's event loop in place of uvloop's.

Run as `python -m tests.support.asyncio_daemon`, with the options of `aiokpl-metricsd`.
"""

# First, since it takes the signals.
from aiokpl_metricsd.__main__ import main as run_daemon

__all__ = ["main"]


def main() -> None:
    """Run the daemon, and say at its start which loop it has."""
    import asyncio

    import uvloop

    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    run_daemon()


if __name__ == "__main__":
    main()
