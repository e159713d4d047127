"""Where something stands in the configuration -> the one line an operator reads about it."""

from typing import NamedTuple

import msgspec

from aiokpl_metricsd.errors import ConfigurationError


class Place(NamedTuple):
    """A table of a configuration file; the empty path is the top of the file.

    Attributes:
        file: the file's path as it was given; "" where the configuration came from no file.
        table: the names down to the table.
    """

    file: str = ""
    table: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return "sinks.toml: [sinks.cw]", without what is empty."""
        table = f"[{'.'.join(map(quote_key, self.table))}]" if self.table else ""
        return ": ".join(filter(None, (self.file, table)))

    def below(self, *names: str) -> "Place":
        """Return the place of a table inside this one."""
        return Place(self.file, (*self.table, *names))

    def error(self, text: str, key: str = "") -> ConfigurationError:
        """Return an error of one line: place, key and what is wrong.

        Args:
            text: what is expected and what was found.
            key: the key as it is to be shown; "" when the whole table is meant.
        """
        subject = (
            " ".join(filter(None, (str(self), key)))
            if self.table
            else ": ".join(filter(None, (str(self), key)))
        )
        line = f"{subject}: {text}" if subject else text
        return ConfigurationError(" ".join(line.splitlines()))


def quote(text: str) -> str:
    """Return the text in double quotes, with control characters escaped."""
    return msgspec.json.encode(text.encode(errors="replace").decode()).decode()


def quote_key(name: str) -> str:
    """Return a key as TOML writes it: bare where it can be."""
    is_bare = name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
    return name if is_bare else quote(name)


def suggest(name: str, known: "list[str]") -> str:
    """Return "; did you mean …?" with the nearest known name, or "" when none is near."""
    from difflib import get_close_matches  # an error's cost, not the start's

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {quote_key(near[0])}?" if near else ""


__all__ = ["Place", "quote", "quote_key", "suggest"]
