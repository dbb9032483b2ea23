"""The state machine against PS3.8, typed here a second time as the standard prints it."""

from __future__ import annotations

import pytest

from imaging_ingestion.dimse.state import ACTIONS, TAKES_DATA, TRANSITIONS, Effect, Evt, State

# PS3.8 table 9-10. A blank cell is a dot.
TABLE_9_10 = """
        Sta1  Sta2  Sta3  Sta4  Sta5  Sta6  Sta7  Sta8  Sta9  Sta10 Sta11 Sta12 Sta13
Evt1    AE-1  .     .     .     .     .     .     .     .     .     .     .     .
Evt2    .     .     .     AE-2  .     .     .     .     .     .     .     .     .
Evt3    .     AA-1  AA-8  .     AE-3  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt4    .     AA-1  AA-8  .     AE-4  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt5    AE-5  .     .     .     .     .     .     .     .     .     .     .     .
Evt6    .     AE-6  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
Evt7    .     .     AE-7  .     .     .     .     .     .     .     .     .     .
Evt8    .     .     AE-8  .     .     .     .     .     .     .     .     .     .
Evt9    .     .     .     .     .     DT-1  .     AR-7  .     .     .     .     .
Evt10   .     AA-1  AA-8  .     AA-8  DT-2  AR-6  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt11   .     .     .     .     .     AR-1  .     .     .     .     .     .     .
Evt12   .     AA-1  AA-8  .     AA-8  AR-2  AR-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-6
Evt13   .     AA-1  AA-8  .     AA-8  AA-8  AR-3  AA-8  AA-8  AR-10 AR-3  AA-8  AA-6
Evt14   .     .     .     .     .     .     .     AR-4  AR-9  .     .     AR-4  .
Evt15   .     .     AA-1  AA-2  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  AA-1  .
Evt16   .     AA-2  AA-3  .     AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-3  AA-2
Evt17   .     AA-5  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AA-4  AR-5
Evt18   .     AA-2  .     .     .     .     .     .     .     .     .     .     AA-2
Evt19   .     AA-1  AA-8  .     AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-8  AA-7
"""

# PS3.8 tables 9-6 to 9-9: the next state of each action.
NEXT_STATES = """
AE-1 4   AE-2 5   AE-3 6   AE-4 1   AE-5 2   AE-6 3   AE-7 6   AE-8 13
DT-1 6   DT-2 6
AR-1 7   AR-2 8   AR-3 1   AR-4 13  AR-5 1   AR-6 7   AR-7 8   AR-8 9   AR-9 11  AR-10 12
AA-1 13  AA-2 1   AA-3 1   AA-4 1   AA-5 1   AA-6 13  AA-7 13  AA-8 13
"""


def cells() -> dict[tuple[int, int], str]:
    """Action by (event, state); "." for none."""
    _head, *rows = TABLE_9_10.strip().splitlines()
    found = {}
    for row in rows:
        event, *actions = row.split()
        assert len(actions) == 13
        for state, action in enumerate(actions, 1):
            found[int(event.removeprefix("Evt")), state] = action
    assert len(found) == 19 * 13
    return found


@pytest.mark.parametrize("event", Evt, ids=lambda e: f"Evt{int(e)}")
@pytest.mark.parametrize("state", State, ids=lambda s: f"Sta{int(s)}")
def test_each_cell_has_the_action_of_the_standard(event: Evt, state: State) -> None:
    action = TRANSITIONS.get((event, state))
    assert (action.value if action else ".") == cells()[event, state]


def test_each_action_leads_to_the_state_of_the_standard() -> None:
    words = NEXT_STATES.split()
    expected = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert {action.value: int(step.next_state) for action, step in ACTIONS.items()} == expected


def test_a_release_collision_leads_the_acceptor_elsewhere() -> None:
    acceptor_states = {
        action.value: step.for_acceptor for action, step in ACTIONS.items() if step.for_acceptor
    }
    assert acceptor_states == {"AR-8": State.STA10}


def test_the_artim_timer_runs_where_the_standard_lets_it_run() -> None:
    for action, step in ACTIONS.items():
        for way in filter(None, (step, step.otherwise)):
            if Effect.START_ARTIM in way.effects:
                assert way.next_state in (State.STA2, State.STA13), action
            if way.next_state in (State.STA2, State.STA13) and action.value not in ("AA-6", "AA-7"):
                assert Effect.START_ARTIM in way.effects, action
    leaving = {
        action for (_, state), action in TRANSITIONS.items() if state in (State.STA2, State.STA13)
    }
    for action in leaving:
        step = ACTIONS[action]
        if step.next_state not in (State.STA2, State.STA13):
            assert Effect.STOP_ARTIM in step.effects, action


def test_data_goes_to_the_user_in_two_states_only() -> None:
    assert {State.STA6, State.STA7} == TAKES_DATA
