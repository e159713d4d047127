"""The other end of a sink, as the contract suite sees it: told what to answer, and looked into."""

from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import TypeAlias

# What tells two totals of a backend apart. The default is (name, dimensions, window_end).
Key: TypeAlias = Hashable


class Answer(StrEnum):
    """What a backend does with the next request that it gets."""

    ACCEPT = "accept"
    """It takes the request."""
    RETRYABLE = "retryable"
    """It takes nothing now; the same may be sent again."""
    PERMANENT = "permanent"
    """It refuses the request for good."""
    PARTIAL = "partial"
    """It takes a part of the window, and the sink knows which. That may be an answer to two requests."""
    LOST = "lost"
    """It takes the request, but the answer never arrives: the sink sees a failure."""
    HANG = "hang"
    """It takes nothing and says nothing, until `release` is called."""


class Backend:
    """A backend under the suite's control. Everything is optional: what is not overridden skips its tests.

    Attributes:
        answers: what `answer_next` can bring about. Tests that need another answer are skipped.
    """

    answers: frozenset[Answer] = frozenset()

    def answer_next(self, answer: Answer) -> None:
        """Answer one more request so, after those that were told before; all later ones are accepted."""
        raise NotImplementedError(f"cannot be told to answer: {answer.value}")

    def poison(self, name: str) -> bool:
        """Refuse every request with this metric in it, for good. Return False where that cannot be done."""
        del name
        return False

    def read(self) -> Mapping[Key, float] | None:
        """Return the totals of all that was taken, in the keys of `expect`; None where they are unknown.

        It may be the mapping that the backend goes on with: the suite copies what it looks at later.
        """
        return None

    def is_hanging(self) -> bool:
        """Return whether a request hangs at this moment."""
        return False

    def release(self) -> None:
        """Let go of what hangs, without taking it. May be called from any thread, and twice."""


__all__ = ["Answer", "Backend", "Key"]
