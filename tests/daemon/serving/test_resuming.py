import asyncio
from collections.abc import Iterator, Sequence

import pytest

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.serving.resuming import HOLD_S, Resuming
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.sinks.scraped import ScrapedSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import FakeClock, ScriptedSink, build_window, offer, running, serve, settle

pytestmark = pytest.mark.asyncio


class Held(PrometheusSink):
    """A page that takes windows once it may, and fails until then."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 0.0)
        self.may_take = False
        self.looks = 0

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        if not self.may_take:
            raise RetryableExportError
        await super().export(snapshots)

    def see_open(self) -> Iterator[str]:
        self.looks += 1
        return super().see_open()


async def test_who_asks_waits_for_what_waited_at_the_start_and_for_nothing_that_came_later() -> None:
    clock, page = FakeClock(), Held()
    async with running(clock, serve(page, "page")) as delivery:
        offer(delivery, build_window(2))
        await settle()
        resuming = Resuming(delivery, clock, clock.sleep)
        await clock.run(resuming.begin({"page": page}))
        assert page.looks == 1
        asking = asyncio.create_task(resuming.wait())
        await settle()
        assert not asking.done()
        page.may_take = True
        await clock.advance(2.0)
        await asking
        page.may_take = False
        offer(delivery, build_window(1, 60.0))
        await settle()
        await resuming.wait()
        page.may_take = True


async def test_nobody_waits_for_other_sinks_nor_where_nothing_waits() -> None:
    clock, page, other = FakeClock(), Held(), ScriptedSink(then=RetryableExportError())
    async with running(clock, serve(other, "other")) as delivery:
        offer(delivery, build_window(2))
        await settle()
        assert delivery.queue_windows["other"] == 1
        resuming = Resuming(delivery, clock, clock.sleep)
        await clock.run(resuming.begin({"page": page}))
        await resuming.wait()


async def test_the_page_is_shown_after_a_while_whatever_waits() -> None:
    clock, page = FakeClock(), Held()
    scraped: dict[str, ScrapedSink] = {"page": page}
    async with running(clock, serve(page, "page")) as delivery:
        offer(delivery, build_window(2))
        await settle()
        resuming = Resuming(delivery, clock, clock.sleep)
        await clock.run(resuming.begin(scraped))
        asking = [asyncio.create_task(resuming.wait()) for _ in range(2)]
        await clock.advance(HOLD_S - 0.1)
        assert not any(each.done() for each in asking)
        await clock.advance(0.2)
        await asyncio.gather(*asking)
        assert delivery.has_backlog("page")
        # For good: it has been shown.
        await resuming.wait()
        page.may_take = True
