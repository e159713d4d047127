"""Which Host headers are served, by the address that was connected to and the operator's list."""

from pathlib import Path

import pytest

from aiokpl_metricsd.config import load
from aiokpl_metricsd.configuring.address import normalize_host
from aiokpl_metricsd.serving.host import HostRule

COMPOSE = Path(__file__).parents[3] / "deploy" / "compose" / "sinks.toml"

LOOPBACKS = ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "")
OTHERS = ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3", "fe80::1%eth0")


@pytest.mark.parametrize("own_host", LOOPBACKS)
def test_over_the_loopback_local_names_alone_are_served(own_host: str) -> None:
    rule = HostRule()
    assert all(rule.admits(own_host, each) for each in ("localhost", "LOCALHOST.:80", "127.0.0.1:1", "[::1]"))
    assert not any(
        rule.admits(own_host, each) for each in ("", "evil.example", "10.1.2.3:80", "[fd00::1]", "[")
    )


@pytest.mark.parametrize("own_host", OTHERS)
def test_from_outside_whatever_is_asked_for_is_served_where_nothing_is_listed(own_host: str) -> None:
    assert all(HostRule().admits(own_host, each) for each in ("", "evil.example", "10.1.2.3:9464"))


@pytest.mark.parametrize("own_host", OTHERS)
def test_from_outside_only_what_is_listed_is_served(own_host: str) -> None:
    rule = HostRule(["Metrics.example", "[FD00:0::1]", "10.1.2.3"])
    served = ("metrics.example:9464", "METRICS.EXAMPLE.", "[fd00::1]:9464", "10.1.2.3")
    assert all(rule.admits(own_host, each) for each in served)
    refused = (
        "",
        "localhost",
        "127.0.0.1",
        "metrics.example.evil",
        "metrics.example@evil",
        "[metrics.example]",
    )
    assert not any(rule.admits(own_host, each) for each in refused)


def test_a_list_adds_to_the_local_names_over_the_loopback() -> None:
    rule = HostRule(["metrics.example"])
    assert rule.admits("127.0.0.1", "metrics.example:80")
    assert rule.admits("127.0.0.1", "localhost:80")
    assert not rule.admits("127.0.0.1", "evil.example")


@pytest.mark.parametrize("text", ["", ".", "a:1", "a b", "a/b", "[a]", "me@a", "[::1", "::1]", "[::1]:1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normalize_host(text)


def test_the_compose_file_serves_its_forwarded_port_under_local_names_alone() -> None:
    configuration = load(str(COMPOSE), {})
    rule = HostRule(configuration.http.hosts)
    # The other end is the bridge, so this one is the container's address.
    assert all(rule.admits("172.18.0.2", each) for each in ("localhost:9464", "127.0.0.1:9464"))
    assert not rule.admits("172.18.0.2", "evil.example:9464")
