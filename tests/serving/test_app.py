"""The served application: predictions as TrainedModel gives them, and one clear answer for each bad request."""

import asyncio
import io
import socket
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from base.data.encoding import TableInput
from base.data.inputs import ArrayInput
from base.data.outputs import Output
from base.trained_model import TrainedModel
from helpers import run_here
from serve import bound_port
from serving.app import create_app, prepare
from serving.schema import Answer
from utils.errors import UserError

PART = {
    "content": b'--limit\r\nContent-Disposition: form-data; name="files"; filename="NAME"\r\n\r\nx\r\n--limit--\r\n',
    "headers": {"content-type": "multipart/form-data; boundary=limit"},
}


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
        ({"data": {"other": "a field"}}, 422, "content-type: send multipart/form-data or application/json"),
        ({"json": {"examples": []}}, 422, "the request has 0 examples; 1 to 256 are allowed"),
        ({"json": {"examples": [[1, 2]]}}, 422, "an example should be an array (1, 28, 28) of pixels from 0 to 255"),
        ({"json": {"examples": [[[1], [1, 2]]]}}, 422, "an example should be an array of numbers"),
        ({"json": [1]}, 422, 'the body should be {"examples": [...]}'),
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            422,
            "is not JSON: Expecting property name",
        ),
        ({"content": b'{"examples": [NaN]}', "headers": {"content-type": "application/json"}}, 422, "NaN is no number"),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 422, "is not JSON"),
        ({"content": b"[" * 90_000, "headers": {"content-type": "application/json"}}, 422, "nested too"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 422, "needs a boundary"),
        ({"json": {"examples": [["1"]]}}, 422, "an example should be an array of numbers"),
        ({"json": {"examples": [None]}}, 422, "an example should be an array of numbers"),
        ({"json": {"examples": [10**400]}}, 422, "an example should be an array of numbers"),
        ({"json": {"examples": [{"a": 1}]}}, 422, "an example should be an array of numbers"),
        ({"files": [("files", b"")] * 257}, 422, "the request has 257 or more examples; 1 to 256 are allowed"),
        ({"files": {"other": b""}}, 422, "a field is not called files"),
        (PART | {"content": PART["content"].removesuffix(b"--limit--\r\n")}, 422, "it ends early"),
        (PART | {"content": b"--limit--\r\n"}, 422, "the request has 0 examples"),
        (PART | {"content": b"--limit\r\nX: y\r\n\r\nx\r\n--limit--"}, 422, "a part has no Content-Disposition"),
        (PART | {"content": b"--limit\r\n--limit--"}, 422, "a part has no Content-Disposition"),
        (
            PART
            | {"content": PART["content"].replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1)},
            422,
            "a part has a Content-Transfer-Encoding; send its bytes as they are",
        ),
        (PART | {"content": PART["content"].replace(b"NAME", b"\xff/\x00\xfe.png")}, 422, "\\x00\ufffd.png: cannot be"),
        (PART | {"content": PART["content"].replace(b"NAME", b"n" * 2000)}, 422, "n: cannot be read as an image"),
        (
            PART | {"content": PART["content"].replace(b"; filename", b"; title")},
            422,
            "file: cannot be read as an image",
        ),
        ({"params": {"top": 0}}, 422, "top: Input should be greater than or equal to 1"),
        ({"content": bytes(100_001)}, 413, "the body has 100,001 bytes; 100,000 are allowed"),
        ({"content": iter([bytes(60_000)] * 2)}, 413, "the body has more than 100,000 bytes"),
    ],
)
def test_bad_requests_get_one_line(client, request_of, status, detail):
    answer = client.post("/predict", **request_of)
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
    assert len(answer.text) < 400 and "\n" not in answer.json()["detail"]


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


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(client):
    file = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(file, "png")
    started = time.perf_counter()
    answer = client.post("/predict", files={"files": ("large.png", file.getvalue())})
    assert answer.status_code == 422 and "large.png: has more than 50,000,000 pixels" in answer.text
    assert time.perf_counter() - started < 0.5


def test_an_error_of_ours_is_logged_and_not_told(default_run, drawings, monkeypatch, caplog):
    broken = TrainedModel.load(default_run)
    monkeypatch.setattr(broken, "outputs", lambda raw: {}["/home/secret"])
    with TestClient(create_app(broken)) as client:
        answer = client.post("/predict", files={"files": drawings[0]})
    assert (answer.status_code, answer.json()) == (500, {"detail": "an error of the service; its log says more"})
    assert "KeyError: '/home/secret'" in caplog.text


def test_a_request_that_the_server_gives_up_is_told_to_try_again(default_run, drawings, monkeypatch):
    app = create_app(TrainedModel.load(default_run))

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            monkeypatch.setattr("serving.batching.Batcher.add", lambda *_: asyncio.sleep(5))
            request = asyncio.create_task(http.post("/predict", files={"files": drawings[0]}))
            await asyncio.sleep(0.1)
            request.cancel()
            return await request

    answer = asyncio.run(send())
    assert answer.status_code == 503 and answer.json()["detail"] == "the service ends; try again"


def test_bodies_of_all_requests_share_a_limit_of_memory(model, drawings, monkeypatch):
    monkeypatch.setattr("serving.app.MAX_HELD_BYTES", 1000)
    held = asyncio.Event()

    async def slowly():
        yield bytes(900)
        await held.wait()

    async def send():
        transport = httpx.ASGITransport(create_app(model, max_bytes=1000))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            slow = asyncio.create_task(http.post("/predict", content=slowly()))
            await asyncio.sleep(0.05)
            during = await http.post("/predict", files={"files": drawings[0]})
            held.set()
            await slow
            return during, await http.post("/predict", files={"files": drawings[0]})

    during, afterwards = asyncio.run(send())
    assert (during.status_code, during.headers["retry-after"], afterwards.status_code) == (503, "1", 200)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_a_model_of_arrays_is_prepared_and_gives_an_example_that_it_takes(dtype):
    model = TrainedModel(torch.nn.Flatten(), ArrayInput(None, dtype, [2, 3]), Output(), torch.device("cpu"))
    prepare(model)
    with TestClient(create_app(model)) as client:
        example = client.get("/model").json()["example"]
        assert client.post("/predict", json={"examples": [example]}).json() == {
            "predictions": [{"prediction": [0.0] * 6}]
        }
    large = TrainedModel(torch.nn.Flatten(), ArrayInput(None, dtype, [200, 200]), Output(), torch.device("cpu"))
    with TestClient(create_app(large)) as client:
        assert client.get("/model").json()["example"] is None


def test_rows_of_a_table_are_objects_and_the_schema_says_so():
    input = TableInput(["size"], ["town"], [3.0], [1.0], [3.0], [["Bonn", "Ulm"]], one_hot=True)
    model = torch.nn.Linear(3, 2)
    served = TrainedModel(model, input, Output(["low", "high"]), torch.device("cpu"))
    with TestClient(create_app(served)) as client:
        wanted = model(torch.tensor([[1.0, 0, 1]])).softmax(1)[0].tolist()
        rows = [{"size": 4, "town": "Ulm"}, {"size": 4.0, "town": "Ulm", "more": None}]
        answer = client.post("/predict?top=2", json={"examples": rows}).json()["predictions"]
        assert [dict(row["top"]) for row in answer] == [
            pytest.approx(dict(zip(["low", "high"], wanted, strict=True)))
        ] * 2
        answer = client.post("/predict", files={"files": ("a.csv", b"size,town\n1,Ulm")})
        assert (answer.status_code, answer.json()["detail"]) == (422, "content-type: send application/json")
        described = client.get("/model").json()
        assert described["example"] == {"size": 3.0, "town": "Bonn"} and described["files"] == []
        assert described["schema"]["properties"]["town"] == {"type": "string", "examples": ["Bonn", "Ulm"]}
        content = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert list(content) == ["application/json"]


def test_a_model_without_an_input_is_refused_by_the_path_of_its_checkpoint():
    model = TrainedModel(torch.nn.Identity(), None, Output(), torch.device("cpu"), path=Path("a/model_best.pth"))
    with pytest.raises(UserError, match=r"^a/model_best.pth: holds no input, so that it cannot be served; train one"):
        create_app(model)


def test_answers_are_not_held_back_for_the_acknowledgement_of_the_client():
    with bound_port("127.0.0.1", 0) as port:
        assert port.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_else_there_is_to_ask(client):
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ready").status_code == 200
    assert client.get("/model").json()["classes"] == list("0123456789")
    assert client.post("/predict", json={"examples": []}).status_code == 422
    text = client.get("/metrics").text
    assert 'predict_requests_total{status="422"}' in text and "batch_size_bucket" in text
    page = client.get("/")
    assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
    assert client.get("/../../etc/passwd").status_code == 404


def test_a_port_in_use_is_said_in_a_line(default_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_here("serve.py", "-r", default_run, "--port", port, status=2)
    assert f"error: --host, --port: cannot listen at 127.0.0.1:{port}: Address already in use" in done.stderr


def test_the_schema_names_the_body(client):
    content = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    assert "image/png" in content["multipart/form-data"]["encoding"]["files"]["contentType"]
    image = content["application/json"]["schema"]["properties"]["examples"]["items"]
    assert [image["maxItems"], image["items"]["minItems"], image["items"]["items"]["maxItems"]] == [1, 28, 28]
    assert image["items"]["items"]["items"] == {"type": "number", "minimum": 0, "maximum": 255}


def test_the_schema_describes_the_answers(client, drawings):
    responses = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
    models = {code: answer["content"]["application/json"]["schema"]["$ref"] for code, answer in responses.items()}
    assert {code: model.rpartition("/")[2] for code, model in models.items()} == {
        "200": "Answer", "413": "Error", "422": "Error", "503": "Error"
    }  # fmt: skip
    answer = Answer.model_validate(client.post("/predict?top=2", files={"files": drawings[0]}).json())
    assert len(answer.predictions[0].top) == 2
