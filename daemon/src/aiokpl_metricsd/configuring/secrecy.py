"""Sinks' options and the environment -> what no output may show, and what must not be written into a file.

A configuration file is copied, mailed and kept in repositories, so a secret in it is refused: it comes from a
variable or from a file of its own. Which options are secret is told by their names; for a name that only
looks like one, `${NAME:-value}` says that it is none.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import cast

from aiokpl_metricsd.configuring.interpolation import FILE_SUFFIX, Interpolated, is_secret_key
from aiokpl_metricsd.configuring.place import Place, quote_key

# A shorter text occurs in an error's words by chance.
MIN_SECRET_CHARS = 4

# The same, of a log's every line.
_MIN_HIDDEN_CHARS = 8

_SECRET = re.compile(
    r"(^|[-_.])(passw(or)?d|passphrase|secret|token|credentials?|authorization|api-?key"
    r"|(access|account|api|app|application|auth|encryption|licen[cs]e|private|secret|signing)[-_.]key([-_.]id)?"
    r")s?$",
    re.IGNORECASE,
)

_URL_PASSWORD = re.compile(r"://[^/\s@]*:([^/\s@]+)@")

# Bits by which everybody may read or write a file.
_OTHERS = 0o006


def names_secret(key: str) -> bool:
    """Tell whether a key's name leaves no doubt that its value is a secret."""
    return _SECRET.search(key) is not None


def refuse_written(table: Mapping[str, object], place: Place, *, is_top: bool = True) -> None:
    """Make sure that no secret is written out in a sink's table, at any depth.

    Args:
        table: interpolated, files not read yet.
        place: where it stands.
        is_top: whether its keys are options, which may have a file.

    Raises:
        ConfigurationError: one is. The message does not show it.
    """
    for key, value in table.items():
        for item in _list_items(value):
            if isinstance(item, dict):
                refuse_written(cast("dict[str, object]", item), place.below(key), is_top=False)
            elif _is_written(key, item):
                way = f' or {quote_key(key + FILE_SUFFIX)} = "path"' if is_top else ""
                raise place.error(
                    f'a secret does not belong in this file; write "${{NAME}}"{way}', quote_key(key)
                )


def _list_items(value: object) -> "list[object]":
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _is_written(key: str, value: object) -> bool:
    if not isinstance(value, str) or isinstance(value, Interpolated) or not value:
        return False
    return names_secret(key) or _URL_PASSWORD.search(value) is not None


def collect_hidden(table: Mapping[str, object]) -> Iterator[str]:
    """Yield what no line of the log may show out of a sink's table: what key or form call secret."""
    for key, value in table.items():
        for item in _list_items(value):
            if isinstance(item, dict):
                yield from collect_hidden(cast("dict[str, object]", item))
            elif isinstance(item, str):
                if is_secret_key(key):
                    yield str(item)
                yield from _URL_PASSWORD.findall(item)


def find_in_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of variables whose names say that they are secret; sinks and SDKs read them, too."""
    for name, value in environ.items():
        if names_secret(name):
            yield value
        elif name.startswith("OTEL_") and name.endswith("_HEADERS"):
            yield from (item.partition("=")[2].strip() for item in value.split(","))
        yield from _URL_PASSWORD.findall(value)


def warn_open_files(table: Mapping[str, object], place: Place) -> Iterator[str]:
    """Yield a line for each secret that came from a file which every user may read or write.

    Args:
        table: a sink's own, with its files read.
        place: where it stands.
    """
    for key, value in table.items():
        if isinstance(value, Interpolated) and value.mode & _OTHERS and names_secret(key):
            problem = f"is open to every user (mode {value.mode:04o}); take their rights away"
            yield str(place.error(f"{value.source} {problem}", quote_key(key)))


def redact(text: str, secrets: Collection[str], min_chars: int = MIN_SECRET_CHARS) -> str:
    """Return the text with "***" for every secret in it, however it is escaped there."""
    pattern = _compile(secrets, min_chars)
    return text if pattern is None else pattern.sub("***", text)


class Hider:
    """Takes secrets out of lines. What was one stays one: a sink that has gone may still speak."""

    def __init__(self) -> None:
        """Know none."""
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Collection[str]) -> None:
        """Know these, too, and of several lines each one; short ones, which occur by chance, are let be."""
        self._secrets.update(*((secret, *secret.splitlines()) for secret in secrets))
        self._pattern = _compile(self._secrets, _MIN_HIDDEN_CHARS)

    def hide(self, line: str) -> str:
        """Return the line with "***" in place of each."""
        return line if self._pattern is None else self._pattern.sub("***", line)


def _compile(secrets: Collection[str], min_chars: int) -> re.Pattern[str] | None:
    """Return what finds each secret, the longest first, in whatever escapes."""
    found = sorted({secret for secret in secrets if len(secret) >= min_chars}, key=len, reverse=True)
    if not found:
        return None
    return re.compile("|".join("".join(map(_match, _TOKEN.findall(secret))) for secret in found))


# One character, but runs of blanks, which an error's words on one line have lost, and of backslashes.
_TOKEN = re.compile(r"\s+|\\+|.", re.DOTALL)


def _match(token: str) -> str:
    """Return what matches a token: as it is, in a URL, in a `repr` or in JSON, however they are nested."""
    if token.isascii() and token.isalnum():
        return token
    in_url = "".join(f"%{byte:02x}" for byte in token.encode(errors="replace"))
    if token.isspace():
        return rf"(?:\s|\\+(?:[bfnrtv]|x[01][0-9a-f]|u00[01][0-9a-f])|(?i:{in_url}))+"
    if token[0] == "\\":
        return rf"(?:\\+|(?i:{in_url}))"
    in_bytes = "".join(rf"\\+x{byte:02x}" for byte in token.encode(errors="replace"))
    return rf"(?:\\*{re.escape(token)}|(?i:{in_url}|{in_bytes}|\\+u{ord(token):04x}|\\+x{ord(token):02x}))"


__all__ = [
    "MIN_SECRET_CHARS",
    "Hider",
    "collect_hidden",
    "find_in_environment",
    "names_secret",
    "redact",
    "refuse_written",
    "warn_open_files",
]
