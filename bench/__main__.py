"""`python -m bench`: measure everything, print one table, write JSON. `bench/README.md` explains the rows.

The exit status is 1 when a measurement failed or a total was wrong, and 0 otherwise, whatever the figures.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from bench import daemon, export, faults, imports, journal, lanes, loss, producer, restart, stall, startup
from bench.front_page import render_front_page, replace_table
from bench.machine import describe_machine
from bench.process import ROOT
from bench.report import build_document, render_markdown, render_text
from bench.rows import SECTIONS
from bench.samples import Plan, Samples

_GROUPS = (producer, imports, startup, daemon, stall, loss)
# Measured once, before the passes: each takes long, or measures its figures several times.
_ONCE = (journal, lanes, restart, export, faults)

_LATEST = ROOT / "bench" / "results" / "latest.json"
_COMMITTED = ROOT / "bench" / "RESULTS.md"
_FRONT_PAGE = ROOT / "README.md"

_LIMIT_S = 1_800.0
_QUICK_LIMIT_S = 120.0


def main() -> int:
    """Read the command line, measure, report."""
    options = _parse()
    passes = options.runs or (1 if options.quick else 3)
    limit_s = _QUICK_LIMIT_S if options.quick else _LIMIT_S
    plan = Plan(options.quick, passes, _add_peers(tuple(options.only or ())), limit_s)
    # Before the first measurement, which would be most of the load.
    machine = describe_machine()
    samples = Samples()
    for group in _ONCE:
        _say(f"once: {group.__name__.removeprefix('bench.')}")
        group.collect(plan, samples)
    plan = plan.begin_passes()
    done = 0
    for number in range(passes):
        if not plan.has_time_for_pass(number):
            samples.note(
                f"{number} of {passes} passes: one more would have taken longer than {limit_s:.0f} s"
            )
            break
        for group in _GROUPS:
            _say(f"pass {number + 1} of {passes}: {group.__name__.removeprefix('bench.')}")
            group.collect(plan, samples)
        done += 1
    _say("")
    command = " ".join(["python -m bench", *sys.argv[1:]])
    document = build_document(samples, command, done, machine)
    print(render_text(document))
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    if options.write:
        _COMMITTED.write_text(render_markdown(document), encoding="utf-8")
        page = _FRONT_PAGE.read_text(encoding="utf-8")
        _FRONT_PAGE.write_text(replace_table(page, render_front_page(document)), encoding="utf-8")
    return 1 if samples.errors else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, and print one table.")
    parser.add_argument(
        "--quick", action="store_true", help="one pass, the cases with a budget, under two minutes"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="keys to measure: a part or a glob; may be repeated",
    )
    parser.add_argument("--runs", type=int, metavar="N", help="passes; what is reported is their median")
    parser.add_argument("--json", default=str(_LATEST), metavar="PATH", help="where every value is written")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md and the README's table")
    return parser.parse_args()


def _add_peers(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Add the peers of the rows that are asked for: a ratio needs both, from the same run."""
    asked = Plan(patterns=patterns)
    rows = (row for section in SECTIONS.values() for row in section)
    return (*patterns, *(peer for row in rows if patterns and asked.wants(row.key) for peer in row.peers))


def _say(text: str) -> None:
    """Show where it stands, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
