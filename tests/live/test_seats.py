"""Seats: how many viewers can be connected, and who makes room for whom."""

import pytest

from shapedreamer.live.seats import NoSeatError, Seats


class Visitor:
    """An occupant that records what happens to it."""

    def __init__(self, address: str | None = "a", idle_time: float = 0.0) -> None:
        self.address, self.idle_time = address, idle_time
        self.displaced = False
        self.reports = 0

    def displace(self) -> None:
        self.displaced = True

    def viewers_changed(self) -> None:
        self.reports += 1


def seats_with(*visitors: Visitor, viewers: int = 3, per_address: int = 2) -> Seats:
    seats = Seats(viewers, per_address, make_room=60)
    for visitor in visitors:
        seats.take(visitor)
    return seats


def test_the_number_of_viewers_is_limited() -> None:
    visitors = [Visitor("a"), Visitor("b"), Visitor("c", 59)]
    seats = seats_with(*visitors)
    with pytest.raises(NoSeatError, match=r"the server is full \(maximum: 3 viewers\); try again later"):
        seats.take(Visitor("d"))
    seats.leave(visitors[0])
    seats.take(Visitor("d"))
    assert len(seats) == 3


def test_the_viewer_that_is_idle_for_longest_makes_room() -> None:
    active, idle, longest = Visitor("a"), Visitor("b", 61), Visitor("c", 70)
    seats = seats_with(active, idle, longest)
    seats.take(Visitor("d"))
    assert (active.displaced, idle.displaced, longest.displaced) == (False, False, True)
    seats.leave(longest)  # its connection closes later
    assert len(seats) == 3
    seats.take(Visitor("e"))
    assert idle.displaced
    with pytest.raises(NoSeatError):
        seats.take(Visitor("f"))
    assert not active.displaced


def test_an_address_displaces_its_own_viewers_only() -> None:
    stranger, one, two = Visitor("b", 1000), Visitor("a", 61), Visitor("a")
    seats = seats_with(stranger, one, two, viewers=9)
    seats.take(Visitor("a"))
    assert (one.displaced, stranger.displaced) == (True, False)
    with pytest.raises(NoSeatError, match=r"the server is full for your address \(maximum: 2 viewers\)"):
        seats.take(Visitor("a"))
    seats.take(Visitor("c"))
    assert len(seats) == 4


def test_viewers_of_unknown_addresses_share_all_seats() -> None:
    seats = seats_with(*(Visitor(None) for _ in range(3)))
    assert len(seats) == 3


def test_every_change_is_reported_to_everybody() -> None:
    one, two = Visitor(), Visitor()
    seats = seats_with(one, two)
    seats.leave(two)
    seats.leave(two)
    assert (one.reports, two.reports) == (3, 1)


def test_a_server_without_seats_is_always_full() -> None:
    with pytest.raises(NoSeatError):
        seats_with(Visitor(), viewers=0)
