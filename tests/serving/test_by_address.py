"""Connections by address: as a plain model of the turns says, whatever is put, taken and discarded."""

from hypothesis import given
from hypothesis import strategies as st

from serving.by_address import ByAddress

ADDRESSES = "abc"


class Conn:
    """A connection, known by its address."""

    def __init__(self, address):
        self.budget_key = address


STEPS = st.sampled_from(["put", "take", "turn", "discard"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 11)), max_size=60))
def test_turns_are_those_of_a_plain_model(steps):
    """A list of lists: the addresses in turn, and the connections of each in order."""
    conns = [Conn(ADDRESSES[number % len(ADDRESSES)]) for number in range(12)]
    turns, model = ByAddress(), []
    for step, number in steps:
        conn = conns[number]
        line = next((line for line in model if line[0].budget_key == conn.budget_key), None)
        if step == "put":
            turns.put(conn)
            if line is None:
                model.append([conn])
            elif conn not in line:
                line.append(conn)
        elif step == "take" and model:
            first = model.pop(0)
            assert turns.take() is first.pop(0)
            model.extend([first] if first else [])
        elif step == "turn" and model:
            assert turns.next_address == model[0][0].budget_key
            model.append(model.pop(0))
            turns.pass_turn()
        elif step == "discard":
            turns.discard(conn)
            if line is not None and conn in line:
                line.remove(conn)
                model.remove(line) if not line else None
        assert len(turns) == sum(map(len, model))
        assert list(turns) == [conn for line in model for conn in line]
        assert turns.addresses == len(model)
        assert [conn in turns for conn in conns] == [any(conn in line for line in model) for conn in conns]
        assert [turns.number_of(address) for address in ADDRESSES] == [
            sum(conn.budget_key == address for line in model for conn in line) for address in ADDRESSES
        ]
        firsts = {line[0].budget_key: line[0] for line in model}
        assert [turns.first_of(address) for address in ADDRESSES] == [firsts.get(address) for address in ADDRESSES]
        last = turns.last_of_most()
        assert (last is None) == (not model)
        if last is not None:
            assert any(last is line[-1] and len(line) == max(map(len, model)) for line in model)
