import asyncio
import random
import select
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiokpl_metricsd.outbox import Outbox
from tests.daemon import outbox_steps
from tests.daemon.outbox_steps import MAX_BYTES, check, perform

ROOT = Path(__file__).parents[2]
ROUNDS = 8


def _run_and_kill(directory: Path, step: int, delay_s: float) -> int:
    """Let a process perform transactions from `step` on, kill it, and return the last one it told of."""
    command = [sys.executable, "-m", outbox_steps.__name__, str(directory), str(step)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert select.select([child.stdout], [], [], 60.0)[0]
            time.sleep(delay_s)
        finally:
            child.kill()
        lines = child.stdout.read().split(b"\n")
    # The last line may be half a number.
    return int(lines[-2])


async def _recover(directory: Path) -> int:
    outbox = Outbox.open(directory, max_bytes=MAX_BYTES)
    try:
        assert outbox.set_aside is None
        return await check(outbox, outbox.recovered)
    finally:
        await outbox.close()


@pytest.mark.slow
def test_every_transaction_is_there_whole_or_not_at_all_whenever_the_process_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    step = 0
    for _ in range(ROUNDS):
        told = _run_and_kill(tmp_path, step, chance.random() * 0.15)
        found = asyncio.run(_recover(tmp_path))
        assert found >= told
        step = found + 1
        # A step that was half done is done again: the second sink's transaction of the third kind.
    with sqlite3.connect(tmp_path / "outbox.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (blobs, size_bytes), *_ = connection.execute("SELECT count(*), sum(length(data)) FROM blobs")
        assert connection.execute("SELECT sum(blobs), sum(bytes) FROM batches").fetchall() == [
            (blobs, size_bytes)
        ]
        uses = connection.execute("SELECT sum(uses) FROM batches").fetchone()
        assert (
            uses
            == connection.execute(
                "SELECT (SELECT count(batch) FROM parts) + (SELECT count(*) FROM merging)"
            ).fetchone()
        )
    connection.close()


@pytest.mark.asyncio
async def test_the_steps_leave_what_the_check_expects(tmp_path: Path) -> None:
    for step in range(10):
        outbox = Outbox.open(tmp_path, max_bytes=MAX_BYTES)
        await perform(outbox, step)
        await outbox.close()
        outbox = Outbox.open(tmp_path, max_bytes=MAX_BYTES)
        assert await check(outbox, outbox.recovered) == step
        await outbox.close()
