"""Configuration files for tests: write a text, load it, or catch the line that it is refused with."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from aiokpl_metricsd.config import Configuration, load
from aiokpl_metricsd.errors import ConfigurationError

SINK = '[sinks.m]\ntype = "memory"\n'

_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def load_text(directory: Path, text: str, environ: Mapping[str, str] = _NO_VARIABLES) -> Configuration:
    """Load a file of the given text, sinks.toml in the directory."""
    path = directory / "sinks.toml"
    path.write_text(text)
    return load(str(path), environ)


def refuse_text(directory: Path, text: str, environ: Mapping[str, str] = _NO_VARIABLES) -> str:
    """Return the line that the text is refused with, without the file's path, which it must begin with."""
    with pytest.raises(ConfigurationError) as caught:
        load_text(directory, text, environ)
    line = str(caught.value)
    assert "\n" not in line
    prefix = f"{directory}/sinks.toml: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


__all__ = ["SINK", "load_text", "refuse_text"]
