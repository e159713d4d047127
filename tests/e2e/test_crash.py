"""A short form of `make crash-test`: whatever is done to daemon and producers, all is counted once."""

import pytest

from tests.crash.rounds import ROUNDS
from tests.crash.trial import ASYNCIO, UVLOOP, open_trial

SEED = 4


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "loop", "troubles"),
    [
        pytest.param("kill", UVLOOP, 6, id="the daemon is killed"),
        pytest.param("kill", ASYNCIO, 3, id="the daemon is killed, with asyncio's loop"),
        pytest.param("terminate", UVLOOP, 2, id="the daemon is told to stop"),
        pytest.param("stop", UVLOOP, 1, id="the daemon stands still"),
        pytest.param("orphan", UVLOOP, 3, id="producers are killed while their frames wait"),
    ],
)
def test_every_event_is_counted_exactly_once(name: str, loop: str, troubles: int) -> None:
    with open_trial(loop, SEED) as trial:
        ROUNDS[name](trial, troubles, lambda done: None)
    assert trial.faults == []
    assert trial.events > 0
