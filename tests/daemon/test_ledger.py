"""The ledger's sums balance, and every count has its name."""

import msgspec

from aiokpl_metrics_protocol import Reason
from aiokpl_metricsd.ledger import LaneEnd, Ledger


def test_a_new_ledger_is_zero_and_balances() -> None:
    ledger = Ledger()
    assert not any(ledger.as_dict().values())
    assert ledger.balance_datagrams() == ledger.balance_events(0) == 0


def test_datagrams_balance_when_each_is_decoded_repeated_or_rejected() -> None:
    ledger = Ledger()
    ledger.datagrams_received = 10
    ledger.datagrams_decoded = 4
    ledger.datagrams_repeated = 3
    assert ledger.balance_datagrams() == 3
    ledger.reject_datagram(Reason.TEXT)
    ledger.reject_datagram(Reason.MALFORMED)
    ledger.reject_datagram(Reason.TEXT)
    assert ledger.balance_datagrams() == 0
    assert ledger.datagrams_rejected == {Reason.TEXT: 2, Reason.MALFORMED: 1}


def test_events_balance_when_each_is_open_closed_or_refused() -> None:
    ledger = Ledger()
    ledger.events_decoded = 10
    ledger.events_closed = 3
    ledger.refuse_events(Reason.VALUE_NOT_FINITE, 2)
    ledger.refuse_events(Reason.VALUE_NOT_FINITE, 1)
    assert ledger.balance_events(3) == 1
    assert ledger.balance_events(4) == 0


def test_as_dict_has_every_count_and_reasons_by_their_words() -> None:
    ledger = Ledger()
    for name in Ledger.__slots__:
        assert name in ledger.as_dict()
    ledger.refuse_events(Reason.NAME_EMPTY, 2)
    ledger.events_dropped_by_clients["buffer_full"] = 7
    ledger.clock_steps = 1
    counts = {name: count for name, count in ledger.as_dict().items() if count}
    assert counts == {
        "clock_steps": 1,
        "events_dropped_by_clients": {"buffer_full": 7},
        "events_refused": {"name_empty": 2},
    }
    refused = counts["events_refused"]
    assert isinstance(refused, dict)
    assert [type(key) for key in refused] == [str]


def test_a_ledger_that_is_restored_counts_on_and_balances() -> None:
    ledger = Ledger()
    ledger.datagrams_received, ledger.datagrams_decoded = 10, 9
    ledger.reject_datagram(Reason.TEXT)
    ledger.events_decoded = ledger.events_closed = 7
    ledger.lanes_accepted = 3
    ledger.end_lane(LaneEnd.CLOSED)
    restored = Ledger()
    restored.restore(ledger.dump())
    assert restored.balance_datagrams() == restored.balance_events(0) == 0
    assert restored.balance_lanes(0) == 0, "the lanes that were open have ended"
    assert restored.lanes_ended == {LaneEnd.CLOSED: 1, LaneEnd.STOPPED: 2}
    restored.reject_datagram(Reason.TEXT)
    assert restored.datagrams_rejected == {Reason.TEXT: 2}


def test_a_ledger_of_another_version_is_restored_as_far_as_it_is_known() -> None:
    restored = Ledger()
    dumped = {"events_decoded": 5, "events_closed": 5, "events_refused": {"of_another_version": 1}, "gone": 3}
    restored.restore(msgspec.msgpack.encode(dumped))
    assert restored.events_decoded == 5
    assert restored.events_refused == {"of_another_version": 1}
    assert restored.clock_steps == 0


def test_no_count_is_too_large_for_a_checkpoint() -> None:
    ledger = Ledger()
    ledger.events_decoded = 2**70
    ledger.refuse_events(Reason.VALUE_NOT_FINITE, 2**70)
    restored = Ledger()
    restored.restore(ledger.dump())
    assert restored.events_decoded == sum(restored.events_refused.values()) == 2**63 - 1
