"""The ledger's sums balance, and every count has its name."""

from aiokpl_metrics_protocol import Reason
from aiokpl_metricsd.ledger import Ledger


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
