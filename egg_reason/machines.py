"""Where a run is computed. Nothing here names its randomness, so a run can move between machines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machines:
    """Not in config.toml: a resumed run takes those of its command."""

    devices: int = 1
    """devices of this process that write completions, each an equal range of the pairs, with `lanes` each; 0: all it has"""

    def __post_init__(self):
        if self.devices < 0:
            raise ValueError(f"devices must be at least 1, or 0 for all, not {self.devices}")


HERE = Machines()
"""One device of this process."""
