"""The contract suite fails where a sink breaks the contract: its tests against sinks that are broken."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import pytest

from aiokpl_metricsd.errors import (
    ConfigurationError,
    MetricsdError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing import ScriptedSink, sink_contract
from tests.daemon.sinks.contract_backends import ScriptedBackend

Window = Sequence[MetricSnapshot]


class Eager(ScriptedSink):
    """Does something with nothing."""

    async def export(self, snapshots: Window) -> None:
        if not snapshots:
            raise RetryableExportError("empty")
        await super().export(snapshots)


class Once(ScriptedSink):
    """Cannot be entered again."""

    async def __aenter__(self) -> Self:
        if self.left:
            raise ConfigurationError("closed")
        return await super().__aenter__()


class Particular(ScriptedSink):
    """Takes no gauges."""

    async def export(self, snapshots: Window) -> None:
        if any(each.kind.value == "gauge" for each in snapshots):
            raise PermanentExportError("no gauges")
        await super().export(snapshots)


class Careless(ScriptedSink):
    """Raises at odd data what says that the backend is away."""

    async def export(self, snapshots: Window) -> None:
        for each in snapshots:
            each.name.encode()
        await super().export(snapshots)


class Silent(ScriptedSink):
    """Leaves out what is odd and says nothing."""

    async def export(self, snapshots: Window) -> None:
        await super().export([each for each in snapshots if each.name.isidentifier()])


class Optimistic(ScriptedSink):
    """Takes every failure for success."""

    async def export(self, snapshots: Window) -> None:
        with suppress(Exception):
            await super().export(snapshots)


class Pessimistic(ScriptedSink):
    """Takes every refusal for a failure that passes, and wants everything sent again."""

    async def export(self, snapshots: Window) -> None:
        try:
            await super().export(snapshots)
        except (PartialExportError, PermanentExportError) as error:
            raise RetryableExportError(str(error)) from error


class Liar(ScriptedSink):
    """Says, when it is cancelled, that it had finished."""

    async def export(self, snapshots: Window) -> None:
        with suppress(anyio.get_cancelled_exc_class()):
            await super().export(snapshots)


class Sure(ScriptedSink):
    """Promises of repeats what its backend does not keep."""

    repeat_rule = RepeatRule.REPLACES


class Undecided(ScriptedSink):
    """Has no order."""

    def __init__(self) -> None:
        super().__init__()
        del self.ordered


class Slow(ScriptedSink):
    """Records events when it finds the time."""

    def record(self, event: object) -> object:
        return "later"


class Lax(ScriptedSink):
    """Takes any option."""

    def __init__(self, **options: object) -> None:
        super().__init__()


class Forgetful(ScriptedSink):
    """Dumps what is no state."""

    def dump_state(self) -> str:
        return ""

    def load_state(self, state: bytes) -> None:
        """Read nothing."""


class Suite(sink_contract.SinkContract[ScriptedBackend]):
    """The suite over a sink that is broken on purpose."""

    waits_for_entering = False

    def __init__(self, kind: Callable[[], ScriptedSink]) -> None:
        self._kind = kind

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[ScriptedBackend]:
        backend = ScriptedBackend()
        backend.sink = self._kind()
        yield backend

    def build_sink(self, backend: ScriptedBackend) -> ScriptedSink:
        return backend.sink


BREACHES: list[tuple[type[ScriptedSink], str, dict[str, Any]]] = [
    (Undecided, "test_it_declares_its_repeat_rule_and_its_order", {}),
    (Lax, "test_an_unknown_option_is_refused", {}),
    (Eager, "test_an_empty_window_does_nothing", {"runtime": "asyncio"}),
    (Once, "test_it_may_be_entered_and_left_twice", {"runtime": "asyncio"}),
    (Particular, "test_every_plain_snapshot_is_taken", {"runtime": "asyncio"}),
    (Careless, "test_an_odd_snapshot_is_taken_or_named_and_harms_no_other", {"runtime": "asyncio"}),
    (Silent, "test_an_odd_snapshot_is_taken_or_named_and_harms_no_other", {"runtime": "asyncio"}),
    (Optimistic, "test_a_retryable_answer_is_a_retryable_error", {"runtime": "asyncio"}),
    (Pessimistic, "test_a_permanent_answer_is_a_permanent_error", {"runtime": "asyncio"}),
    (Pessimistic, "test_a_partial_answer_says_which_were_taken", {"runtime": "asyncio"}),
    (Liar, "test_a_cancelled_export_ends_at_once_and_leaves_the_sink_usable", {"runtime": "asyncio"}),
    (Slow, "test_record_takes_each_event_at_once", {"runtime": "asyncio"}),
    (Forgetful, "test_another_sink_goes_on_with_what_it_remembers", {"runtime": "asyncio"}),
    (Optimistic, "test_a_poison_datum_is_named_and_alone_is_missing", {}),
    (Optimistic, "test_nothing_is_lost_or_doubled_whatever_is_answered", {"seed": 0}),
    (Pessimistic, "test_nothing_is_lost_or_doubled_whatever_is_answered", {"seed": 0}),
    (Optimistic, "test_a_lost_answer_loses_nothing_and_doubles_only_where_repeats_add", {}),
    (Sure, "test_a_lost_answer_loses_nothing_and_doubles_only_where_repeats_add", {}),
]


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [pytest.param(*each, id=f"{each[0].__name__}-{each[1]}") for each in BREACHES],
)
def test_a_breach_fails(kind: type[ScriptedSink], name: str, arguments: dict[str, Any]) -> None:
    try:
        getattr(Suite(kind), name)(**arguments)
    except pytest.skip.Exception as skip:
        pytest.fail(f"skipped: {skip}")
    except (AssertionError, MetricsdError, pytest.fail.Exception):
        return
    pytest.fail("the sink passed")
