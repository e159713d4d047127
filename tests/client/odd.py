"""Values and dimensions that no application should record, and some do."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn
from unittest.mock import ANY, MagicMock, Mock


class Ambiguous:
    """As an array of numpy: what compares with it gives no bool."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:  # noqa: ANN401 - no bool is the point
        return Ambiguous()

    def __bool__(self) -> NoReturn:
        raise ValueError("the truth of an array is ambiguous")


class Raising:
    """Raises whatever is done with it."""

    def _raise(self, *_arguments: object) -> NoReturn:
        raise ArithmeticError("no")

    __eq__ = __hash__ = __float__ = __index__ = __str__ = __repr__ = __radd__ = __bool__ = _raise

    @property
    def __class__(self) -> type["Raising"]:
        raise ArithmeticError("no class")

    @__class__.setter
    def __class__(self, value: object) -> None:
        raise ArithmeticError("no class")


class Number:
    """As a scalar of numpy: no float, and yet one."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value

    def __radd__(self, other: float) -> "Number":
        return Number(other + self.value)


class FloatChild(float):
    """A float that msgpack does not know."""


class IntChild(int):
    """An integer that msgpack does not know."""


class Liar(Mock):
    """Claims to be an integer."""


# What is no number at all, with a name for the test's report.
NO_NUMBERS: dict[str, Any] = {
    "None": None,
    "text": "1.0",
    "bytes": b"1",
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "Decimal NaN": Decimal("NaN"),
    "integer beyond floats": 10**400,
    "list": [1.0],
    "complex": 1 + 2j,
    "object": object(),
    "type": float,
    "ANY": ANY,
    "ambiguous": Ambiguous(),
    "raising": Raising(),
    "liar": Liar(spec=int, side_effect=ValueError, __float__=None),
}

# What is one, and as which float it counts.
NUMBERS: dict[str, tuple[Any, float]] = {
    "integer": (3, 3.0),
    "true": (True, 1.0),
    "2**70": (2**70, float(2**70)),
    "-2**70": (-(2**70), -float(2**70)),
    "2**64-1": (2**64 - 1, float(2**64 - 1)),
    "Decimal": (Decimal("1.5"), 1.5),
    "Fraction": (Fraction(1, 4), 0.25),
    "number": (Number(2.5), 2.5),
    "float child": (FloatChild(0.5), 0.5),
    "int child": (IntChild(7), 7.0),
    "magic": (MagicMock(), 1.0),
    "negative zero": (-0.0, 0.0),
    "least": (5e-324, 5e-324),
}

__all__ = ["NO_NUMBERS", "NUMBERS", "Ambiguous", "FloatChild", "IntChild", "Liar", "Number", "Raising"]
