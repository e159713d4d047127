"""Configuration values -> the same with the environment's and files' contents in their places.

`${NAME}` and `${NAME:-default}` stand for a variable wherever a value is a string; `$${` is a literal `${`.
Keys are never touched, and what a variable holds is never interpolated again. `OPTION_file = "path"` reads
OPTION from a file.

What comes from a variable or a file may be a secret: it carries a description of where it came from, and
errors show that description in its place.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import Self, cast

from aiokpl_metricsd.configuring.place import Place, quote, quote_key, suggest

FILE_SUFFIX = "_file"

# A key that has one of these words in it holds a secret, even where the value is written out.
_SECRET_WORDS = ("auth", "credential", "header", "key", "password", "secret", "token")

_REFERENCE = r"\$\$\{|\$\{([^}]*)\}|\$\{"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class Interpolated(str):
    """A string that is not written in the configuration file, at least not wholly.

    Attributes:
        source: where it came from, in words; what an error shows in place of the text.
        is_whole: True when all of it came from one variable or file; it is then converted to its key's type.
        mode: the permission bits of the file that it came from; 0 where it came from none.
    """

    __slots__ = ("is_whole", "mode", "source")

    source: str
    is_whole: bool
    mode: int

    def __new__(cls, text: str, source: str, *, is_whole: bool, mode: int = 0) -> Self:
        """Mark a text."""
        self = super().__new__(cls, text)
        self.source = source
        self.is_whole = is_whole
        self.mode = mode
        return self

    def __repr__(self) -> str:
        """Return the source: a traceback must not show the text."""
        return f"<{self.source}>"


def interpolate(table: Mapping[str, object], environ: Mapping[str, str], place: Place) -> dict[str, object]:
    """Return the table with every reference in its values, at any depth, replaced.

    Args:
        table: as read from TOML; it stays as it is.
        environ: the variables.
        place: where the table stands.

    Raises:
        ConfigurationError: a variable is missing and has no default, or a reference is malformed.
    """
    return {name: _walk(value, environ, place, name, "") for name, value in table.items()}


def _walk(value: object, environ: Mapping[str, str], place: Place, name: str, index: str) -> object:
    if isinstance(value, str):
        return _replace(value, environ, place, quote_key(name) + index) if "${" in value else value
    if isinstance(value, dict):
        return interpolate(cast("dict[str, object]", value), environ, place.below(name + index))
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_walk(item, environ, place, name, f"{index}[{number}]") for number, item in enumerate(items)]
    return value


def _replace(text: str, environ: Mapping[str, str], place: Place, key: str) -> str:
    names: list[str] = []

    def resolve(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise place.error('a "${" without its "}"; write "$${" for a literal one', key)
        name, found = _look_up(match[1], environ, place, key)
        names.append(name)
        return found

    result = re.sub(_REFERENCE, resolve, text)
    if not names:
        return result
    is_whole = re.fullmatch(_REFERENCE, text) is not None
    references = " and ".join(f"${{{name}}}" for name in dict.fromkeys(names))
    source = f"the value of {references}" if is_whole else f"a string with the value of {references}"
    return Interpolated(result, source, is_whole=is_whole)


def _look_up(reference: str, environ: Mapping[str, str], place: Place, key: str) -> tuple[str, str]:
    name, separator, default = reference.partition(":-")
    # The reference itself is not shown: its default may be a secret.
    if re.fullmatch(_NAME, name) is None:
        raise place.error('expected ${NAME} or ${NAME:-default}, NAME of letters, digits and "_"', key)
    if "${" in default:
        raise place.error(f"the default of ${{{name}}} cannot hold another reference", key)
    found = environ.get(name)
    if separator:
        return name, found or default
    if found is None:
        raise place.error(f"the variable {name} is not set; set it, or write ${{{name}:-default}}", key)
    return name, found


def inline_files(
    table: Mapping[str, object],
    known: Collection[str],
    place: Place,
    *,
    is_open: bool = False,
) -> dict[str, object]:
    """Return the table with each `OPTION_file` replaced by OPTION and the file's text.

    A key that is itself known stays: a sink may have an option called `ca_file`.

    Args:
        table: one table of the configuration, interpolated.
        known: the keys that the table takes.
        place: where the table stands.
        is_open: True when the table takes keys beyond the known ones.

    Raises:
        ConfigurationError: the option is unknown or given twice, or the file cannot be read.
    """
    result: dict[str, object] = {}
    for key, value in table.items():
        option = key.removesuffix(FILE_SUFFIX)
        if key in known or option in {key, ""}:
            result[key] = value
            continue
        if option not in known and not is_open:
            near = suggest(key, [*known, *(name + FILE_SUFFIX for name in known)])
            raise place.error(
                f"unknown key: there is no option {quote_key(option)} to read{near}", quote_key(key)
            )
        if option in table:
            raise place.error(
                f"{quote_key(option)} is given as well; expected one of the two", quote_key(key)
            )
        result[option] = _read(value, place, quote_key(key))
    return result


def _read(path: object, place: Place, key: str) -> Interpolated:
    if not isinstance(path, str) or not path:
        raise place.error("expected the path of a file", key)
    shown = path.source if isinstance(path, Interpolated) else quote(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - pathlib costs import time
            text = file.read()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise place.error(f"cannot read the file {shown}: {error.strerror}", key) from None
    except UnicodeDecodeError:
        raise place.error(f"the file {shown} is not UTF-8", key) from None
    except ValueError:
        raise place.error(f"{shown} is no path", key) from None
    # One line end only: what else is there belongs to the value.
    text = text.removesuffix("\n").removesuffix("\r")
    return Interpolated(text, f"the content of the file {shown}", is_whole=True, mode=mode)


def is_secret_key(key: str) -> bool:
    """Tell whether the key's name says that its value is a secret."""
    lowered = key.lower()
    return any(word in lowered for word in _SECRET_WORDS)


def collect_secrets(value: object, *, is_secret: bool = False) -> Iterator[str]:
    """Yield every string in a table that must not be shown: interpolated, or under a key that says so."""
    if isinstance(value, str):
        if is_secret or isinstance(value, Interpolated):
            yield str(value)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            yield from collect_secrets(item, is_secret=is_secret or is_secret_key(key))
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from collect_secrets(item, is_secret=is_secret)


__all__ = ["FILE_SUFFIX", "Interpolated", "collect_secrets", "inline_files", "interpolate", "is_secret_key"]
