"""The lanes of a stream in groups: which direction a group serves, and which job a lane writes."""

from collections import Counter, deque
from collections.abc import Iterable

import numpy as np

from egg_reason.engine.queues import Queues, Served

__all__ = ["Groups"]

NONE = -1


class Groups:
    """Groups of `size` lanes, in order. A group carries the noise of one direction, for all of its lanes.

    direction_of_group: int32 [K]; job_of_lane: int [B]; -1: none. unassigned: directions that no group has
    served yet.
    """

    def __init__(self, count: int, size: int, directions: Iterable[int]):
        self.size = size
        self.direction_of_group = np.full(count, NONE, np.int32)
        self.job_of_lane = np.full(count * size, NONE)
        self.unassigned = deque(directions)

    @property
    def direction_of_lane(self) -> np.ndarray:
        """Return the direction of each lane, int32 [B]."""
        return np.repeat(self.direction_of_group, self.size)

    @property
    def busy(self) -> bool:
        """Tells if some lane writes."""
        return bool((self.job_of_lane >= 0).any())

    def served(self) -> Served:
        """Return the lanes of each direction, and those of them that are idle."""
        lanes = self.direction_of_lane
        return Served(Counter(lanes.tolist()), Counter(lanes[self.job_of_lane < 0].tolist()))

    def group_of_direction(self) -> dict[int, int]:
        """Return a group that serves each direction; of several the last."""
        return {direction: group for group, direction in enumerate(self.direction_of_group.tolist())}

    def give_directions(self, queues: Queues) -> list[int]:
        """Give new directions to groups whose lanes are all idle and whose direction has no jobs left.

        Each gets one that nobody has served yet, else the one with most jobs to spare. Returns these groups.
        """
        served, idle = self.served()
        # The jobs of a direction that its own idle lanes do not take at once: what others can help with. It
        # is negative where lanes stand still for nothing, as for groups without a direction.
        spare = {direction: queues.left(direction) - idle[direction] for direction in served}
        changed = []
        # In order of the groups, each seeing what those before it took: two do not help with the same jobs.
        for group, jobs in enumerate(self.job_of_lane.reshape(-1, self.size)):
            own = int(self.direction_of_group[group])
            if (jobs >= 0).any() or spare[own] + idle[own] > 0:  # it writes, or has something left
                continue
            if self.unassigned:
                # New directions first: helping a direction that has a group costs a second draw of its noise.
                direction = self.unassigned.popleft()
                spare[direction] = queues.left(direction)
            else:
                direction = max(spare, key=spare.__getitem__)
                if spare[direction] <= 0:
                    break  # nobody needs help: neither for this group nor for those that follow
            # The lanes of this group will take this many.
            spare[direction] -= self.size
            self.direction_of_group[group] = direction
            changed.append(group)
        return changed
