"""A sink that says its secret wherever it can: the worst that an operator's own may do."""

import logging
import os
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from aiokpl_metricsd.snapshot import MetricSnapshot

_log = logging.getLogger("acme")


class CanarySink:
    """Raises at `stage`, in words that hold the secret, with a cause that holds it as well."""

    def __init__(self, dsn: str, stage: str) -> None:
        self._dsn = dsn
        self._stage = stage
        self._say("build")

    async def check(self) -> None:
        """Say it to the one who checks."""
        self._say("check")

    async def __aenter__(self) -> Self:
        """Say it while the sink comes up."""
        self._say("enter")
        return self

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Say it to the log, in a warning, and as an error."""
        _log.error("cannot reach %s", self._dsn, exc_info=_chain(self._dsn))
        warnings.warn(f"about {self._dsn}", stacklevel=1)
        self._say("export")

    def record(self, event: object) -> None:
        """Say it at each event."""
        self._say("record")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Say it at the end."""
        self._say("exit")

    def _say(self, stage: str) -> None:
        if stage == self._stage:
            raise _chain(self._dsn)


def _chain(secret: str) -> Exception:
    """Return an error that holds a secret, as does its cause, and as does what its class is."""
    try:
        try:
            raise KeyError(secret)  # noqa: TRY301 - an error has to be raised to have a traceback
        except KeyError as error:
            raise OSError(5, f"cannot open {secret!r}", secret) from error
    except OSError as error:
        group = ExceptionGroup(f"{secret}: two", [error, ValueError(os.fsencode(secret))])
        group.add_note(secret)
        return group


__all__ = ["CanarySink"]
