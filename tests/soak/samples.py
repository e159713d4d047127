"""/proc -> descriptors and memory of processes over time, and whether they stay flat."""

import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# A worker that comes and goes has a descriptor more or less for each connection that it serves. An allocator
# takes its time to reach its level: 3 MiB more are no leak in a process of 40 MiB.
_MOST_DESCRIPTORS = 4
_MOST_BYTES = 3 * 1024 * 1024


class Sample(NamedTuple):
    """One process at one moment."""

    at_s: float
    descriptors: int
    memory_bytes: int


def read_sample(at_s: float, pid: int) -> Sample | None:
    """Return what a process has now; None where it has just ended."""
    try:
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return None
    return Sample(at_s, descriptors, resident * _PAGE_BYTES) if resident else None


def list_children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []


def find_growth(samples: Iterable[Sample]) -> list[str]:
    """Say what grew from the second quarter of the time to the last one; nothing is what is hoped for."""
    samples = sorted(samples)
    if not samples:
        return ["there is no sample"]
    begin, end = samples[0].at_s, samples[-1].at_s
    quarter = (end - begin) / 4
    early = [each for each in samples if begin + quarter <= each.at_s < begin + 2 * quarter] or samples[:1]
    late = [each for each in samples if each.at_s >= end - quarter]
    faults = []
    more = median(each.descriptors for each in late) - median(each.descriptors for each in early)
    if more > _MOST_DESCRIPTORS:
        faults.append(f"{more:.0f} descriptors more at the end")
    grown = median(each.memory_bytes for each in late) - median(each.memory_bytes for each in early)
    if grown > _MOST_BYTES:
        faults.append(f"{grown / 2**20:.1f} MiB more at the end")
    return faults


__all__ = ["Sample", "find_growth", "list_children", "read_sample"]
