"""HTTP as a client sees it: routes, formats, limits, and who is let in. In one process, over real sockets."""

import asyncio
import gzip
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.configuring.address import Address, parse_address
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.errors import ConfigurationError, SocketInUseError
from aiokpl_metricsd.rendering.exposition import Form, accepts_gzip, choose_form
from aiokpl_metricsd.serving import door, http, own_metrics
from aiokpl_metricsd.serving.admin import Admin
from aiokpl_metricsd.serving.door import Doors, open_doors
from aiokpl_metricsd.serving.inquiry import decode_statement
from aiokpl_metricsd.serving.observer import Observer, Parts, name_own_metrics
from aiokpl_metricsd.serving.own_metrics import Differences
from aiokpl_metricsd.serving.view import SelectedWindows
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from tests.daemon.aggregation import BEGIN, Bench, build_column

pytestmark = pytest.mark.asyncio

SCRAPER_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="metricsd-") as path:
        yield Path(path)


class Rig:
    """A daemon's parts behind real doors."""

    def __init__(
        self, directory: Path, listen: str | None = "127.0.0.1:0", hosts: tuple[str, ...] | None = None
    ) -> None:
        self.bench = Bench()
        self.sink = PrometheusSink(clock=lambda: float(BEGIN))
        settings = [
            SinkSettings(name="null", sink=NullSink(), selection=Selection()),
            SinkSettings(name="page", sink=self.sink, selection=Selection()),
        ]
        self.delivery = Delivery(settings)
        aggregator: Aggregator = self.bench.aggregator
        parts = Parts(
            ledger=self.bench.ledger,
            decoder=Decoder(self.bench.ledger),
            aggregator=aggregator,
            registry=self.bench.registry,
            windows=self.bench.windows,
            delivery=self.delivery,
            socket=str(directory / "metrics.sock"),
        )
        self.observer = Observer(parts, float(BEGIN))
        self.observer.scraped = {"page": self.sink}
        self.sink.join_page(SelectedWindows(aggregator, Selection()), name_own_metrics())
        self.is_ready = True
        self.doors: Doors = open_doors(str(directory / "metrics.sock"), listen, hosts)
        self.admin = Admin(
            self.doors, self.observer, aggregator, lambda: self.is_ready, lambda: float(BEGIN + 1)
        )
        self.path = directory / "admin.sock"

    @property
    def url(self) -> str:
        return f"http://{self.doors.opened[-1].address}"

    def add(self, name: str, *values: float) -> None:
        self.bench.aggregator.add_columns([build_column(list(values), name=name)], float(BEGIN))


@asynccontextmanager
async def serving(
    directory: Path, listen: str | None = "127.0.0.1:0", hosts: tuple[str, ...] | None = None
) -> AsyncGenerator[tuple[Rig, aiohttp.ClientSession]]:
    rig = Rig(directory, listen, hosts)
    rig.admin.attach()
    connector = aiohttp.UnixConnector(str(rig.path)) if listen is None else aiohttp.TCPConnector()
    try:
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
        ) as session:
            yield rig, session
    finally:
        await rig.admin.close()
        await asyncio.sleep(0)


async def test_health_and_readiness_are_answered_on_the_unix_socket(directory: Path) -> None:
    async with serving(directory, None) as (rig, session):
        for path in ("healthz", "readyz"):
            async with session.get(f"http://admin/{path}") as answer:
                assert answer.status == 200
        rig.is_ready = False
        async with session.get("http://admin/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "stopping\n")
        async with session.get("http://admin/healthz") as answer:
            assert answer.status == 200
    assert not rig.path.exists()


async def test_the_unix_socket_is_for_this_user_alone(directory: Path) -> None:
    async with serving(directory, None) as (rig, _):
        assert rig.path.stat().st_mode & 0o777 == 0o600


async def test_the_page_has_both_formats_and_shows_series_and_the_daemon_itself(directory: Path) -> None:
    async with serving(directory) as (rig, session):
        rig.add("requests", 1.0, 2.0)
        async with session.get(f"{rig.url}/metrics") as answer:
            assert answer.headers["Content-Type"] == Form.TEXT.value
            text = list(parse_text(await answer.text()))
        async with session.get(f"{rig.url}/metrics", headers={"Accept": SCRAPER_ACCEPT}) as answer:
            assert answer.headers["Content-Type"] == Form.OPENMETRICS.value
            openmetrics = list(parse_openmetrics(await answer.text()))  # type: ignore[no-untyped-call]
    for families in (text, openmetrics):
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        assert samples["requests_total"] == 3.0
        assert samples["metricsd_events_decoded_total"] == 2.0
        assert samples["metricsd_open_events"] == 2.0
        assert samples["metricsd_process_resident_memory_bytes"] > 1e6


async def test_the_page_is_compressed_where_that_is_accepted(directory: Path) -> None:
    async with serving(directory) as (rig, session):
        rig.add("requests", 1.0)
        async with session.get(f"{rig.url}/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert b"requests_total 1.0" in gzip.decompress(await answer.read())
        async with session.get(f"{rig.url}/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            assert "Content-Encoding" not in answer.headers


async def test_a_page_that_was_read_whole_and_nothing_else_is_noted_as_scraped(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(directory) as (rig, session):
        scrapes = rig.observer.scrapes
        rig.add("requests", 1.0, 2.0)
        for method, path in (("HEAD", "/metrics"), ("POST", "/metrics"), ("GET", "/ledger")):
            async with session.request(method, f"{rig.url}{path}") as answer:
                await answer.read()
        with monkeypatch.context() as context:
            context.setattr(http, "ANSWER_S", 0.0)
            with suppress(aiohttp.ClientError):
                async with session.get(f"{rig.url}/metrics") as answer:
                    await answer.read()
        assert (scrapes.read().age_s, scrapes.read().events) == (None, 2)
        async with session.get(f"{rig.url}/metrics") as answer:
            await answer.read()
        rig.add("requests", 3.0)
        assert scrapes.read().age_s is not None
        assert scrapes.read().events == 1


async def test_a_head_request_has_no_body(directory: Path) -> None:
    async with serving(directory) as (rig, session), session.head(f"{rig.url}/metrics") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_the_ledger_is_one_statement_of_all_accounts(directory: Path) -> None:
    async with serving(directory, None) as (rig, session):
        rig.add("requests", 1.0, 2.0)
        async with session.get("http://admin/ledger") as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            body = await answer.read()
        async with session.get("http://admin/ledger", headers={"Accept-Encoding": "gzip"}) as answer:
            assert json.loads(gzip.decompress(await answer.read())) == json.loads(body)
    statement = decode_statement(body)
    assert body.endswith(b"}\n")
    assert (statement.ingest.events_open, statement.ingest.balance["events"]) == (2, 0)
    assert set(statement.sinks) == {"null", "page"}
    assert statement.losses == []


async def test_the_snapshot_is_the_live_view_by_seconds_and_name(directory: Path) -> None:
    async with serving(directory) as (rig, session):
        rig.add("a.one", 1.0, 3.0)
        rig.add("b", 5.0)
        async with session.get(f"{rig.url}/snapshot?seconds=2&name=a.*") as answer:
            assert answer.headers["Content-Type"] == "application/json"
            found = json.loads(await answer.read())
        async with session.get(f"{rig.url}/snapshot") as answer:
            everything = json.loads(await answer.read())
        async with session.get(f"{rig.url}/snapshot?seconds=1") as answer:
            newest = json.loads(await answer.read())
    (row,) = found["series"]
    assert found["seconds"] == 2
    assert {key: row[key] for key in ("name", "count", "sum", "min", "max", "mean")} == {
        "name": "a.one",
        "count": 2,
        "sum": 4.0,
        "min": 1.0,
        "max": 3.0,
        "mean": 2.0,
    }
    assert {each["name"] for each in everything["series"]} == {"a.one", "b"}
    assert newest["series"] == []


@pytest.mark.parametrize(
    "query", ["seconds=0", "seconds=61", "seconds=x", "seconds=", "seconds=1&seconds=2", "other=1"]
)
async def test_a_wrong_query_is_refused(directory: Path, query: str) -> None:
    async with serving(directory) as (rig, session), session.get(f"{rig.url}/snapshot?{query}") as answer:
        assert answer.status == 400


async def test_nothing_can_be_changed_and_nothing_else_is_there(directory: Path) -> None:
    async with serving(directory) as (rig, session):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, f"{rig.url}/metrics") as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET, HEAD"
        async with session.get(f"{rig.url}/else") as answer:
            assert answer.status == 404
        async with session.request("GET", f"{rig.url}/metrics", data=b"x") as answer:
            assert answer.status == 413
        counted = {
            sample.labels: sample.value
            for sample in rig.observer.collect()
            if sample.metric is own_metrics.HTTP_SERVED
        }
    assert counted[("path", "/metrics"), ("status", "405")] == 4
    assert counted[("path", "not_found"), ("status", "404")] == 1


async def test_a_head_that_is_too_long_is_refused(directory: Path) -> None:
    async with serving(directory) as (rig, session):
        long = "x" * (http.MAX_LINE_BYTES + 1)
        async with session.get(f"{rig.url}/healthz", headers={"X": long}) as answer:
            assert answer.status == 400
        async with session.get(f"{rig.url}/snapshot?name={long}") as answer:
            assert answer.status in (400, 414)
        async with session.get(f"{rig.url}/healthz") as answer:
            assert answer.status == 200


async def test_past_the_bound_the_connection_that_is_idle_for_longest_is_closed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    async with serving(directory) as (rig, _):
        address = rig.doors.opened[-1].address
        assert address is not None
        streams = [await ask(address) for _ in range(3)]
        assert await streams[0][0].read() == b""
        await ask_again(streams[1])
        await ask_again(streams[2])
        assert rig.observer.requests.refused == 1
        for _, writer in streams:
            writer.close()


async def test_who_asks_nothing_is_let_go(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_REQUEST_S", 0.0)
    async with serving(directory) as (rig, _):
        address = rig.doors.opened[-1].address
        assert address is not None
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10.0) == b""
        writer.close()


async def test_an_answer_that_nobody_reads_is_given_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_S", 0.0)
    async with serving(directory) as (rig, _):
        address = rig.doors.opened[-1].address
        assert address is not None
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"# HELP" not in await asyncio.wait_for(reader.read(), 10.0)
        writer.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(address: Address) -> Stream:
    stream = await asyncio.open_connection(*address)
    await ask_again(stream)
    return stream


async def ask_again(stream: Stream) -> None:
    reader, writer = stream
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    await reader.readuntil(b"0\r\n\r\n")


async def test_a_stale_admin_socket_is_taken_over_and_a_live_one_is_not(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "admin.sock"))
    first = open_doors(str(directory / "metrics.sock"), None)
    second = open_doors(str(directory / "other.sock"), None)
    assert (len(first.opened), len(second.opened)) == (1, 0)
    second.close()
    assert (directory / "admin.sock").exists()
    first.close()
    assert not (directory / "admin.sock").exists()


async def test_an_address_that_is_taken_or_not_ours_is_an_error(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SocketInUseError, match=f"127.0.0.1:{port}"):
            open_doors(str(directory / "metrics.sock"), f"127.0.0.1:{port}")
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        open_doors(str(directory / "metrics.sock"), "192.0.2.1:9464")
    assert not (directory / "admin.sock").exists()


async def test_without_aiohttp_an_address_is_an_error_that_names_the_extra(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_PACKAGE", "no_such_package")
    assert open_doors(str(directory / "metrics.sock"), None).opened == []
    with pytest.raises(ConfigurationError, match=r"aiokpl-metricsd\[prometheus\]"):
        open_doors(str(directory / "metrics.sock"), "127.0.0.1:0")


async def test_the_differences_of_the_counters_add_up_to_them(directory: Path) -> None:
    rig = Rig(directory)
    differences = Differences(rig.observer.collect, {"pod": "a"})
    rig.add("m", 1.0, 2.0)
    first = differences.build_snapshots("w1", 0.0, 60.0)
    rig.add("m", 3.0)
    second = differences.build_snapshots("w2", 60.0, 120.0)
    rises = [each.sum for each in (*first, *second) if each.name == "metricsd_events_decoded_total"]
    assert rises == [2.0, 1.0]
    assert {each.dimensions for each in first if each.name == "metricsd_events_decoded_total"} == {
        (("pod", "a"),)
    }
    assert all(each.sum > 0.0 for each in (*first, *second))
    rig.doors.close()


async def test_what_an_earlier_daemon_has_counted_is_not_told_again(directory: Path) -> None:
    rig = Rig(directory)
    rig.add("m", 1.0, 2.0)
    differences = Differences(rig.observer.collect, {})
    differences.skip_kept()
    rig.add("m", 3.0)
    told = {each.name: each.sum for each in differences.build_snapshots("w1", 0.0, 60.0)}
    assert told["metricsd_events_decoded_total"] == 1.0
    # The process is another one.
    assert told["metricsd_process_used_cpu_seconds_total"] > 0.0
    rig.doors.close()


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.TEXT),
        ("*/*", Form.TEXT),
        (SCRAPER_ACCEPT, Form.OPENMETRICS),
        ("application/openmetrics-text", Form.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Form.TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", Form.TEXT),
        ("application/openmetrics-text;q=x", Form.TEXT),
        ("application/json", Form.TEXT),
    ],
)
async def test_the_format_is_the_one_that_the_scraper_prefers(accept: str, form: Form) -> None:
    assert choose_form(accept) is form


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*, gzip;q=0", False),
    ],
)
async def test_gzip_is_used_where_it_is_accepted(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "host:", "host:x", "host:65536", "::1:9464", "[host]:1", "h:-1"]
)
async def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        parse_address(text)


async def test_addresses_are_read_as_they_are_written() -> None:
    assert parse_address("127.0.0.1:9464") == Address("127.0.0.1", 9464)
    assert parse_address("[::1]:0") == Address("::1", 0)
    assert str(Address("::1", 1)) == "[::1]:1"
