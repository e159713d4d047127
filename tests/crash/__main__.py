"""`python -m tests.crash`: whatever is done to the daemon, every event is counted exactly once.

    python -m tests.crash [--kills 200] [--seed N] [--only kill] [--loop asyncio]
    python -m tests.crash stall

The first makes trouble in rounds, each under either event loop. It says what is wrong and keeps the state
directory where a round failed; its exit status is 1 then. The second measures producers of a daemon that is
stopped now and then; `stall` explains it.
"""

import argparse
import sys
import time
from random import SystemRandom

from tests.crash.rounds import ROUNDS
from tests.crash.stall import measure
from tests.crash.trial import LOOPS, open_trial

# For each kill, how many troubles of a round are made.
_SHARES = {"kill": 1.0, "terminate": 0.2, "stop": 0.08, "reload": 0.1, "orphan": 0.4}

# A seed that is read aloud.
_SEEDS = 1_000_000


def main() -> int:
    """Read the command line, run the rounds, and say what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("trouble", "stall"), default="trouble")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs under each loop; 200")
    parser.add_argument("--seed", type=int, help="of the moments; drawn and printed where it is not given")
    parser.add_argument("--only", choices=tuple(ROUNDS), action="append", help="this kind of trouble alone")
    parser.add_argument("--loop", choices=tuple(LOOPS), action="append", help="under this event loop alone")
    parser.add_argument("--limit-s", type=float, default=2400.0, help="no round begins after this; 2400")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a stall measurement; 20")
    options = parser.parse_args()
    if options.what == "stall":
        return measure(options.seconds)
    seed = SystemRandom().randrange(_SEEDS) if options.seed is None else options.seed
    deadline = time.monotonic() + options.limit_s
    failed = 0
    for loop in options.loop or LOOPS:
        for name in options.only or ROUNDS:
            if time.monotonic() >= deadline:
                _say(f"{name}, {loop}: left out, as {options.limit_s:.0f} s are over")
                failed += 1
            else:
                failed += not _run(name, loop, seed, max(1, round(options.kills * _SHARES[name])))
    return 1 if failed else 0


def _run(name: str, loop: str, seed: int, troubles: int) -> bool:
    """Run one round, and return whether all was right."""
    title = f"{name}, {loop}, seed {seed}"
    began = time.monotonic()
    with open_trial(loop, seed) as trial:
        ROUNDS[name](trial, troubles, lambda done: _tell(f"{title}: {done} of {troubles}"))
    _tell("")
    took_s = time.monotonic() - began
    _say(
        f"{title}: {troubles} times, {trial.starts} daemons, {trial.events:,} events, {trial.notes}, "
        f"{took_s:.0f} s: {'WRONG' if trial.faults else 'every event once'}"
    )
    for fault in trial.faults:
        _say(f"  {fault}")
    return not trial.faults


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tell(text: str) -> None:
    """Show how far it is, where somebody looks."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
