"""What an application calls: a `put` that takes anything, and the dimensions that it has."""

import enum
import threading
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import Series
from tests.client.conftest import ClientMaker
from tests.client.door import Door, dropped
from tests.client.odd import NO_NUMBERS, Ambiguous, Raising


class Colour(str, enum.Enum):  # noqa: UP042 - StrEnum is of 3.11
    """A string that is more than one."""

    RED = "red"


class Text(str):
    """A string that msgpack does not know."""

    __slots__ = ()


NO_NAMES: dict[str, Any] = {
    "None": None,
    "number": 1,
    "bytes": b"n",
    "list": ["n"],
    "tuple": ("n",),
    "dictionary": {},
    "NaN": float("nan"),
    "empty": "",
    "long": "x" * 256,
    "surrogate": "\ud800",
    "raising": Raising(),
    "ambiguous": Ambiguous(),
}
NO_DIMENSIONS: dict[str, Any] = {"raising": Raising(), "surrogate": "\ud800", "long": "x" * 1025}


def _names(dimensions: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(dimensions)


def _dimensions(door: Door, client: MetricsClient) -> list[dict[str, str]]:
    assert client.flush()
    door.read()
    return [dict(series.dimensions) for series in door.series()]


# ---- put


def test_an_event_arrives_with_its_name_value_and_sorted_dimensions(
    door: Door, client: MetricsClient
) -> None:
    client.put("n", 2.5, stream="orders", shard_id="7", error_code="E", zone="a", area="b")
    assert client.flush()
    door.read()
    assert door.series() == {
        Series(
            "n",
            dimensions=(
                ("area", "b"),
                ("error_code", "E"),
                ("shard", "7"),
                ("stream", "orders"),
                ("zone", "a"),
            ),
        ),
    }
    assert door.values() == [2.5]


def test_the_value_is_one_unless_given(door: Door, client: MetricsClient) -> None:
    client.put("n")
    client.put("n")
    assert client.flush()
    door.read()
    assert door.values() == [1.0, 1.0]


def test_shard_id_and_shard_are_one_dimension_of_one_series(door: Door, client: MetricsClient) -> None:
    client.put("n", shard_id="x")
    client.put("n", shard="x")
    client.put("n", shard_id="x", shard=None)
    client.counter("n", shard="y").record(1)
    client.counter("n", shard_id="y").record(1)
    assert client.flush()
    door.read()
    assert door.counts() == {("n", (("shard", "x"),)): 3, ("n", (("shard", "y"),)): 2}


def test_the_order_of_dimensions_makes_no_other_series(door: Door, client: MetricsClient) -> None:
    client.put("n", a="1", b="2")
    client.put("n", b="2", a="1")
    assert _dimensions(door, client) == [{"a": "1", "b": "2"}]
    assert client.statistics().series == 1


def test_none_and_empty_dimensions_are_left_out(door: Door, client: MetricsClient) -> None:
    client.put("n", stream=None, shard_id="", zone=None, area="")
    assert _dimensions(door, client) == [{}]


def test_values_that_are_no_strings_are_written_as_str_writes_them_and_kept_apart(
    door: Door, client: MetricsClient
) -> None:
    values: list[Any] = [1, True, 1.0, "1", Path("/a"), Colour.RED, Text("t"), 2**70]
    for _ in range(2):
        for value in values:
            client.put("n", zone=value)
            client.put("named", stream=value)
    assert client.flush()
    door.read()
    texts = {"1": 4, "True": 2, "1.0": 2, "/a": 2, "red": 2, "t": 2, str(2**70): 2}
    assert door.counts() == {
        (name, ((key, text),)): count
        for name, key in (("n", "zone"), ("named", "stream"))
        for text, count in texts.items()
    }


def test_a_name_may_be_any_kind_of_string(door: Door, client: MetricsClient) -> None:
    for _ in range(2):
        client.put(Colour.RED)
        client.put(Text("red"))
        client.put("red")
    assert client.flush()
    door.read()
    assert door.counts() == {("red", ()): 6}


@pytest.mark.parametrize("what", NO_NUMBERS)
def test_put_and_record_take_any_value_and_count_it(door: Door, client: MetricsClient, what: str) -> None:
    value = NO_NUMBERS[what]
    instrument = client.counter("bound")
    client.put("n", value)
    client.put("n", value)
    instrument.record(value)
    client.put("good", 5.0)
    assert client.flush()
    door.read()
    assert door.values() == [5.0]
    assert client.statistics().dropped == {"value_invalid": 3}


@pytest.mark.parametrize("what", NO_NAMES)
def test_put_takes_any_name_and_counts_what_is_none(door: Door, client: MetricsClient, what: str) -> None:
    name = NO_NAMES[what]
    client.put(name)
    client.put(name, zone="a")
    client.put("good")
    assert client.flush()
    door.read()
    assert door.counts() == {("good", ()): 1}
    assert client.statistics().dropped == {"series_invalid": 2}
    assert dropped(door.frames) == {"series_invalid": 2}


@pytest.mark.parametrize("what", NO_DIMENSIONS)
def test_put_takes_any_dimension_and_counts_what_is_none(
    door: Door, client: MetricsClient, what: str
) -> None:
    value = NO_DIMENSIONS[what]
    client.put("n", stream=value)
    client.put("n", zone=value)
    client.put("n", 1.0, **{str(i): "v" for i in range(31)})
    client.put("good")
    assert client.flush()
    door.read()
    assert door.counts() == {("good", ()): 1}
    assert client.statistics().dropped == {"series_invalid": 3}


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, Ambiguous()], ids=["list", "dict", "set", "ambiguous"])
def test_unhashable_and_odd_dimensions_are_written_as_text(
    door: Door, client: MetricsClient, value: object
) -> None:
    client.put("n", zone=value)
    client.put("n", stream=value)  # type: ignore[arg-type]
    assert client.flush()
    door.read()
    assert sorted(door.counts().values()) == [1, 1]
    assert client.statistics().dropped == {}


def test_the_largest_series_of_the_protocol_with_many_values_arrives(
    door: Door, client: MetricsClient
) -> None:
    dimensions = {f"{i:02}".ljust(255, "k"): "v" * 1024 for i in range(30)}
    for value in range(5_000):
        client.put("n" * 255, value, **dimensions)
    client.put("huge", 1.0, **{f"k{i}": "\U0001f600" * 1024 for i in range(30)})
    # Not to the end: each second is a datagram of 40,000 bytes or more, and the kernel keeps few of them.
    client.flush(0.0)
    door.wait_for_events(5_000)
    door.check()
    assert door.values() == list(range(5_000))
    assert client.statistics().dropped == {"series_invalid": 1}


@pytest.mark.slow
def test_totals_of_eight_threads_are_exact_while_the_daemon_reads_now_and_then(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client(max_series=50)
    counter = client.counter("bound")

    def work(thread: int) -> None:
        for number in range(10_000):
            client.put("n", number, thread=str(thread))
            client.put("shared", 1, zone=str(number % 97))
            counter.record(number + 0.5)
            if number % 100 == 0:
                client.put("invalid\ud800")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        door.read(1)
    for thread in threads:
        thread.join(60)
    client.flush(0.0)
    door.wait_for_events(240_000)
    door.check()
    counts = door.counts()
    for name in ("n", "shared", "bound"):
        assert sum(count for (each, _), count in counts.items() if each == name) == 80_000
    assert ("shared", (("overflow", "true"),)) in counts
    assert client.statistics().dropped == {"series_invalid": 800}
    assert client.statistics().events_sent == 240_000
    assert sum(door.values("n")) == 8 * sum(range(10_000))
    assert sum(door.values("bound")) == 8 * (sum(range(10_000)) + 5_000)


def test_past_max_series_events_share_the_overflow_series_of_their_name(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client(max_series=2)
    for number in range(100):
        client.put("n", 2.0, id=str(number))
    client.counter("m").record(1.0)
    assert client.flush()
    door.read()
    assert door.counts()["n", (("overflow", "true"),)] == 98
    assert door.counts()["m", (("overflow", "true"),)] == 1
    assert sum(door.values("n")) == 200.0
    assert client.statistics().events_overflowed == 99


# ---- constant dimensions


def test_constant_dimensions_are_in_every_series(door: Door, make_client: ClientMaker) -> None:
    client = make_client(dimensions={"service": "shop", "stream": "s", "version": 3})
    client.put("n")
    client.put("n", zone="a")
    client.counter("n", zone="a").record(1)
    constant = {"service": "shop", "stream": "s", "version": "3"}
    assert sorted(_dimensions(door, client), key=len) == [
        constant,
        {**constant, "zone": "a"},
        {**constant, "zone": "a"},
    ]


def test_an_event_s_own_dimension_wins_and_an_empty_one_leaves_it_out(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client(dimensions={"stream": "s", "zone": "z"})
    client.put("a", stream="other")
    client.put("b", stream="", zone="")
    client.put("c", stream=None, zone=None)
    assert client.flush()
    door.read()
    assert {series.name: _names(series.dimensions) for series in door.series()} == {
        "a": {"stream": "other", "zone": "z"},
        "b": {},
        "c": {"stream": "s", "zone": "z"},
    }


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": {"": "v"}},
        {"dimensions": {"k": "x" * 1025}},
        {"dimensions": {1: "v"}},
        {"dimensions": {"k": "\ud800"}},
        {"dimensions": {f"k{i}": "v" for i in range(31)}},
        {"max_series": 0},
        {"level": "some"},
    ],
)
def test_a_client_that_cannot_work_is_refused_when_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        MetricsClient("/nowhere", **options)
