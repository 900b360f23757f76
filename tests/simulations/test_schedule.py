"""Virtual time."""

from collections.abc import Callable

from simulations.schedule import Schedule


def never() -> bool:
    return False


def test_actions_run_in_order_of_time_then_of_planning() -> None:
    schedule, ran = Schedule(), list[tuple[int, str]]()

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((schedule.now, name))

    schedule.at(5, note("late"))
    schedule.at(2, note("first"))
    schedule.after(2, note("second"))
    schedule.at(2, lambda: schedule.at(1, note("overdue")))
    assert not schedule.run(10, never)
    assert ran == [(2, "first"), (2, "second"), (2, "overdue"), (5, "late")]
    assert schedule.now == 10


def test_it_stops_at_the_time_given_and_goes_on_later() -> None:
    schedule, ran = Schedule(), list[int]()
    for time in (1, 3, 7):
        schedule.at(time, lambda: ran.append(schedule.now))
    schedule.run(3, never)
    assert ran == [1, 3]
    schedule.run(7, never)
    assert ran == [1, 3, 7]


def test_it_stops_when_done_after_the_whole_millisecond() -> None:
    schedule, ran = Schedule(), list[str]()
    schedule.at(1, lambda: ran.append("a"))
    schedule.at(1, lambda: ran.append("b"))
    schedule.at(2, lambda: ran.append("c"))
    assert schedule.run(10, lambda: bool(ran))
    assert ran == ["a", "b"]
    assert schedule.now == 1
