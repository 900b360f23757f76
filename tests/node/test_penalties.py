"""Who failed us is left alone: how long, and that it is never forgotten who came last."""

from node.penalties import Penalties


def test_a_peer_that_never_failed_is_not_left_alone() -> None:
    assert Penalties(5, 40).until("a") == 0


def test_silence_costs_the_same_each_time() -> None:
    penalties = Penalties(5, 40)
    for now in (100, 200, 300):
        penalties.failed("a", now)
        assert penalties.until("a") == now + 5


def test_lies_in_a_row_cost_twice_as_much_each_up_to_a_cap() -> None:
    penalties = Penalties(5, 40)
    waits = []
    for now in range(0, 600, 100):
        penalties.lied("a", now)
        waits.append(penalties.until("a") - now)
    assert waits == [5, 10, 20, 40, 40, 40]
    # Falling silent does not make it cheaper.
    penalties.failed("a", 1_000)
    assert penalties.until("a") == 1_040


def test_what_proves_true_ends_the_growth_but_not_the_memory() -> None:
    penalties = Penalties(5, 40)
    penalties.proved("a")
    penalties.lied("a", 100)
    penalties.lied("a", 200)
    penalties.proved("a")
    assert penalties.until("a") == 210
    penalties.lied("a", 300)
    assert penalties.until("a") == 305


def test_those_who_are_no_members_are_forgotten() -> None:
    penalties = Penalties(5, 40)
    for peer in ("a", "b", "c"):
        penalties.failed(peer, 1)
    penalties.keep({"b": None})
    assert len(penalties) == 1
    assert [penalties.until(peer) for peer in ("a", "b", "c")] == [0, 6, 0]
