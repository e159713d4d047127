"""The table of checks: each is made whatever the others do, and none shows a secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from aiokpl_metricsd.config import load
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.examining import examination
from aiokpl_metricsd.examining.examination import CHECKS, Found, Subject, examine, refuse
from aiokpl_metricsd.examining.finding import REPORT_ADVICE, Finding, Outcome, find_ok, find_worst

SINK = '[sinks.nothing]\ntype = "null"\n'


def build_subject(directory: Path, text: str = SINK, environ: dict[str, str] | None = None) -> Subject:
    path = directory / "sinks.toml"
    path.write_text(text)
    return Subject(load(str(path), {}), (str(directory / "m.sock"),), environ=environ or {})


def list_checks(found: list[Found]) -> list[str]:
    return list(dict.fromkeys(each.check for each in found))


def test_every_check_of_the_table_has_something_to_say(tmp_path: Path) -> None:
    found = examine(build_subject(tmp_path, f'state_dir = "{tmp_path}/state"\n{SINK}'))
    assert list_checks(found) == [*(name for name, _ in CHECKS), "sink nothing"]
    assert [*tmp_path.iterdir()] == [tmp_path / "sinks.toml"]


def test_a_check_that_stumbles_is_a_finding_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_: Subject) -> Iterator[Finding]:
        yield find_ok("so far")
        raise PermissionError(13, "Permission denied", "/root/x")

    monkeypatch.setattr(examination, "CHECKS", (("state", stumble), ("clock", lambda _: (find_ok("ticks"),))))
    found = examine(build_subject(tmp_path))
    assert [(each.check, each.finding.outcome) for each in found][:3] == [
        ("state", Outcome.OK),
        ("state", Outcome.FAILURE),
        ("clock", Outcome.OK),
    ]
    assert "/root/x" in found[1].finding.message


def test_a_check_with_a_defect_is_a_failure_that_shows_no_secret_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_: Subject) -> Iterator[Finding]:
        yield find_ok("so far")
        raise KeyError("s3cr3t-value")

    monkeypatch.setattr(examination, "CHECKS", (("state", stumble), ("clock", lambda _: (find_ok("ticks"),))))
    found = examine(build_subject(tmp_path, environ={"DD_API_KEY": "s3cr3t-value"}))
    assert [(each.check, each.finding.message) for each in found][:3] == [
        ("state", "so far"),
        ("state", "the check itself failed: KeyError: '***'"),
        ("clock", "ticks"),
    ]
    assert (found[1].finding.outcome, found[1].finding.advice) == (Outcome.FAILURE, REPORT_ADVICE)


def test_no_check_shows_what_a_variable_keeps_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        examination, "CHECKS", (("daemon", lambda _: (find_ok("403: bad key s3cr3t-value"),)),)
    )
    subject = build_subject(tmp_path, environ={"DD_API_KEY": "s3cr3t-value", "HOME": "bad"})
    assert examine(subject)[0].finding.message == "403: bad key ***"


def test_a_secret_in_a_file_that_is_open_to_all_is_a_warning(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    text = f'[sinks.dd]\ntype = "datadog"\napi_key_file = "{key}"\nendpoint_url = "http://127.0.0.1:9"\n'
    for mode, outcome in ((0o644, Outcome.WARNING), (0o600, Outcome.OK)):
        key.chmod(mode)
        found = examine(replace(build_subject(tmp_path, text), is_offline=True))
        of_configuration = [each.finding for each in found if each.check == "configuration"]
        assert find_worst(of_configuration) is outcome
        assert "0123456789abcdef" not in str(found)


def test_what_needs_http_is_missed_where_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiokpl_metricsd.serving.door.is_installed", lambda: False)
    for text in (f'[http]\nlisten = "127.0.0.1:0"\n{SINK}', '[sinks.page]\ntype = "prometheus"\n'):
        found = examine(build_subject(tmp_path, text))
        wrong = [each.finding.message for each in found if each.finding.outcome is Outcome.FAILURE]
        assert len(wrong) == 1
        assert "aiokpl-metricsd[prometheus]" in wrong[0]


def test_a_configuration_that_cannot_be_used_leaves_the_kernel_to_look_at() -> None:
    found = refuse(ConfigurationError("sinks.toml: no sink"))
    assert list_checks(found) == ["configuration", "kernel"]
    assert (found[0].finding.outcome, found[0].finding.message) == (Outcome.FAILURE, "sinks.toml: no sink")
