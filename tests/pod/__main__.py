"""`python -m tests.pod`: what happens to a pod, as the table of docs/operations.md.

python -m tests.pod [--only WORD] [--times N]
"""

import argparse
import sys
from statistics import median

import pytest

from tests.pod.life import Outcome
from tests.pod.page import HEAD, write_row
from tests.pod.scenarios import SCENARIOS


def main() -> int:
    """Run the scenarios and print a row for each; the exit status is 1 where one could not be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.pod", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="the scenarios whose title has this word")
    parser.add_argument("--times", type=int, default=1, help="how often; the medians are printed")
    options = parser.parse_args()
    status = 0
    _say(HEAD)
    for scenario in SCENARIOS:
        if options.only in scenario.title:
            try:
                outcomes = [scenario.run() for _ in range(options.times)]
                lost = round(median(outcome.lost for outcome in outcomes))
                seconds = median(outcome.seconds for outcome in outcomes)
                _say(write_row(scenario, Outcome(lost, seconds)))
            except (pytest.skip.Exception, AssertionError) as reason:
                status = 1
                sys.stderr.write(f"{scenario.title}: {type(reason).__name__}: {reason}\n")
    return status


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
