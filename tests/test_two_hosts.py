"""Two hosts for real: network namespaces joined by a cable, which is cut in the middle of a run."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from worlds import in_world, results, small_job, train

from helpers import PROJECT
from utils.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow  # they start processes

SECONDS_TO_START = 180  # at most
SECONDS_TO_END = 20  # after the cut: the time-out of 5 s, and some for a machine that does other things too


class Host:
    """A network namespace with one interface, which lives as long as a process that sleeps in it."""

    def __init__(self, number):
        self.address, self.interface = f"10.77.0.{number}", f"cable{number}"
        self.sleeper = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.running = None

    def wait(self):
        """Until it is there: before that, its network would be the machine's own."""
        ours = os.readlink("/proc/self/ns/net")
        while self.sleeper.poll() is None and os.readlink(f"/proc/{self.sleeper.pid}/ns/net") == ours:
            time.sleep(0.01)
        if self.sleeper.poll() is not None:
            raise OSError("unshare is refused")

    def run(self, *command):
        subprocess.run(self.inside(*command), check=True, capture_output=True, text=True)

    def inside(self, *command):
        return ["nsenter", f"--target={self.sleeper.pid}", "--net", *command]

    def up(self):
        self.run("ip", "address", "add", f"{self.address}/24", "dev", self.interface)
        self.run("ip", "link", "set", self.interface, "up")
        self.run("ip", "link", "set", "lo", "up")

    def train(self, attempt, output, *arguments):
        """Start torchrun with train.py and these arguments."""
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint=10.77.0.1:{29400 + attempt}", f"--rdzv-id={attempt}"]
        serves = int(self.address == "10.77.0.1")  # which torchrun cannot see, where both have one host name
        launch += [
            f"--rdzv-conf=is_host={serves},join_timeout=60,read_timeout=60",
            f"--local-addr={self.address}",
            "train.py",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.interface}
        with open(output, "w") as file:
            self.running = subprocess.Popen(
                self.inside(*launch, *map(str, arguments)), cwd=PROJECT, env=environment, stdout=file, stderr=file
            )

    def trains(self):
        """Whether what torchrun has started is still there."""
        children = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children")
        found = children.read_text().split() if children.exists() else ()
        return any(Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] != "Z" for child in found)

    def end(self):
        for process in (self.running, self.sleeper):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def hosts():
    """Two hosts with a cable between them. The machine's own network has no part in it."""
    hosts = [Host(1), Host(2)]
    try:
        for host in hosts:
            host.wait()
        first, second = hosts
        cable = ["ip", "link", "add", first.interface, "type", "veth", "peer", "name", second.interface]
        first.run(*cable, "netns", str(second.sleeper.pid))
        for host in hosts:
            host.up()
    except (OSError, subprocess.CalledProcessError) as error:
        for host in hosts:
            host.end()
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', None) or error}")
    yield hosts
    for host in hosts:
        host.end()


def weights(folder, name, epoch):
    (run,) = (folder / name / "models" / name).iterdir()
    return load_checkpoint(run / f"checkpoint-epoch{epoch}.pth")["state_dict"]


def test_a_run_on_two_hosts_of_which_one_is_cut_off_ends_on_both_and_goes_on(tmp_path, hosts):
    settings = {"epochs": 60, "save_every_steps": 50, "keep_last": 3, "tensorboard": False, "verbosity": 1}
    job = {"samples": 2000, "batch_size": 20, "parallel": {"timeout_seconds": 5}, "trainer": settings}
    config = small_job(tmp_path, "cut", **job)
    outputs = [tmp_path / "first", tmp_path / "second"]
    for host, output in zip(hosts, outputs, strict=True):
        host.train(1, output, "-c", config)
    wait_for(lambda: "epoch 2/60" in outputs[0].read_text(), SECONDS_TO_START, outputs)
    hosts[0].run("ip", "link", "set", hosts[0].interface, "down")
    wait_for(lambda: not any(host.trains() for host in hosts), SECONDS_TO_END, outputs)
    hosts[1].running.kill()  # torchrun itself, which waits there for the store that it cannot reach
    hosts[1].running.wait()
    assert hosts[0].running.wait(SECONDS_TO_END) == 1
    told = outputs[0].read_text()
    place = r"(in epoch \d+ after batch \d+|at the beginning of epoch \d+)"  # the cut comes at any moment
    waited = rf"waited 5 seconds \(parallel\.timeout_seconds\) in vain for rank 1; rank 0 was {place}; resume"
    assert re.search(waited, told), told
    assert "lost contact" in outputs[1].read_text()

    hosts[0].run("ip", "link", "set", hosts[0].interface, "up")
    (run,) = (tmp_path / "cut" / "models" / "cut").iterdir()
    epochs = [path.stem.removeprefix("checkpoint-epoch") for path in run.glob("checkpoint-epoch*.pth")]
    last = max(int(epoch) for epoch in epochs if epoch.isdigit()) + 3  # others are within one
    for host, output in zip(hosts, outputs, strict=True):
        host.train(2, output, "-c", config, "-r", "auto", "--set", f"trainer.epochs={last}")
    wait_for(lambda: all(host.running.poll() is not None for host in hosts), SECONDS_TO_START, outputs)
    assert [host.running.returncode for host in hosts] == [0, 0], [output.read_text() for output in outputs]

    left = small_job(tmp_path, "left", **job)
    results(in_world(2, train, "-c", left, "--set", f"trainer.epochs={last}"))
    for name, weight in weights(tmp_path, "left", last).items():
        assert torch.equal(weight, weights(tmp_path, "cut", last)[name]), name


def wait_for(happens, seconds, outputs):
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, [output.read_text()[-3000:] for output in outputs]
        time.sleep(0.1)
