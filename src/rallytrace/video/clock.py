"""Times that always grow: what a source's clock says, mended once, for pictures and sound alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

LEAP_S = 10.0  # a picture that stands longer, while no sound plays, is a jump of the clock (FFmpeg's own limit)
BACK_STEPS = 3.5  # a time that goes back by less is a picture out of order, by more a clock that starts anew
MOST_HELD = 250  # pictures that wait for the next time, so that they can share out the stretch until it
HEARD_S = 2.0  # sound so far inside a stretch plays through it

Item: TypeAlias = tuple[float | None, int, T]  # what the source says, s; its packet; the picture


@dataclass(frozen=True, slots=True)
class Jump:
    """The source's clock goes back. packet: number of the first packet of pictures after it. shift_s: what is added
    to the source's times from there on. frame, pts_s: the first picture after it, with its mended time."""

    packet: int
    shift_s: float
    frame: int
    pts_s: float


class Clock(Generic[T]):
    """Mends the times of one source's pictures.

    Pictures of one time share out the stretch until the next time, at most 1/fps each. A clock that goes back goes on
    from where it was. One that leaps ahead keeps what it says. One wild time among good ones is not believed.
    step_s: 1/fps. room: how many pictures may be held in memory.

    mended: how many times are not what the source says. jumps: where the clock went back. leaps: frame and pts_s
    after each leap. packet: the number of the latest picture's packet.
    """

    def __init__(self, step_s: float, room: int = MOST_HELD) -> None:
        self.mended = 0
        self.packet = 0
        self.jumps: list[Jump] = []
        self.leaps: list[tuple[int, float]] = []
        self.step_s = step_s
        self._room = room
        self._shift_s = 0.0
        self._said_s: float | None = None  # the latest time that was believed, as the source says it
        self._last_s = 0.0
        self._count = 0

    def mend(self, items: Iterable[Item[T]]) -> Iterator[tuple[float, T]]:
        """Each picture with its time, s."""
        held: list[tuple[float, int, T]] = []  # of one time, whose place the next time decides
        for said_s, packet, picture in items:
            self.packet = packet
            if held and said_s is not None and said_s == held[0][0] and len(held) < self._room:
                held.append((said_s, packet, picture))
                continue
            yield from self._settle(held, said_s)
            held = []
            if said_s is None:
                yield self._give(self._last_s + self.step_s if self._count else 0.0), picture
            elif self._waits(said_s):
                held.append((said_s, packet, picture))
            else:
                yield self._believe(said_s), picture
        yield from self._settle(held, None)

    def _waits(self, said_s: float) -> bool:
        """Whether that time can be judged only when the next one is known."""
        if self._said_s is None:
            return False
        return said_s == self._said_s or self._is_leap(said_s) or self._is_back(said_s)

    def _is_leap(self, said_s: float) -> bool:
        return self._said_s is not None and said_s - self._said_s > LEAP_S

    def _is_back(self, said_s: float) -> bool:
        return self._said_s is not None and self._said_s - said_s > BACK_STEPS * self.step_s

    def _settle(self, held: list[tuple[float, int, T]], next_s: float | None) -> Iterator[tuple[float, T]]:
        """Times of the held pictures, now that the next time is known; None where there is none."""
        if not held:
            return
        rest = held
        said_s, packet, picture = held[0]
        if said_s != self._said_s and not self._is_wild(said_s, next_s):
            rest = held[1:]
            yield self._jump(said_s, packet), picture
        self.mended += len(rest)
        step_s = self.step_s
        if next_s is not None and next_s + self._shift_s > self._last_s and not self._is_leap(next_s):
            step_s = min(step_s, (next_s + self._shift_s - self._last_s) / (len(rest) + 1))
        for _, _, each in rest:
            yield self._give(self._last_s + step_s), each

    def _is_wild(self, said_s: float, next_s: float | None) -> bool:
        """Whether the next time goes on from the one before, as if that one had not been."""
        if next_s is None or self._said_s is None or self._is_leap(next_s):
            return False
        return self._said_s < next_s and not self._said_s < said_s < next_s

    def _jump(self, said_s: float, packet: int) -> float:
        if self._is_leap(said_s):
            pts_s = self._believe(said_s)
            self.leaps.append((self._count - 1, pts_s))
            return pts_s
        pts_s = self._last_s + self.step_s
        self._shift_s = pts_s - said_s
        self.jumps.append(Jump(packet, self._shift_s, self._count, pts_s))
        return self._believe(said_s)

    def _believe(self, said_s: float) -> float:
        self._said_s = said_s
        pts_s = said_s + self._shift_s
        if self._count and pts_s <= self._last_s:
            pts_s = self._last_s + self.step_s / 2  # half steps, so that the true times are met again
        self.mended += pts_s != said_s
        return self._give(pts_s)

    def _give(self, pts_s: float) -> float:
        self._last_s = pts_s
        self._count += 1
        return pts_s


class Film:
    """The clock of a video that is written: it begins at 0, and leaps of its source's clock are left out."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._start_s: float | None = None
        self._last_s = 0.0
        self._cuts: list[tuple[float, float]] = []  # middle of a stretch that is left out; what is taken off after it
        self._off_s = 0.0

    def picture(self, pts_s: float, is_heard: Callable[[float, float], bool] = lambda start_s, stop_s: False) -> float:
        """When the next picture is shown, s. is_heard: whether sound plays inside a stretch between two times."""
        if self._start_s is None:
            self._start_s = self._last_s = self._off_s = pts_s
        if pts_s - self._last_s > LEAP_S and not is_heard(self._last_s + HEARD_S, pts_s - HEARD_S):
            self._off_s += pts_s - self._last_s - self._step_s
            self._cuts.append(((self._last_s + pts_s) / 2, self._off_s))
        self._last_s = pts_s
        return pts_s - self._off_s

    def sound(self, pts_s: float) -> float:
        """When sound of that time is heard, s. Below 0: before the first picture."""
        off_s = self._start_s or 0.0
        for middle_s, taken_s in self._cuts:
            if pts_s < middle_s:
                break
            off_s = taken_s
        return pts_s - off_s
