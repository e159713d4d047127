"""Producers -> those of whom most was received, and the sum of the others; in slices."""

from collections.abc import Callable, Generator, Iterator, Mapping
from hashlib import sha256
from heapq import nlargest
from itertools import islice

from aiokpl_metricsd.decoder import Producer
from aiokpl_metricsd.serving.statement import ProducersStatement, ProducerStatement

# That are shown one by one.
MAX_LISTED = 100

# In one turn of the event loop: 1 ms at most.
SLICE_PRODUCERS = 250

_ID_CHARS = 12

_COLUMNS = ("lanes", "sent", "before", "received", "missing", "folded", "repeated", "balance")


def hash_producer_id(producer_id: int) -> str:
    """Return what stands for an id: who knows the id itself could send frames in the producer's name.

    Ids are 63 random bits, so nobody finds one by trying, and the hash needs no key: a producer that knows
    its own id finds itself, whichever daemon it asks.
    """
    return sha256(producer_id.to_bytes(8, "big")).hexdigest()[:_ID_CHARS]


def list_producers(
    producers: Iterator[tuple[int, Producer, int]], read_software: Callable[[], Mapping[int, str]]
) -> Generator[None, None, ProducersStatement]:
    """Return the statement of all producers, stopping after each slice; each one's columns are of one moment.

    Args:
        producers: each one's id, account and number of lanes; others may run between two slices.
        read_software: what they say they are, by id.
    """
    known = 0
    total = ProducerStatement()
    top: list[tuple[int, ProducerStatement]] = []
    while part := list(islice(producers, SLICE_PRODUCERS)):
        known += len(part)
        least = top[-1][1].received if len(top) == MAX_LISTED else -1
        found: list[tuple[int, ProducerStatement]] = []
        for producer_id, producer, lanes in part:
            _add(total, producer, lanes)
            if producer.received > least:
                found.append((producer_id, _add(ProducerStatement(), producer, lanes)))
        # Of equals, those that were known earlier.
        top = nlargest(MAX_LISTED, [*top, *found], key=_count_received)
        yield
    software = read_software()
    for producer_id, each in top:
        each.id = hash_producer_id(producer_id)
        each.software = software.get(producer_id, "")
        _subtract(total, each)
    return ProducersStatement(known, [each for _, each in top], total)


def _count_received(candidate: tuple[int, ProducerStatement]) -> int:
    return candidate[1].received


def _add(into: ProducerStatement, producer: Producer, lanes: int) -> ProducerStatement:
    # It is not known what one has sent that only said hello.
    sent = max(producer.sent, 0)
    into.lanes += lanes
    into.sent += sent
    into.before += producer.before
    into.received += producer.received
    into.missing += producer.missing
    into.folded += producer.folded
    into.repeated += producer.repeated
    into.balance += sent - producer.before - producer.received - producer.missing
    if producer.dropped:
        dropped = into.dropped
        for word, count in producer.dropped.items():
            dropped[word] = dropped.get(word, 0) + count
    return into


def _subtract(total: ProducerStatement, one: ProducerStatement) -> None:
    for name in _COLUMNS:
        setattr(total, name, getattr(total, name) - getattr(one, name))
    for word, count in one.dropped.items():
        total.dropped[word] -= count
        if not total.dropped[word]:
            del total.dropped[word]


__all__ = ["MAX_LISTED", "SLICE_PRODUCERS", "hash_producer_id", "list_producers"]
