"""A fixed sequence of transactions on an outbox, what each leaves, and a process that performs them."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.outbox import Cut, Mark, OpenPart, Outbox, Recovered, Sealed, SinkAccount
from aiokpl_metricsd.snapshot import MetricSnapshot

MAX_BYTES = 1 << 30


def build_snapshots(count: int, value: int = 1, window_id: str = "d-1") -> list[MetricSnapshot]:
    """Return snapshots of one window, every third a histogram."""
    return [
        MetricSnapshot(
            f"Metric{index}",
            value,
            value * 0.5,
            -1.0,
            value + index,
            (("stream", "orders"), ("shard", str(index))),
            60.0,
            120.0,
            MetricKind.COUNTER if index % 3 else MetricKind.HISTOGRAM,
            None if index % 2 else "ms",
            float(index),
            None if index % 3 else Buckets(3, 1, 5, (1, 2, 3)),
            window_id,
        )
        for index in range(count)
    ]


def mark(account: SinkAccount, *marks: Mark) -> SinkAccount:
    """Return an account with marks."""
    return replace(account, marks=marks)


def build_sealed(position: int, *, blobs: Callable[[], Iterator[bytes]] | None = None) -> Sealed:
    """Return a checkpoint in which everything says its position."""
    text = str(position).encode()
    opened = OpenPart(position, position, position + 60, 7, blobs or (lambda: iter((text, text * 3))))
    producers = [(position % 5, text), (2**63 - 1, text)]
    return Sealed(position, position, position, text, (opened,), producers, [(position + 1) % 5])


async def perform(outbox: Outbox, step: int) -> None:
    """Perform one transaction: a commit, a settlement with a rest, the end of a window of both sinks."""
    account = SinkAccount(str(step).encode(), b"state of %d" % step if step % 2 else None)
    turn, kind = divmod(step, 3)
    first, second = turn * 2 + 1, turn * 2 + 2
    if kind == 0:
        large = build_snapshots(3_000, step + 1)
        batches = (large, build_snapshots(2, step + 1))
        cuts = [Cut("first", "d-1", 120.0, batches), Cut("second", "d-1", 120.0, (large,))]
        held = {"first": build_snapshots(3, step + 1)}
        await outbox.commit(build_sealed(step), cuts, {"first": account}, held)
    elif kind == 1:
        await outbox.settle("first", mark(account, Mark(first, 0, build_snapshots(5, step + 1))))
    else:
        await outbox.discard("second", [second - 2, second], SinkAccount(b"second"))
        await outbox.settle("first", mark(account, Mark(first - 2, 0)))


async def check(outbox: Outbox, recovered: Recovered) -> int:
    """Make sure that there is what the last transaction found leaves; return which one that is."""
    account = recovered.sinks["first"].account
    assert account is not None
    step = int(account.ledger)
    turn, kind = divmod(step, 3)
    committed = turn * 3
    text = str(committed).encode()
    assert (recovered.position, recovered.closed_until, recovered.last_number) == (committed,) * 3
    assert recovered.ledger == text
    assert [(part.number, part.blobs) for part in recovered.opened] == [(committed, (text, text * 3))]
    assert dict(recovered.producers)[2**63 - 1] == text
    assert recovered.sinks["first"].merging == build_snapshots(3, committed + 1)
    odd = step if step % 2 else step - 1
    assert account.state == (b"state of %d" % odd if odd > 0 else None)
    waiting = {window.number: window.counts for window in recovered.sinks["first"].windows}
    rest = 3_000 if kind == 0 else 5
    expected = {number * 2 + 1: (0, 2) for number in range(turn)}
    if turn and kind < 2:
        expected[turn * 2 - 1] = (5, 2)
    expected[turn * 2 + 1] = (rest, 2)
    assert waiting == expected
    first = await outbox.load(turn * 2 + 1, "first", 0)
    assert first == build_snapshots(rest, (committed if kind == 0 else committed + 1) + 1)
    assert await outbox.load(turn * 2 + 1, "first", 1) == build_snapshots(2, committed + 1)
    others = [window.number for window in recovered.sinks["second"].windows]
    # It is let go in a transaction of its own, before the one that the account is written in.
    assert others in ([], [turn * 2 + 2])
    if others:
        assert await outbox.load(others[0], "second", 0) == build_snapshots(3_000, committed + 1)
    return step


async def _run(directory: Path, step: int) -> None:
    outbox = Outbox.open(directory, max_bytes=MAX_BYTES)
    while True:
        await perform(outbox, step)
        print(step, flush=True)  # noqa: T201 - the parent counts on it
        step += 1


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), int(sys.argv[2])))
