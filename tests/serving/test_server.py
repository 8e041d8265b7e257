"""serve.py as a process: signals lose no request, workers are replaced, and the page works in a browser."""

import collections
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import PROJECT, run_here

pytestmark = pytest.mark.slow
WITHOUT_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")


class Service:
    """serve.py of a run, in a process of its own, and what its clients saw."""

    def __init__(self, run, *words):
        command = [sys.executable, "serve.py", "-r", str(run), "--port", "0", *words]
        self.process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.address = self.line.split()[-1]
        self.seen = collections.Counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()
        self.process.stderr.close()

    def workers(self):
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in tasks.read_text().split()]

    def ask(self, keep_alive=True):
        """Send requests until no connection is possible, and count how each one ended."""
        connection, place = None, self.address.removeprefix("http://")
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(place, timeout=30)
                    connection.connect()
                connection.request("POST", "/predict", BODY, {"content-type": "multipart/form-data; boundary=limit"})
                answer = connection.getresponse()
                answer.read()
                self.seen[answer.status] += 1
                if not keep_alive or answer.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1
                return


def png():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


BODY = b'--limit\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%b\r\n--limit--\r\n' % png()


@pytest.mark.parametrize("words", [(), pytest.param(("--workers", "2"), marks=WITHOUT_FORK)])
def test_a_signal_loses_no_request_of_any_client_and_ends_with_0(default_run, words):
    with Service(default_run, *words) as service:
        clients = [threading.Thread(target=service.ask, args=(number % 2 == 0,)) for number in range(16)]
        for client in clients:
            client.start()
        while service.seen[200] < 100:
            time.sleep(0.05)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0 and time.monotonic() - started < 15
        for client in clients:
            client.join(10)
        assert service.seen.keys() == {200} and service.process.stderr.read() == ""


@WITHOUT_FORK
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_a_worker_that_dies_is_said_and_replaced_and_metrics_are_of_all(default_run):
    with Service(default_run, "--workers", "2") as service:
        first, second = service.workers()
        asking = http.client.HTTPConnection(service.address.removeprefix("http://"))
        os.kill(first, signal.SIGKILL)
        assert f"error: worker {first} ended with status -9; another one starts" in service.process.stderr.readline()
        while second not in (now := service.workers()) or len(now) < 2:
            time.sleep(0.1)
        for _ in range(5):
            asking.request("POST", "/predict", BODY, {"content-type": "multipart/form-data; boundary=limit"})
            assert asking.getresponse().read().startswith(b'{"predictions":[{"prediction":')
            asking.close()
        asking.request("GET", "/metrics")
        assert b'predict_requests_total{status="200"} 5.0' in asking.getresponse().read()
        asking.close()


@WITHOUT_FORK
def test_what_is_wrong_with_a_checkpoint_is_said_by_one_worker_alone(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    command = [sys.executable, "serve.py", "-r", str(tmp_path / "a.pth"), "--port", "0", "--workers", "3"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "a.pth" in done.stderr, done.stderr


@WITHOUT_FORK
def test_workers_end_when_their_parent_is_killed(default_run):
    with Service(default_run, "--workers", "2") as service:
        service.process.kill()
        service.process.wait()
        port = int(service.address.rpartition(":")[2])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                return
            time.sleep(0.1)
    pytest.fail("the port is still open")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--workers", 0), "--workers: got 0; it should be 1 or more"),
        (("--port", 70000), "--port: got 70000; it should be from 0 to 65535"),
        (("--host", "256.1.1.1"), "--host, --port: cannot listen at 256.1.1.1:8000: "),
        (("-r", "none.pth", "--port", 0), "none.pth: no such checkpoint"),
        (("--max-bytes", 0), "--max-bytes: got 0; it should be 1 or more"),
    ],
)
def test_wrong_commands_end_with_one_line(default_run, words, error):
    (line,) = run_here("serve.py", "-r", default_run, *words, status=2).stderr.splitlines()
    assert line.startswith(f"error: {error}")


def test_packages_that_are_missing_are_named(default_run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (line,) = run_here("serve.py", "-r", default_run, status=2).stderr.splitlines()
    assert line.endswith("needs packages that are not installed: pip install fastapi uvicorn prometheus-client")
