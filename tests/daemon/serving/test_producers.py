"""Producers -> those of whom most was received, and the sum of the others."""

import random
from collections.abc import Generator

import msgspec

from aiokpl_metricsd.decoder import Decoder, Producer
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.serving.producers import MAX_LISTED, SLICE_PRODUCERS, hash_producer_id, list_producers
from aiokpl_metricsd.serving.statement import ProducersStatement, ProducerStatement


def build_decoder(producers: dict[int, Producer]) -> Decoder:
    decoder = Decoder(Ledger())
    decoder.restore((key, msgspec.msgpack.encode(producer)) for key, producer in producers.items())
    return decoder


def finish(steps: Generator[None, None, ProducersStatement]) -> tuple[ProducersStatement, int]:
    """Return the statement, and how many slices were left."""
    slices = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, slices
        slices += 1


def read(decoder: Decoder, software: dict[int, str] | None = None) -> tuple[ProducersStatement, int]:
    return finish(list_producers(decoder.read_producers(), lambda: software or {}))


def build_producers(count: int) -> dict[int, Producer]:
    chance = random.Random(4)
    producers: dict[int, Producer] = {}
    for _ in range(count):
        received, before, missing = (chance.randrange(1_000) for _ in range(3))
        dropped = {"buffer_full": chance.randrange(3)} if chance.random() < 0.1 else {}
        sent = received + before + missing
        producers[chance.getrandbits(63)] = Producer(1, sent, before, received, missing, 1, 2, dropped)
    return producers


def test_without_producers_there_is_nothing_to_say() -> None:
    assert read(build_decoder({})) == (ProducersStatement(0, [], ProducerStatement()), 0)


def test_those_of_whom_most_was_received_are_listed_and_the_others_are_one_sum() -> None:
    producers = build_producers(2 * MAX_LISTED + 3 * SLICE_PRODUCERS)
    statement, slices = read(build_decoder(producers))
    assert slices == -(-len(producers) // SLICE_PRODUCERS)
    assert statement.known == len(producers)
    received = sorted((each.received for each in producers.values()), reverse=True)
    assert [each.received for each in statement.listed] == received[:MAX_LISTED]
    everybody = [*statement.listed, statement.rest]
    for column in ("sent", "before", "received", "missing", "folded", "repeated"):
        whole = sum(getattr(each, column) for each in producers.values())
        assert sum(getattr(each, column) for each in everybody) == whole
    dropped = sum(each.dropped.get("buffer_full", 0) for each in producers.values())
    assert sum(each.dropped.get("buffer_full", 0) for each in everybody) == dropped
    assert not any(each.balance for each in everybody)
    assert statement.rest.id == ""


def test_no_id_is_shown_but_who_knows_one_finds_it() -> None:
    producers = build_producers(10)
    statement, _ = read(build_decoder(producers), {next(iter(producers)): "by hand 1.0"})
    assert {each.id for each in statement.listed} == {hash_producer_id(key) for key in producers}
    text = msgspec.json.encode(statement).decode()
    assert not any(str(key) in text or f"{key:x}" in text for key in producers)
    first = hash_producer_id(next(iter(producers)))
    assert [each.software for each in statement.listed if each.id == first] == ["by hand 1.0"]
    assert hash_producer_id(7) == "a3eb8db89fc5"


def test_who_only_said_hello_has_sent_nothing_that_is_known() -> None:
    statement, _ = read(build_decoder({1: Producer(0)}))
    (only,) = statement.listed
    assert (only.sent, only.balance) == (0, 0)


def test_an_account_that_does_not_balance_shows_by_how_much() -> None:
    statement, _ = read(build_decoder({1: Producer(1, sent=10, received=7)}))
    assert statement.listed[0].balance == 3


def test_producers_may_come_and_go_between_two_slices() -> None:
    producers = build_producers(3 * SLICE_PRODUCERS)
    decoder = build_decoder(producers)
    steps = list_producers(decoder.read_producers(), dict)
    next(steps)
    for gone in list(producers)[SLICE_PRODUCERS : 2 * SLICE_PRODUCERS]:
        decoder._forget(gone)
    decoder.restore([(1, msgspec.msgpack.encode(Producer(1, 10**9, 0, 10**9)))])
    statement, _ = finish(steps)
    assert statement.known == 2 * SLICE_PRODUCERS
    assert all(each.received < 10**9 for each in statement.listed)
