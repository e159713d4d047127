"""The tables `[http]` and `[self_metrics]`: off unless set, and strict like the rest."""

from pathlib import Path

import pytest

from aiokpl_metricsd.sinks.loading import build_sink
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from tests.daemon.configuration import SINK, load_text, refuse_text


def test_nothing_is_listened_on_or_told_unless_it_is_set(tmp_path: Path) -> None:
    configuration = load_text(tmp_path, SINK)
    assert configuration.http.listen is None
    assert not configuration.self_metrics.enabled


def test_the_hosts_are_read(tmp_path: Path) -> None:
    text = f'[http]\nlisten = "[::]:1"\nhosts = ["localhost", "::1", "[::1]", "10.0.0.1"]\n{SINK}'
    assert load_text(tmp_path, text).http.hosts == ("localhost", "::1", "[::1]", "10.0.0.1")


def test_both_are_read(tmp_path: Path) -> None:
    text = f'[http]\nlisten = "${{HOST}}:9464"\n[self_metrics]\nenabled = true\n{SINK}'
    configuration = load_text(tmp_path, text, {"HOST": "127.0.0.1"})
    assert configuration.http.listen == "127.0.0.1:9464"
    assert configuration.self_metrics.enabled


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[http]\nlisten = "9464"', '[http] listen: expected "host:port", such as "127.0.0.1:9464"'),
        (
            '[http]\nlisten = "[::]:1"\nhosts = ["localhost:9464"]',
            '[http] hosts: expected names or addresses without a port, such as "localhost"',
        ),
        (
            '[http]\nlisten = "[::]:1"\nhosts = []',
            "[http] hosts: expected an array of one string or more, none of them empty, found an array",
        ),
        (
            '[http]\nhosts = ["localhost"]',
            "[http] hosts: there is no TCP without listen; set it as well, or leave this out",
        ),
        ('[http]\nport = "1"', "[http] port: unknown key; expected one of: hosts, listen"),
        ("[self_metrics]\nenabled = 1", "[self_metrics] enabled: expected true or false, found 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, line: str) -> None:
    assert refuse_text(tmp_path, f"{text}\n{SINK}") == line


def test_the_scraped_sinks_options_come_from_its_table(tmp_path: Path) -> None:
    text = '[sinks.p]\ntype = "prometheus"\nprefix = "x_"\nbuckets = [1, 2.5]\nidle_s = 60\n'
    assert isinstance(build_sink(load_text(tmp_path, text).sinks["p"]), PrometheusSink)


def test_an_option_out_of_its_range_is_one_line(tmp_path: Path) -> None:
    configuration = load_text(tmp_path, '[sinks.p]\ntype = "prometheus"\nbuckets = [2.0, 1.0]\n')
    with pytest.raises(Exception, match="buckets has ascending bounds"):
        build_sink(configuration.sinks["p"])
