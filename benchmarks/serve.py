"""serve.py beside a bare route without batching: requests/s, p50 and p99, for 1, 8 and 64 clients; and its memory.

Each client sends a PNG file of the size of MNIST, waits for the answer, and sends the next. All clients are a process,
and the server is another. Usage: python benchmarks/serve.py [--seconds 30] [--memory 100000] [--checkpoint RUN]
"""

import argparse
import asyncio
import contextlib
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from harness import PROJECT, interleaved, print_circumstances, print_table, run_fresh

SERVERS = ("serve", "bare")
CLIENTS = (1, 8, 64)


def main(flags):
    checkpoint = flags.checkpoint or train()
    rows = []
    for clients in CLIENTS:

        def measure(name, clients=clients):
            with server(name, checkpoint) as (address, _):
                return run_fresh(__file__, "--clients", clients, "--seconds", flags.seconds, "--address", address)

        found = interleaved(SERVERS, measure)
        speed = {name: np.mean([run["requests_per_s"] for run in runs]) for name, runs in found.items()}
        for name, runs in found.items():
            p50, p99 = (np.mean([run[key] for run in runs]) for key in ("p50_ms", "p99_ms"))
            batch = np.mean([run["batch"] for run in runs])
            failed = sum(run["failed"] for run in runs)
            ratio = f"{speed[name] / speed['bare']:.2f}"
            row = [name, clients, f"{speed[name]:.0f}", ratio, f"{p50:.1f}", f"{p99:.1f}", f"{batch:.1f}", failed]
            rows.append(row)
    print_circumstances("fastapi", "uvicorn")
    print_table(
        ["server", "clients", "requests/s", "of bare", "p50, ms", "p99, ms", "examples a batch", "failed"], rows
    )
    print()
    print_table(["requests", "memory of serve, MB"], memory(checkpoint, flags.memory))


def memory(checkpoint, requests):
    """Rows (requests so far, MB of the server)."""
    rows = []
    with server("serve", checkpoint) as (address, process):
        for part in range(1, 6):
            run_fresh(__file__, "--clients", 8, "--requests", requests // 5, "--address", address)
            rows.append([f"{part * (requests // 5):,}", f"{resident_mb(process):.0f}"])
    return rows


def train():
    """A run of the default job, of one epoch."""
    command = [sys.executable, "train.py", "-c", "config.json", "--set", "trainer.epochs=1", "--set", "name=Benchmark"]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return max((PROJECT / "saved/models/Benchmark").iterdir())


@contextlib.contextmanager
def server(name, checkpoint):
    """(address, process) of a server, which is ended afterwards."""
    program = "serve.py" if name == "serve" else __file__
    command = [sys.executable, program, "-r", checkpoint, "--port", "0"] + ["--bare"] * (name == "bare")
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def serve_bare(checkpoint):
    """What one writes at first: the model is called in the route, with as many threads as serve.py gives it."""
    sys.path.insert(0, str(PROJECT))
    import uvicorn
    from fastapi import FastAPI, UploadFile

    from base.trained_model import TrainedModel
    from serve import bound_port
    from serving.app import prepare

    model = TrainedModel.load(checkpoint, "auto")
    prepare(model)
    app = FastAPI()

    @app.post("/predict")
    async def predict(files: list[UploadFile]):
        raw = []
        for file in files:
            content = io.BytesIO(await file.read())
            content.name = file.filename
            raw.append(model.input.read(content))
        return {"predictions": model.output.describe(model.outputs(np.stack(raw)))}

    with bound_port("127.0.0.1", 0) as port:
        port.listen(2048)
        print(f"http://127.0.0.1:{port.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[port])


async def send(address, clients, seconds, requests):
    """What the clients saw, after a warm-up of a tenth of the time."""
    host, port = re.fullmatch(r"http://(.*):(\d+)", address).groups()
    request, latencies, failed = png_request(), [], 0
    warm_until = time.perf_counter() + (seconds or 0) / 10
    end = warm_until + seconds if seconds else float("inf")
    left = requests or float("inf")

    async def client():
        nonlocal left, failed
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end and left > 0:
            left -= 1
            started = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
            failed += b" 200 " not in head.split(b"\r\n")[0]
            if started >= warm_until:
                latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    batch = await examples_a_batch(host, int(port))
    speed = len(latencies) / (seconds or time.perf_counter() - warm_until)
    return {"requests_per_s": speed, "p50_ms": p50, "p99_ms": p99, "failed": failed, "batch": batch}


async def examples_a_batch(host, port):
    """The mean over all batches, as serve.py tells; 1 of the bare route."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: benchmark\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    counts = [re.search(rf"^batch_size_{name} (\S+)", text, re.M) for name in ("sum", "count")]
    return float(counts[0][1]) / max(1, float(counts[1][1])) if all(counts) else 1.0


def png_request():
    """The bytes of a request with a PNG file."""
    from PIL import Image

    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = np.linspace(100, 255, 20, dtype=np.uint8)[:, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    part = b'Content-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png'
    body = b"--limit\r\n" + part + b"\r\n\r\n" + file.getvalue() + b"\r\n--limit--\r\n"
    head = "POST /predict HTTP/1.1\r\nHost: benchmark\r\nContent-Type: multipart/form-data; boundary=limit"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def resident_mb(process):
    """The memory of a process, in MB. Linux only."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--checkpoint", help="a run of the default job; without it, one is trained")
    parser.add_argument("--seconds", type=float, help="for each measurement (30)")
    parser.add_argument("--memory", type=int, default=100_000, metavar="N", help="requests of the memory table")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    for name in ("--port", "--clients", "--requests"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.bare:
        serve_bare(flags.checkpoint)
    elif flags.address:
        print(json.dumps(asyncio.run(send(flags.address, flags.clients, flags.seconds, flags.requests))))
    else:
        flags.seconds = flags.seconds or 30.0
        main(flags)
