"""A wall clock that can be set: Python runs this module first.

`CLOCK_OFFSET` names a file with eight bytes, a float of seconds by which `time.time` is ahead of the machine.
The monotonic clock stays as it is, as it does when somebody sets a machine's clock.
"""

import mmap
import os
import time
from pathlib import Path

if "CLOCK_OFFSET" in os.environ:
    with Path(os.environ["CLOCK_OFFSET"]).open("rb") as _file:
        _offset = memoryview(mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)).cast("d")
    _time, _time_ns = time.time, time.time_ns
    # Whoever imports one of these by name gets this one, too.
    time.time = lambda: _time() + _offset[0]
    time.time_ns = lambda: _time_ns() + int(_offset[0] * 1e9)

__all__: list[str] = []
