"""The served application: predictions as TrainedModel gives them, and one clear answer for each bad request."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from base.trained_model import TrainedModel
from helpers import PROJECT, run_here
from serving.app import create_app, prepare


@pytest.fixture(scope="module")
def model(default_run):
    return TrainedModel.load(default_run)


@pytest.fixture(scope="module")
def client(model):
    prepare(model)
    with TestClient(create_app(model, max_bytes=100_000)) as client:
        yield client


@pytest.fixture(scope="module")
def drawings():
    """PNG files of three drawings, as bytes."""
    files = []
    for place in (4, 10, 16):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, place : place + 4] = 255
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        files.append(file.getvalue())
    return files


def test_files_and_arrays_get_the_predictions_of_the_model(client, model, drawings, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, content in zip(paths, drawings, strict=True):
        path.write_bytes(content)
    wanted = model.predict(paths, top=3)
    answer = client.post("/predict?top=3", files=[("files", (path.name, path.read_bytes())) for path in paths])
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    raw = {"examples": [model.input.read(str(path)).tolist() for path in paths]}
    for rows in (found, client.post("/predict?top=3", json=raw).json()["predictions"]):
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in wanted]
        assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in wanted], abs=1e-5)
        assert all(len(row["top"]) == 3 for row in rows)


@pytest.mark.parametrize(
    ("request_of", "status", "detail"),
    [
        (
            {"files": {"files": ("a.png", b"no image")}},
            422,
            "a.png: cannot be read as an image: it has no known format",
        ),
        ({"files": {"files": ("../../etc/passwd", b"")}}, 422, "passwd: cannot be read as an image"),
        ({"data": {"other": "a field"}}, 422, "content-type application/x-www-form-urlencoded"),
        ({"json": {"examples": []}}, 422, "the request has 0 examples; 1 to 256 are allowed"),
        ({"json": {"examples": [[1, 2]]}}, 422, "an example should be an array (1, 28, 28) of pixels from 0 to 255"),
        ({"json": {"examples": [[[1], [1, 2]]]}}, 422, "an example should be an array of numbers"),
        ({"json": [1]}, 422, 'the body should be {"examples": [...]}'),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "Expecting property name"),
        ({"content": b'{"examples": [NaN]}', "headers": {"content-type": "application/json"}}, 422, "NaN is no number"),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 422, ""),
        ({"content": b"[" * 90_000, "headers": {"content-type": "application/json"}}, 422, "nested too"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "Missing boundary"),
        ({"content": bytes(100_001)}, 413, "the body has 100001 bytes; 100,000 are allowed"),
        ({"content": iter([bytes(60_000)] * 2)}, 413, "the body has more than 100,000 bytes"),
    ],
)
def test_bad_requests_get_one_line(client, request_of, status, detail):
    answer = client.post("/predict", **request_of)
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text


def test_one_bad_request_among_many_fails_alone(client, drawings):
    async def send():
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            contents = [drawings[i % 3] if i != 7 else b"broken" for i in range(20)]
            return await asyncio.gather(*(http.post("/predict", files={"files": one}) for one in contents))

    assert [answer.status_code for answer in asyncio.run(send())] == [200] * 7 + [422] + [200] * 12


def test_a_model_that_takes_too_long_is_said_with_a_time_to_try_again(default_run, drawings, monkeypatch):
    slow = TrainedModel.load(default_run)
    monkeypatch.setattr(slow, "outputs", lambda raw: time.sleep(0.3))
    with TestClient(create_app(slow, timeout_seconds=0.1)) as client:
        answer = client.post("/predict", files={"files": drawings[0]})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"


def test_what_else_there_is_to_ask(client):
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ready").status_code == 200
    assert client.get("/model").json()["classes"] == list("0123456789")
    text = client.get("/metrics").text
    assert 'predict_requests_total{status="422"}' in text and "batch_size_bucket" in text
    page = client.get("/")
    assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
    assert client.get("/../../etc/passwd").status_code == 404


@pytest.mark.slow
def test_a_signal_finishes_what_is_in_flight_and_ends_with_0(default_run, drawings):
    command = [sys.executable, "serve.py", "-r", str(default_run), "--port", "0"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[-1]
        answers = []

        def ask():
            for _ in range(20):
                answers.append(httpx.post(f"{address}/predict", files={"files": drawings[0]}).status_code)

        assert urllib.request.urlopen(f"{address}/ready").status == 200
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert answers == [200] * 20
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()


def test_a_port_in_use_is_said_in_a_line(default_run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_here("serve.py", "-r", default_run, "--port", port, status=2)
    assert f"error: --host, --port: cannot listen at 127.0.0.1:{port}: Address already in use" in done.stderr


def test_the_schema_names_the_body(client):
    content = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    json.dumps(content)
