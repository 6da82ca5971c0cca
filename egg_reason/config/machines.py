"""Where a run is computed: devices and hosts. Nothing here names its randomness, so a run can move between
them."""

from dataclasses import dataclass

from egg_reason.config.setting import setting

__all__ = ["HERE", "Machines"]


@dataclass(frozen=True)
class Machines:
    """Where the run is computed. Not in config.toml: a resumed run takes those of its command."""

    devices: int = setting(
        1,
        "devices of this process that write completions, each an equal range of the pairs, with --lanes"
        " each; 0: all that it has",
    )
    hosts: int = setting(
        1,
        "processes of the run, each started with the same command but for --host; each evaluates an equal"
        " range of the pairs",
    )
    host: int = setting(0, "which of them this is; 0 keeps the run directory")
    coordinator: str | None = setting(
        None, "ADDRESS:PORT of host 0, where the hosts meet", unset="none", typical="10.0.0.1:9000"
    )
    pool: str | None = setting(
        None,
        "ray: workers that may come and go write the completions; needs the extra egg-reason[ray]",
        choices=("ray",),
        unset="none",
    )
    workers: int = setting(
        0, "workers of the pool, one CPU each; 0: as many as there is room for, also later", typical="8"
    )
    ray_address: str | None = setting(
        None, "address of a Ray cluster to join", unset="a cluster of its own on this machine"
    )
    straggler: str = setting(
        "wait",
        "for a slow worker of the pool: wait, or drop the pairs that it has in hand and go on without them"
        " (counted and logged)",
        choices=("wait", "drop"),
    )

    def __post_init__(self):
        if self.devices < 0:
            raise ValueError(f"devices must be at least 1, or 0 for all, not {self.devices}")
        if self.hosts < 1:
            raise ValueError(f"hosts must be at least 1, not {self.hosts}")
        if not 0 <= self.host < self.hosts:
            raise ValueError(
                f"host must be from 0 to {self.hosts - 1}, one below the number of hosts, not {self.host}"
            )
        if self.pool not in (None, "ray"):
            raise ValueError(f"pool must be ray, or left out, not {self.pool!r}")
        if self.pool and (self.hosts, self.devices) != (1, 1):
            raise ValueError(
                "pool has its own workers in the place of --hosts and --devices: leave these out"
            )
        if self.workers < 0:
            raise ValueError(
                f"workers must be at least 1, or 0 for as many as there is room for, not {self.workers}"
            )
        if self.straggler not in ("wait", "drop"):
            raise ValueError(f"straggler must be wait or drop, not {self.straggler!r}")
        for name, default in (("workers", 0), ("ray_address", None), ("straggler", "wait")):
            if self.pool is None and getattr(self, name) != default:
                raise ValueError(f"{name} is for a pool: give --pool ray too")
        if self.hosts == 1 and self.coordinator is not None:
            raise ValueError("coordinator is where several hosts meet: give their number by --hosts too")
        if self.hosts > 1 and (self.coordinator is None or not self.coordinator.rpartition(":")[2].isdigit()):
            raise ValueError(
                "coordinator must be the address of host 0 and a free port, such as 10.0.0.1:9000, not"
                f" {self.coordinator}"
            )


HERE = Machines()
"""One device of this process."""
