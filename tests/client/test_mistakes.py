"""What an application does wrong never raises; it is counted, and the first of each reason is logged."""

import logging
import math
from collections.abc import Iterator

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.statistics import DropReason
from tests.client.door import Door
from tests.client.odd import NO_NUMBERS, Raising
from tests.support.polling import wait_for


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(record.getMessage())


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    logger = logging.getLogger("aiokpl_metrics_client")
    logger.addHandler(records)
    yield records
    logger.removeHandler(records)


@pytest.mark.parametrize("name", NO_NUMBERS)
@pytest.mark.parametrize("make", ["counter", "gauge", "histogram", "summed"])
def test_a_value_that_is_no_number_is_counted_and_told_once(
    door: Door, client: MetricsClient, records: Records, name: str, make: str
) -> None:
    instrument = client.gauge("n", merge="sum") if make == "summed" else getattr(client, make)("n")
    for _ in range(3):
        instrument.record(NO_NUMBERS[name])
        instrument.record(1.5)
        assert client.flush()
    (text,) = records.texts
    assert text.startswith("metrics: 'n' was given ")
    assert text.endswith(
        "which is no finite number; it is dropped, and those that follow are counted only, as value_invalid"
    )
    assert client.statistics().dropped == {"value_invalid": 3}
    door.read()
    assert set(door.values("n")) == {1.5}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (None, "None"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("5", "'5'"),
        ("x" * 10_000, "'" + "x" * 60 + "'"),
        (Raising, "an object of type type"),
        ([1, 2], "an object of type list"),
    ],
    ids=["none", "nan", "inf", "text", "long", "class", "list"],
)
def test_the_value_is_named(client: MetricsClient, records: Records, wrong: object, told: str) -> None:
    client.put("n", wrong)  # type: ignore[arg-type]
    assert client.flush()
    (text,) = records.texts
    assert text.startswith(f"metrics: 'n' was given {told}, which is no finite number; ")


def test_an_event_that_can_have_no_series_is_told_once_by_the_client_s_own_thread(
    client: MetricsClient, records: Records
) -> None:
    for _ in range(5):
        client.put("")
        client.put("n", zone=Raising())
    wait_for(lambda: records.texts, "the log")
    client.put("x" * 500)
    client.flush()
    (text,) = records.texts
    assert text == (
        "metrics: '' with dimensions {} cannot be a series: a name has 1 to 255 characters (name_empty); "
        "it is dropped, and those that follow are counted only, as series_invalid"
    )
    assert client.statistics().dropped == {"series_invalid": 11}


def test_what_an_object_s_own_code_raises_is_told_without_asking_it_again(
    client: MetricsClient, records: Records
) -> None:
    client.put("n", zone=Raising())
    client.flush()
    (text,) = records.texts
    assert text.startswith("metrics: an event has a name or a dimension that cannot be written as text; ")


def test_two_reasons_are_told_once_each() -> None:
    drops = DropCounter()
    for _ in range(3):
        drops.explain(DropReason.VALUE_INVALID, "one")
        drops.explain(DropReason.SERIES_INVALID, "two")
    assert [text.split(";")[0] for text in drops.take_untold()] == ["one", "two"]
    drops.explain(DropReason.VALUE_INVALID, "one")
    assert drops.take_untold() == []
