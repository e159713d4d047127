"""The wall clock -> whether windows get times that backends take. Compared with the backends' own."""

from collections.abc import Iterator, Mapping
from typing import Final

from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn

# When this was written: a machine whose clock stands before it has lost the time.
_RELEASED: Final = 1_790_000_000.0

# Ours: a window in the wrong second is no harm, one in the wrong minute may be.
_TOLERATED_S: Final = 5.0

# AWS refuses signatures that are off by more (Signature Version 4, "RequestTimeTooSkewed", read 2026-11);
# Datadog takes ten minutes ahead.
_REFUSED_S: Final = 300.0

_ADVICE: Final = "set the clock: look at the machine's time service, as chronyd or systemd-timesyncd"


def check_epoch(now: float) -> Finding:
    """Judge the clock by itself. The time zone does not matter: windows are aligned to the epoch."""
    if now < _RELEASED:
        return fail(f"the clock says {now:.0f} s since 1970, before this version was written", _ADVICE)
    return find_ok(f"{now:.0f} s since 1970")


def check_offsets(offsets: Mapping[str, float]) -> Iterator[Finding]:
    """Judge how far ahead of each backend's clock this one is.

    Args:
        offsets: seconds, by the sink's name; a backend says whole seconds only.
    """
    for name, offset_s in offsets.items():
        side = "ahead of" if offset_s > 0 else "behind"
        said = f"{abs(offset_s):.1f} s {side} the backend of {name}"
        if abs(offset_s) >= _REFUSED_S:
            yield fail(f"{said}, which may refuse what it is sent", _ADVICE)
        elif abs(offset_s) > _TOLERATED_S:
            yield warn(said, _ADVICE)
        else:
            yield find_ok(f"as the backend of {name} says")


__all__ = ["check_epoch", "check_offsets"]
