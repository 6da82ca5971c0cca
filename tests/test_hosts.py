"""Several processes on one run, as `jax.distributed` joins them: the same bits, a host that is lost, and
mistakes."""

import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from test_train import assert_same_run

from egg_reason.algorithms.shaping import pair_weights
from egg_reason.config import Machines, TrainConfig
from egg_reason.population.environment import EnvironmentFailure
from egg_reason.population.hosts import TRIALS, _merged, _tried
from egg_reason.population.trials import Trials, merge
from egg_reason.population.wire import rounded
from egg_reason.rewards import RewardFailure
from egg_reason.run.directory import read_metrics
from egg_reason.run.log import HASH_BYTES


class Processes:
    """`egg-reason train` as so many hosts, each of `devices` forced CPU devices."""

    def __init__(self, folder, hosts, devices, *words, places=None):
        """places: folders that the processes run in."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
        self.outputs = [folder / f"host{host}.txt" for host in range(hosts)]
        self.running = []
        for host, output in enumerate(self.outputs):
            command = [
                sys.executable,
                "-m",
                "egg_reason.cli",
                "train",
                "--plain",
                *words,
                "--devices",
                str(devices),
            ]
            command += ["--hosts", str(hosts), "--host", str(host), "--coordinator", address]
            how = {"env": os.environ | {"XLA_FLAGS": flags}, "cwd": places and places[host]}
            with open(output, "w") as file:
                self.running.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **how))

    def end(self):
        return [process.wait(400) for process in self.running]

    def told(self):
        return "\n".join(output.read_text() for output in self.outputs)


def test_two_hosts_are_one_process_though_one_is_lost(finished_run, settings, flags, tmp_path):
    """The second is killed in the third step: the first one ends with a line. Resumed on two, the run is that
    of one process."""
    run = tmp_path / "run"
    hosts = Processes(tmp_path, 2, 1, "--runs", str(tmp_path), "--name", "run", *flags(settings))
    while hosts.running[0].poll() is None and not (
        (run / "metrics.jsonl").exists() and len(steps_of(run)) == 2
    ):
        time.sleep(0.002)
    hosts.running[1].kill()
    assert hosts.end() == [2, -signal.SIGKILL], hosts.told()
    assert "egg-reason: a host was lost" in hosts.told() and "Traceback" not in hosts.told()
    hosts = Processes(tmp_path, 2, 1, "--resume", str(run))
    assert hosts.end() == [0, 0], hosts.told()
    assert_same_run(run, finished_run[0])
    steps, expected = steps_of(run), steps_of(finished_run[0])
    for name in ("reward_mean", "completion_length", "truncated", "rewards/digits/mean", "update_rms"):
        assert [line[name] for line in steps] == pytest.approx([line[name] for line in expected], rel=1e-6)
    assert all(0 < line["wire_bytes"] < 20_000 for line in steps)


def steps_of(run):
    return [line for line in read_metrics(run / "metrics.jsonl") if "reward_mean" in line]


def test_a_mistake_of_one_host_ends_all_with_a_line(settings, flags, tmp_path):
    hosts = Processes(
        tmp_path, 2, 1, "--runs", str(tmp_path), "--name", "run", *flags(settings | {"model": "missing.pth"})
    )
    assert hosts.end() == [2, 2], hosts.told()
    assert "Traceback" not in hosts.told() and hosts.told().count("missing.pth") >= 1


def test_a_host_with_other_rewards_ends_all_with_a_line(settings, flags, rewards_file, tmp_path):
    """The reward is named by a path from the folder that each process runs in."""
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
        (place / "mine.py").write_text(f"# of {place}\n{rewards_file.read_text()}")
    words = flags(settings | {"reward": ("mine.py:digits",)})
    hosts = Processes(tmp_path, 2, 1, "--runs", str(tmp_path), "--name", "run", *words, places=places)
    assert hosts.end() == [2, 2], hosts.told()
    told = "egg-reason: host 1: other rewards (mine.py) here than in the first process: give all machines the same"
    assert told in hosts.told() and "Traceback" not in hosts.told()


def test_other_weights_on_a_host_are_found():
    share = Trials(range(2), np.zeros((2, 1), np.float32), {}).encode("float32")
    replies = [bytes([TRIALS]) + bytes([number]) * HASH_BYTES + share for number in (1, 1, 2)]
    with pytest.raises(ValueError, match=r"the weights of hosts \[2\] are not the first one's"):
        _merged(replies, "float32")


@pytest.mark.parametrize("kind", [RewardFailure, EnvironmentFailure, ValueError, OSError])
def test_a_failure_of_another_host_stays_what_it_is(kind):
    """`Session.running` adds the command that continues the run to failures of rewards and environments."""

    def fails(*_):
        raise kind("the simulator\nis gone")

    parts = SimpleNamespace(problem=SimpleNamespace(try_out=fails))
    members, hosts = SimpleNamespace(size=4), SimpleNamespace(count=2, number=1)
    reply = _tried(parts, members, [], 0, bytes(HASH_BYTES), hosts)
    with pytest.raises(ValueError, match=r"^host 0: the simulator is gone$") as error:
        _merged([reply], "float32")
    assert error.type is (ValueError if kind is OSError else kind)


# What passes between them


@pytest.mark.parametrize("wire", ["float32", "float16", "ternary"])
def test_a_share_comes_out_as_it_went_in(wire):
    rng = np.random.default_rng(0)
    fitness = rng.random((6, 5), np.float32)
    fitness[0, 1] = fitness[4] = np.nan
    share = Trials(range(4, 10), rounded(fitness, wire), {"completions": 30, "reward": 1.5})
    again = Trials.decode(share.encode(wire), wire)
    np.testing.assert_array_equal(again.fitness_NP, share.fitness_NP)
    assert (again.members, again.sums) == (share.members, share.sums)


def test_shares_merge_in_the_order_of_their_members():
    parts = [
        Trials(range(2 * k, 2 * k + 2), np.full((2, 3), k, np.float32), {"completions": 6}) for k in range(4)
    ]
    whole = merge([parts[2], parts[0], parts[3], parts[1]])
    assert whole.members == range(8) and whole.sums == {"completions": 24}
    np.testing.assert_array_equal(whole.fitness_NP[:, 0], np.arange(8) // 2)


def test_ternary_is_all_that_sign_reads():
    rng = np.random.default_rng(0)
    for _ in range(200):
        fitness = rng.integers(0, 3, (12, 4)).astype(np.float32)  # of whole numbers many pairs draw
        np.testing.assert_array_equal(
            pair_weights(rounded(fitness, "ternary"), "sign"), pair_weights(fitness, "sign")
        )


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="wire float16 holds rewards up to 65504, not 70000: use float32"):
        rounded(np.array([[1.0], [70000.0]], np.float32), "float16")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"wire": "float8"}, "wire must be one of float32, float16, ternary, not 'float8'"),
        (
            {"wire": "ternary"},
            "wire ternary keeps only which member of each pair won, which is enough for shaping sign, not group:"
            " give --shaping sign, or another --wire",
        ),
    ],
)
def test_bad_wires(given, line):
    with pytest.raises(ValueError) as error:
        TrainConfig.of(**given)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"hosts": 0}, "hosts must be at least 1, not 0"),
        (
            {"hosts": 2, "host": 2, "coordinator": "a:1"},
            "host must be from 0 to 1, one below the number of hosts, not 2",
        ),
        (
            {"coordinator": "a:1"},
            "coordinator is where several hosts meet: give the number of hosts with --hosts too",
        ),
        (
            {"hosts": 2},
            "coordinator must be the address of host 0 and a free port, such as 10.0.0.1:9000, not None",
        ),
    ],
)
def test_bad_machines(given, line):
    with pytest.raises(ValueError) as error:
        Machines(**given)
    assert str(error.value) == line
