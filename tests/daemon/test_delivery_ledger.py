import asyncio
from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import Answer, FakeClock, ScriptedSink, build, build_snapshot, offer, serve

OUTCOMES = st.sampled_from(
    ["ok", "retry", "after", "other", "hang", "permanent", "partial", "stuck", "cancel"]
)


def play(outcome: str, random: Random) -> Answer:
    async def answer(batch: Sequence[MetricSnapshot]) -> None:
        low, high = sorted((random.randint(0, len(batch)), random.randint(0, len(batch))))
        if outcome == "hang":
            await asyncio.Event().wait()
        raise {
            "retry": RetryableExportError("busy"),
            "after": RetryableExportError("busy", retry_after_s=45.0),
            "other": ValueError("odd"),
            "permanent": PermanentExportError("no"),
            "partial": PartialExportError(remaining=batch[:low], rejected=batch[high:]),
            "stuck": PartialExportError(remaining=batch, retry_after_s=5.0),
            "cancel": asyncio.CancelledError(),
        }[outcome]

    return None if outcome == "ok" else answer


@settings(max_examples=60, deadline=None)
@given(
    st.lists(OUTCOMES, max_size=40),
    OUTCOMES,
    st.lists(st.tuples(st.integers(0, 9), st.floats(0.0, 90.0)), max_size=12),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_ledger_balances_after_every_step_of_any_script(
    script: list[str],
    then: str,
    windows: list[tuple[int, float]],
    ordered: bool,
    seed: int,
) -> None:
    async def run() -> None:
        clock, random = FakeClock(), Random(seed)
        sink = ScriptedSink([play(each, random) for each in script], then=play(then, random), ordered=ordered)
        selection = Selection(exclude=["m0"], drop_dimensions=["k"], interval_s=120 if seed % 2 else None)
        delivery = build(clock, serve(sink, max_windows=4, timeout_s=10.0, selection=selection), seed=seed)
        await delivery.start()
        ledger = delivery.ledgers["sink"]
        for number, (size, duration_s) in enumerate(windows):
            window = [
                build_snapshot(f"m{n // 2}", dimensions=(("k", f"{n}"),), start=60.0 * number)
                for n in range(size)
            ]
            offer(delivery, window)
            assert ledger.balance() == 0
            await clock.advance(duration_s)
            assert ledger.balance() == 0
            assert min(ledger.waiting, ledger.merging) >= 0
        assert await clock.run(delivery.close(5.0)) <= 5.0
        assert (ledger.balance(), ledger.waiting, ledger.merging) == (0, 0, 0)
        assert ledger.closed == sum(size for size, _ in windows)
        assert sink.left == 1

    asyncio.run(run())
