"""Where a run is computed: devices and hosts. Nothing here names its randomness, so a run can move between
them."""

from dataclasses import dataclass

from egg_reason.config.setting import Range, Section, setting

__all__ = ["HERE", "Machines"]


@dataclass(frozen=True)
class Machines(Section):
    """Where the run is computed. config.toml does not keep it: give it again when a run is resumed."""

    devices: int = setting(
        1,
        "devices of this process that write completions; each has --lanes lanes and an equal share of the"
        " pairs; 0: all devices",
        range=Range(least=0),
    )
    hosts: int = setting(
        1,
        "processes of the run; start each with the same command but for --host; each tries out an equal share"
        " of the pairs",
        range=Range(least=1),
    )
    host: int = setting(
        0, "number of this process among the --hosts; 0 keeps the run directory", range=Range(least=0)
    )
    coordinator: str | None = setting(
        None, "address and port of host 0, where the hosts meet", unset="none", typical="10.0.0.1:9000"
    )
    pool: str | None = setting(
        None,
        "ray: workers that may come and go write the completions; needs the extra egg-reason[ray]",
        choices=("ray",),
        unset="none",
    )
    workers: int = setting(
        0,
        "workers of the pool, one CPU each; 0: one for every free CPU, also for CPUs that join later",
        typical="8",
        range=Range(least=0),
    )
    ray_address: str | None = setting(
        None, "address of a Ray cluster to join", unset="a cluster of its own on this machine"
    )
    straggler: str = setting(
        "wait",
        "if a worker of the pool is slow: wait, or drop its pairs and continue without them (they are"
        " counted and logged)",
        choices=("wait", "drop"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.host < self.hosts:
            raise ValueError(
                f"host must be from 0 to {self.hosts - 1}, one below the number of hosts, not {self.host}"
            )
        if self.pool and (self.hosts, self.devices) != (1, 1):
            raise ValueError("pool has its own workers instead of --hosts and --devices: leave these out")
        for name, default in (("workers", 0), ("ray_address", None), ("straggler", "wait")):
            if self.pool is None and getattr(self, name) != default:
                raise ValueError(f"{name} is for a pool: give --pool ray too")
        if self.hosts == 1 and self.coordinator is not None:
            raise ValueError(
                "coordinator is where several hosts meet: give the number of hosts with --hosts too"
            )
        if self.hosts > 1 and (self.coordinator is None or not self.coordinator.rpartition(":")[2].isdigit()):
            raise ValueError(
                "coordinator must be the address of host 0 and a free port, such as 10.0.0.1:9000, not"
                f" {self.coordinator}"
            )


HERE = Machines()
"""One device of this process."""
