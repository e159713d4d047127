"""`python -m tests.soak`: ten minutes of what a service does in a month, and every event counted once.

    python -m tests.soak [--minutes 10] [--restart-s 30] [--requests-per-worker 300]

It prints samples of descriptors and memory, the slowest `put`, and what is wrong; its exit status is 1 then.
"""

import argparse
import sys

from tests.soak.soak import Plan, soak


def main() -> int:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of load; 10")
    parser.add_argument(
        "--restart-s", type=float, default=30.0, help="between two restarts of the daemon; 30"
    )
    parser.add_argument("--requests-per-worker", type=int, default=300, help="until it is recycled; 300")
    options = parser.parse_args()
    plan = Plan(
        seconds=60.0 * options.minutes,
        restart_s=options.restart_s,
        requests_per_worker=options.requests_per_worker,
        sample_s=max(1.0, options.minutes * 2.0),
    )
    faults = soak(plan, _say)
    for fault in faults:
        _say(f"WRONG: {fault}")
    return 1 if faults else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
