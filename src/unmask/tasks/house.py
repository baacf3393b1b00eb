"""House: follow coloured one-way doors through ten rooms.

hall: red blue?   ->   go red veranda, blue lobby. the answer is hall
"""

from __future__ import annotations

import random

from unmask.tasks.worked import Problem, WorkedTask

DOORS = ("red", "blue", "green", "gold")

# Each room: its other names, and where its red, blue, green and gold doors lead. A door's colour alone tells something:
# each leads to one and the same room from four others, so that the last door makes for a fair guess (right in 42%).
HOUSE = {
    "hall": (("foyer", "lobby"), ("porch", "study", "bedroom", "study")),
    "attic": (("loft", "garret"), ("study", "hall", "garage", "study")),
    "cellar": (("basement", "vault"), ("study", "garden", "garden", "garage")),
    "kitchen": (("galley", "scullery"), ("garden", "hall", "cellar", "garage")),
    "porch": (("veranda", "terrace"), ("garden", "hall", "garden", "attic")),
    "study": (("den", "office"), ("porch", "hall", "garden", "garage")),
    "bedroom": (("chamber", "dormitory"), ("porch", "library", "attic", "garage")),
    "garden": (("yard", "lawn"), ("hall", "kitchen", "porch", "study")),
    "garage": (("shed", "barn"), ("garden", "library", "library", "cellar")),
    "library": (("archive", "parlour"), ("porch", "attic", "garden", "attic")),
}


class House(WorkedTask):
    """Walks through the house; a room may go by any of its three names until the answer, which takes the first."""

    def draw(self, rng: random.Random, length: int) -> Problem:
        room = start = rng.choice(list(HOUSE))
        doors = [rng.choice(DOORS) for _ in range(length)]
        steps = []
        for door in doors:
            room = HOUSE[room][1][DOORS.index(door)]
            steps.append((door, (room, *HOUSE[room][0])))
        return Problem(f"{start}: {' '.join(doors)}?", tuple(steps))

    def words(self) -> list[str]:
        return [*DOORS, *(name for room, (others, _) in HOUSE.items() for name in (room, *others))]
