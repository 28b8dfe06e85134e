"""States move by their tables: each is complete, and what stands in none is an error."""

import pytest

from collector import errors
from collector.process.scheduler.decisions import End, Entry, settle
from collector.states import move
from collector.wire.outcome import Outcome
from tests.support.drawn import TABLES, Table, events_of, module_of, states_of


@pytest.mark.parametrize("table", TABLES.values(), ids=module_of)
def test_a_table_names_every_state_and_leads_to_each(table: Table) -> None:
    states = list(states_of(table))
    assert list(table) == states
    reached = {following for moves in table.values() for following in moves.values()}
    assert set(states[1:]) <= reached


@pytest.mark.parametrize("table", TABLES.values(), ids=module_of)
def test_what_does_not_stand_in_a_table_is_an_error(table: Table) -> None:
    for state, moves in table.items():
        for event in events_of(table):
            if event in moves:
                assert move(table, state, event) is moves[event]
            else:
                with pytest.raises(errors.ProtocolError, match=state.name):
                    move(table, state, event)


def test_a_job_is_not_settled_twice() -> None:
    entry = Entry(1)
    settle(entry, End(Outcome.UNABLE))
    with pytest.raises(errors.ProtocolError, match="SETTLED"):
        settle(entry, End(Outcome.UNABLE))


def test_a_job_that_is_at_a_worker_is_not_sent_to_another() -> None:
    entry = Entry(1)
    entry.go_to(1, 1)
    with pytest.raises(errors.ProtocolError, match="DISPATCHED"):
        entry.go_to(2, 2)
    entry.leave_worker()
    entry.go_to(2, 2)
