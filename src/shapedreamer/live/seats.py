"""The seats of a server: how many viewers can be connected, how many of them from one address, and who makes room.

If no seat is free, the viewer that has been idle for longest makes room, such as a page in a hidden tab.
"""

from typing import Protocol

from ..common.errors import UserError


class Occupant(Protocol):
    """Who takes a seat."""

    @property
    def address(self) -> str | None:
        """What counts as one client; None if it is unknown."""

    @property
    def idle_time(self) -> float:
        """Seconds without activity."""

    def displace(self) -> None:
        """Another viewer has got the seat."""

    def viewers_changed(self) -> None:
        """The number of viewers has changed."""


class NoSeatError(UserError):
    """All seats are taken, and everybody is active."""


class Seats:
    """The seats of `viewers` viewers, of which one address gets at most `per_address`.

    make_room: seconds of idleness after which a viewer gives its seat to another that needs it
    """

    def __init__(self, viewers: int, per_address: int, make_room: float) -> None:
        self.viewers, self.per_address, self.make_room = viewers, per_address, make_room
        self._occupants: list[Occupant] = []

    def __len__(self) -> int:
        return len(self._occupants)

    def take(self, occupant: Occupant) -> None:
        """Give a viewer a seat. NoSeatError if there is none."""
        neighbours = [other for other in self._occupants if other.address == occupant.address is not None]
        if len(neighbours) >= self.per_address:
            self._make_room(neighbours, f"the server is full for your address (maximum: {self.per_address} viewers)")
        elif len(self) >= self.viewers:
            self._make_room(self._occupants, f"the server is full (maximum: {self.viewers} viewers)")
        self._occupants.append(occupant)
        self._report()

    def leave(self, occupant: Occupant) -> None:
        """Free the seat, unless another viewer has got it already."""
        if occupant in self._occupants:
            self._occupants.remove(occupant)
            self._report()

    def _make_room(self, occupants: list[Occupant], reason: str) -> None:
        """Displace the one of these viewers that has been idle for longest. NoSeatError if none has been for long."""
        idle = max(occupants, key=lambda other: other.idle_time, default=None)
        if idle is None or idle.idle_time < self.make_room:
            raise NoSeatError(f"{reason}; try again later")
        self._occupants.remove(idle)
        idle.displace()

    def _report(self) -> None:
        for occupant in self._occupants:
            occupant.viewers_changed()
