"""A running daemon -> what it says that is lost, failing, or does not add up."""

from collections.abc import Iterator

from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn
from aiokpl_metricsd.serving.inquiry import InquiryError, ask_ledger, decode_statement
from aiokpl_metricsd.serving.statement import Statement, StoreState


def ask_account(socket_path: str) -> Iterator[Finding]:
    """Ask the daemon at a path, and judge its answer."""
    try:
        statement = decode_statement(ask_ledger(socket_path))
    except InquiryError as error:
        yield warn(str(error), "ask as the daemon's user, in its environment; `status` says the same")
        return
    yield from judge_account(statement)


def judge_account(statement: Statement) -> Iterator[Finding]:
    """Say what is lost, what is failing, and what does not add up; one finding where nothing is."""
    is_well = True
    for loss in statement.losses:
        is_well = False
        whose = " ".join(filter(None, (loss.sink, loss.column, loss.reason)))
        yield warn(f"lost: {loss.count:,} {whose}", f"{loss.meaning} docs/operations.md says what to do")
    for name, store in (("journal", statement.journal), ("outbox", statement.outbox)):
        if store.state is StoreState.FAILING:
            is_well = False
            yield fail(f"the {name} cannot be written: {store.last_error}", "look at the disk of state_dir")
    for name, sink in statement.sinks.items():
        # One window may be on its way, or held back, and the error of long ago.
        if sink.queue_windows > 1 and sink.ledger.last_error and not sink.is_removed:
            is_well = False
            waiting, error = sink.ledger.waiting, sink.ledger.last_error
            yield warn(
                f"{name}: {waiting:,} snapshots wait; its last error was: {error}",
                "see below how its backend stands",
            )
    for fault in statement.list_faults():
        is_well = False
        yield fail(f"does not balance: {fault}", "a fault in the daemon: please report it")
    if is_well:
        yield find_ok(f"the daemon has lost nothing ({statement.version})")


__all__ = ["ask_account", "judge_account"]
