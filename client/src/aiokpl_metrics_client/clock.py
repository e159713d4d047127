"""The system's clocks, as they were at import: whoever freezes time in a test holds up no sender by it.

In a class, since libraries that freeze time look through the modules for the functions that they replace.
`time.sleep` is not among them: what replaces that has green threads, and means to be called.
"""

import time


class Clock:
    """The functions themselves: they are there at the very end of an interpreter, too."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    perf_counter_ns = staticmethod(time.perf_counter_ns)


__all__ = ["Clock"]
