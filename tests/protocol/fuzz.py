"""A seed -> datagrams that no honest producer sends, and some that one might.

They are noise, valid frames, mutated ones (bits flipped, cut, filled in, spliced, repeated), frames of wrong
types, deep nesting, claimed lengths beyond the end, empty datagrams, and larger ones than are allowed.

Some decode, and their events are counted, so a test that sends good events beside them gives its own series
names that begin with `GOOD_PREFIX`: no datagram from here contains these bytes, so none can reach such a
series, whether by a row's name or by a column's series blob. What a mutation happens to spell so is spelled
otherwise before it is yielded. That a producer id from here is a real producer's is as unlikely as that two
real ones are the same.

A datagram costs about a microsecond: a few thousand bases are built first and then only sliced.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from msgspec.msgpack import encode

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from tests.protocol.golden import read_golden

GOOD_PREFIX = "good."

# Ordinary ones have a hundred bytes or so; the large ones are rare because sending one costs as much as many.
RARE_EVERY = 400

_GOOD = GOOD_PREFIX.encode()
_OTHER = b"evil."
_BASES = 3_000
_NOISE_BYTES = 1 << 16

# Beginnings of arrays, maps, strings, bytes and extensions longer than any datagram, and odd values.
_TOKENS = tuple(
    bytes.fromhex(token)
    for token in (
        *("ddffffffff", "dcffff", "dd7fffffff", "dfffffffff", "deffff", "dbffffffff", "daffff", "d9ff"),
        *("c6ffffffff", "c5ffff", "c4ff", "c9ffffffff01", "c8ffff01", "c7ff01", "c1", "c0", "90", "80", "a0"),
        *(
            "cfffffffffffffffff",
            "d38000000000000000",
            "cb7ff8000000000000",
            "cb7ff0000000000000",
            "cbfff0000000000000",
        ),
        *(
            "a1ff",
            "a3eda080",
            "ca7fc00000",
            "c2",
            "c3",
            "00",
            "ff",
            "7f",
            "ceffffffff",
            "d600000000",
            "d7ff0000000000000000",
        ),
    )
)

# How the bases begin that have a producer id of 64 bits.
_NUMBERED = (b"\x95\x02\xcf", b"\x95\x03\xcf")
_BYTES = tuple(bytes([byte]) for byte in range(256))


def random_datagrams(seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` datagrams, the same for the same seed. None contains `GOOD_PREFIX`."""
    source = Random(seed)
    random = source.random
    bases = _build_bases(source)
    rare = _build_rare(source)
    mutations = Mutator(source, bases).list_mutations()
    base_count, mutation_count = len(bases), len(mutations)
    for number in range(count):
        if number % RARE_EVERY == RARE_EVERY - 1:
            # In turn, so that none is left out by the luck of the draw.
            data = rare[number // RARE_EVERY % len(rare)]
        else:
            data = mutations[int(random() * mutation_count)](bases[int(random() * base_count)])
        yield data.replace(_GOOD, _OTHER) if _GOOD in data else data


# ---- mutations


class Mutator:
    """What is done to a base, which is never empty. Each mutation draws from the one source of randomness."""

    def __init__(self, source: Random, bases: list[bytes]) -> None:
        self._random = source.random
        self._bases = bases
        self._noise = source.randbytes(_NOISE_BYTES)

    def list_mutations(self) -> tuple[Callable[[bytes], bytes], ...]:
        """Return every mutation; the one that stands twice is twice as likely."""
        return (
            self.renumber,
            self.flip_bit,
            self.flip_bit,
            self.replace_byte,
            self.truncate,
            self.append,
            self.insert,
            self.overwrite,
            self.put_token,
            self.splice,
            self.repeat,
            self.make_noise,
        )

    def renumber(self, data: bytes) -> bytes:
        """Keep a frame, but as that of another producer, so that it is no repeat."""
        if data[:3] not in _NUMBERED:
            return data
        at = int(self._random() * (_NOISE_BYTES - 8))
        return data[:3] + b"\x3f" + self._noise[at : at + 7] + data[11:]

    def flip_bit(self, data: bytes) -> bytes:
        at = int(self._random() * len(data))
        return data[:at] + _BYTES[data[at] ^ (1 << int(self._random() * 8))] + data[at + 1 :]

    def replace_byte(self, data: bytes) -> bytes:
        at = int(self._random() * len(data))
        return data[:at] + _BYTES[int(self._random() * 256)] + data[at + 1 :]

    def truncate(self, data: bytes) -> bytes:
        return data[: int(self._random() * len(data))]

    def append(self, data: bytes) -> bytes:
        return data + self._draw_noise(16)

    def insert(self, data: bytes) -> bytes:
        at = int(self._random() * (len(data) + 1))
        return data[:at] + self._draw_noise(16) + data[at:]

    def overwrite(self, data: bytes) -> bytes:
        at, noise = int(self._random() * len(data)), self._draw_noise(8)
        return data[:at] + noise + data[at + len(noise) :]

    def put_token(self, data: bytes) -> bytes:
        at = int(self._random() * len(data))
        return data[:at] + _TOKENS[int(self._random() * len(_TOKENS))] + data[at + 1 :]

    def splice(self, data: bytes) -> bytes:
        other = self._bases[int(self._random() * len(self._bases))]
        return data[: int(self._random() * len(data))] + other[int(self._random() * len(other)) :]

    def repeat(self, data: bytes) -> bytes:
        at = int(self._random() * len(data))
        end = at + 1 + int(self._random() * 16)
        return data[:end] + data[at:end] * int(self._random() * 8) + data[end:]

    def make_noise(self, _: bytes) -> bytes:
        return self._draw_noise(200)

    def _draw_noise(self, below: int) -> bytes:
        """Return 1 to `below - 1` bytes."""
        at = int(self._random() * (_NOISE_BYTES - below))
        return self._noise[at : at + 1 + int(self._random() * (below - 1))]


# ---- bases


def _build_bases(source: Random) -> list[bytes]:
    """Return small datagrams to mutate: valid frames of every type, and frames with wrong types in them."""
    bases = [golden.data for golden in read_golden().values()]
    bases += [encode([tag]) for tag in (*range(8), -1, 127, 128, 2**16, 2**32, 2**63)]
    while len(bases) < _BASES:
        frame = _build_frame(source)
        if source.random() < 0.25:
            _spoil(source, frame)
        bases.append(encode(frame))
    return bases


def _build_rare(source: Random) -> list[bytes]:
    """Return the datagrams whose size makes them dear: too large, just allowed, and deeply nested ones."""
    openings = [bytes.fromhex(opening) for opening in ("91", "81", "81 01", "dc0001", "dd00000001", "92 c0")]
    heads = [
        bytes.fromhex(head)
        for head in ("", "93 01 90", "92", "92 01", "95 02 00 00 93 00 80", "95 04 00 00 a0")
    ]
    rare = [b""]
    for opening in openings:
        for head in heads:
            levels = source.choice((500, 2_000, 10_000, 60_000 // len(opening)))
            rare.append(head + opening * levels)
    row = ["bulk", 1.0, 0.0]
    rows = (MAX_DATAGRAM_BYTES - 10) // len(encode(row))
    rare.append(encode([1, [row] * rows]))
    rare.append(encode([1, [[text, 1.0, 0.0] for text in ("n" * 60_000, "v" * 300)]]))
    rare.append(encode([1, [["bulk", 1.0, 0.0, [["k", "v" * 2_000]] * 31]]]))
    for size in (MAX_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES + 1, MAX_DATAGRAM_BYTES + 500, 100_000):
        rare.append(source.randbytes(size))
        rare.append((b"\x93\x01\x90\xc6" + (size - 8).to_bytes(4, "big")).ljust(size, b"\x00"))
    return rare


def _build_frame(source: Random) -> list[Any]:
    tag = source.randint(1, 5)
    count = source.choice((0, 1, 1, 2, 5))
    if tag == 1:
        return [1, [_build_row(source) for _ in range(count)]]
    numbers = [source.choice((0, 7, 2**61 + source.randrange(1000))), source.randrange(200)]
    if tag in {2, 3}:
        build = _build_column if tag == 2 else _build_set
        totals = [source.randrange(10_000), {"buffer_full": source.randrange(100)}]
        return [tag, *numbers, totals, [build(source) for _ in range(count)]]
    return [4, *numbers, "fuzz/1"] if tag == 4 else [5, numbers[1], 0, True, 60.0, numbers[0]]


def _build_row(source: Random) -> list[Any]:
    row = [
        _build_name(source),
        _build_value(source),
        source.choice((0, 0, 1_790_000_000.5, -1.0, 1e18)),
        _build_dimensions(source),
        source.choice((None, "counter", "gauge", "histogram", "speed")),
        source.choice((None, "ms", "bytes", "u" * 64)),
    ]
    return row[: source.randint(3, 6)]


def _build_column(source: Random) -> list[Any]:
    column: list[Any] = [_build_blob(source), source.choice((0, 1_790_000_000, -1, 2**63))]
    if source.random() < 0.5:
        return [*column, [_build_value(source) for _ in range(source.randrange(8))]]
    return [*column, _build_value(source), source.choice((0, 1, 3, 2**32, 2**32 + 1, -1))]


def _build_set(source: Random) -> list[Any]:
    numbers = [_build_value(source) for _ in range(4)]
    folded = [_build_blob(source), 1_790_000_000, source.choice((0, 1, 2, 2**62)), *numbers, 1_790_000_001]
    scale = source.choice((3, 0, 20, -10, 21, 10**6, -(10**6)))
    counts = [source.randrange(3) for _ in range(source.choice((0, 2, 161)))]
    return source.choice(
        (folded, [*folded, None], [*folded, [scale, 1, source.choice((-5, 2**62)), counts, 0, counts[:1]]])
    )


def _build_blob(source: Random) -> bytes:
    if source.random() < 0.2:
        return source.randbytes(source.randrange(12))
    return encode([_build_name(source), source.choice((None, "gauge", "x")), None, _build_dimensions(source)])


def _build_name(source: Random) -> str:
    return source.choice(
        (f"fuzz.{source.randrange(40)}", "", "größe", "n" * 256, "fuzz\x00", "🙂" * 20, "UserRecordsPut")
    )


def _build_value(source: Random) -> float:
    return source.choice((1, 1, 0, -3, 2.5, 1e308, -1e308, float("nan"), float("inf"), 2**63, True))


def _build_dimensions(source: Random) -> list[list[str]]:
    count = source.choice((0, 0, 1, 2, 31))
    return [
        [source.choice(("stream", "", "k" * 256, f"key{index}")), source.choice(("v", "", "é"))]
        for index in range(count)
    ]


def _spoil(source: Random, frame: list[Any]) -> None:
    """Put something of a wrong type somewhere into a frame."""
    wrong: Any = source.choice((None, True, "text", b"\xff", -1, 2**64 - 1, 0.5, [], [[]], {}, {"a": 1}))
    inside: list[Any] = frame
    while True:
        at = source.randrange(len(inside))
        if isinstance(inside[at], list) and inside[at] and source.random() < 0.7:
            inside = inside[at]
            continue
        inside[at] = wrong
        return


__all__ = ["GOOD_PREFIX", "RARE_EVERY", "Mutator", "random_datagrams"]
