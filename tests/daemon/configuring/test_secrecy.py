"""Secrets: known by their names, refused where they are written out, and taken out of every text."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from aiokpl_metricsd.config import load
from aiokpl_metricsd.configuring.secrecy import (
    Hider,
    find_in_environment,
    names_secret,
    redact,
)
from aiokpl_metricsd.errors import ConfigurationError
from tests.daemon.configuration import load_text, refuse_text

# Characters that a repr, JSON and a URL write in another way.
ODD = 'se"c\\r/é t\n%'


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "app_key", "API-Key", "dd-api-key", "x-api-key", "apikey", "private_key", "access_key"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "password", "db_password"),
        *("secret", "client_secret", "token", "auth.token", "credentials", "Authorization", "passphrase"),
    ],
)
def test_a_name_tells_a_secret(key: str) -> None:
    assert names_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *("key", "partition_key", "monkey", "keys", "secret_name", "secret_arn", "token_url", "header"),
        *("api_key_file", "password_file", "authority", "tokens_per_second", "endpoint", "x-scope-orgid"),
    ],
)
def test_what_only_looks_like_a_secret_may_be_written(key: str) -> None:
    assert not names_secret(key)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('type = "datadog"\napi_key = "hunter2"', 'api_key: {} or api_key_file = "path"'),
        ('type = "tests.daemon.acme:AcmeSink"\nurl = "http://me:hunter2@x/"', 'url: {} or url_file = "path"'),
        ('type = "datadog"\nproxy = "http://me:hunter2@p"', 'proxy: {} or proxy_file = "path"'),
        ('type = "opentelemetry"\nheaders = { x-api-key = "hunter2" }', ".headers] x-api-key: {}"),
        ('type = "tests.daemon.acme:AcmeSink"\npasswords = ["hunter2"]', "passwords: {}"),
        ('type = "tests.daemon.acme:AcmeSink"\n[[sinks.a.to]]\ntoken = "hunter2"', ".to] token: {}"),
    ],
)
def test_a_secret_that_is_written_out_is_refused_in_words_that_do_not_show_it(
    tmp_path: Path, line: str, expected: str
) -> None:
    said = refuse_text(tmp_path, f"[sinks.a]\n{line}\n")
    assert expected.format('a secret does not belong in this file; write "${NAME}"') in said
    assert "hunter2" not in said


def test_from_a_variable_a_file_or_a_default_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file")
    environ = {"NAME": "from-variable"}
    for line, secret in (
        ('api_key = "${NAME}"', "from-variable"),
        (f'api_key_file = "{tmp_path}/key"', "from-file"),
        ('api_key = "${NO:-default}"', "default"),
    ):
        sink = load_text(tmp_path, f'[sinks.a]\ntype = "datadog"\n{line}\n', environ).sinks["a"]
        assert sink.options["api_key"] == secret
        assert sink.secrets == sink.hidden == (secret,)


@pytest.mark.parametrize(("mode", "is_open"), [(0o644, True), (0o602, True), (0o640, False), (0o600, False)])
def test_a_secrets_file_that_everybody_may_read_is_warned_of(
    tmp_path: Path, mode: int, *, is_open: bool
) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2")
    path.chmod(mode)
    sink = load_text(tmp_path, f'[sinks.a]\ntype = "datadog"\napi_key_file = "{path}"\n').sinks["a"]
    expected = f'[sinks.a] api_key: the content of the file "{path}" is open to every user (mode {mode:04o})'
    assert [expected in warning for warning in sink.warnings] == ([True] if is_open else [])


def test_a_file_that_holds_no_secret_may_be_open(tmp_path: Path) -> None:
    path = tmp_path / "size"
    path.write_text("5")
    path.chmod(0o644)
    sink = load_text(tmp_path, f'[sinks.a]\ntype = "memory"\nmax_exports_file = "{path}"\n').sinks["a"]
    assert sink.warnings == ()


def test_variables_that_sinks_read_by_themselves_are_secret_too() -> None:
    environ = {
        "DD_API_KEY": "dd",
        "AWS_SECRET_ACCESS_KEY": "aws",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=first, b=se=cond",
        "HTTPS_PROXY": "http://me:word@proxy:1",
        "PATH": "/bin",
        "POD_NAME": "pod",
    }
    assert list(find_in_environment(environ)) == ["dd", "aws", "first", "se=cond", "word"]


@pytest.mark.parametrize(
    "write",
    [
        str,
        repr,
        lambda text: msgspec.json.encode(text).decode(),
        lambda text: msgspec.json.encode(msgspec.json.encode(text).decode()).decode(),
        lambda text: " ".join(text.split()),
        lambda text: repr(repr(repr(text))),
        lambda text: repr([text.encode()]),
        lambda text: msgspec.json.encode(repr(OSError(5, repr(text)))).decode(),
        lambda text: "se%22c%5Cr%2F%C3%A9%20t%0A%25",
    ],
)
def test_a_secret_is_taken_out_however_it_is_written(write: Callable[[str], str]) -> None:
    text = f"401 for {write(ODD)}!"
    hider = Hider()
    hider.add([ODD])
    for shown in (redact(text, [ODD]), hider.hide(text)):
        assert "***" in shown
        assert "se" not in shown


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert redact("abcdefgh-ijklmnop", ["abcdefgh", "abcdefgh-ijklmnop"]) == "***"
    hider = Hider()
    hider.add(["abcdefgh"])
    hider.add(["abcdefgh-ijklmnop"])
    assert hider.hide("abcdefgh-ijklmnop abcdefgh") == "*** ***"


def test_short_texts_are_no_secrets_since_they_occur_by_chance() -> None:
    assert redact("the key", ["key"]) == "the key"
    hider = Hider()
    hider.add(["daemon"])
    assert hider.hide("the daemon") == "the daemon"


def test_what_a_module_says_while_it_is_imported_is_searched_for_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative_sink.py").write_text("raise ValueError('hunter2-hunter2')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "sinks.toml"
    path.write_text('[sinks.a]\ntype = "talkative_sink:Sink"\n')
    with pytest.raises(ConfigurationError) as caught:
        load(str(path), {"ACME_TOKEN": "hunter2-hunter2"})
    assert "ValueError: ***" in str(caught.value)
    assert caught.value.__cause__ is None
