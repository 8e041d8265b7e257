"""A served model of texts: continuations as predict.py writes them, and a bad request fails alone."""

import asyncio
import threading

import httpx2 as httpx
import pytest
import torch
from starlette.testclient import TestClient

from base.data.outputs import Output
from base.data.texts import TextInput
from base.generate import Prompt, continuations, continued
from base.trained_model import TrainedModel
from examples.char_lm.model import CharTransformer
from serving.app import create_app, prepare


def trained(model):
    return TrainedModel(model, TextInput(6), Output(), torch.device("cpu"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = CharTransformer(width=16, n_heads=2, n_layers=1)
    model.embedding.weight.data *= 100  # so that what is drawn depends on the text
    return trained(model)


@pytest.fixture(scope="module")
def client(model):
    prepare(model)
    with TestClient(create_app(model)) as client:
        yield client


def test_a_request_gets_the_texts_that_predict_writes(client, model):
    asked = {"examples": ["We the", "é", "a longer prompt than a block"], "length": 20, "temperature": 2, "seed": 3}
    answer = client.post("/predict", json=asked)
    wanted = ["".join(continued(model, prompt, 20, 2.0, 3)) for prompt in asked["examples"]]
    assert answer.json() == {"predictions": [{"prediction": text} for text in wanted]}
    assert client.post("/predict", json=asked | {"seed": 4}).json() != answer.json()
    (first,) = client.post("/predict", json={"examples": ["We the"]}).json()["predictions"]
    assert first["prediction"] == "".join(continued(model, "We the"))


def test_prompts_of_unequal_lengths_and_options_are_continued_together_as_alone(model):
    prompts = [Prompt(b"abc", 9, 1.0, 1), Prompt(b"x" * 20, 4, 0), Prompt(b"ab", 12, 0.5, 2)]
    assert continuations(model, prompts) == ["".join(continuations(model, [prompt])) for prompt in prompts]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"examples": ["a", ""]}, "an example should be a text of at least one letter"),
        ({"examples": [[1, 2]]}, "an example should be a text of at least one letter"),
        ({"examples": ["a"] * 17}, "the request has 17 or more examples; 1 to 16 are allowed"),
        ({"examples": ["a"], "length": 1001}, "length: Input should be less than or equal to 1000"),
        ({"examples": ["a"], "length": 1.5}, "length: Input should be a valid integer"),
        ({"examples": ["a"], "length": True}, "length: Input should be a valid integer"),
        ({"examples": ["a"], "temperature": -0.1}, "temperature: Input should be greater than or equal to 0"),
        ({"examples": ["a"], "temperature": 10**400}, "temperature: Input should be"),
        ({"examples": ["a"], "seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"examples": ["a"], "lenght": 5}, "lenght: no such field; there are examples, length, temperature, seed"),
    ],
)
def test_bad_requests_get_one_line(client, body, detail):
    answer = client.post("/predict", json=body)
    assert (answer.status_code, detail in answer.json()["detail"]) == (422, True), answer.text


def test_half_a_letter_and_files_are_refused(client):
    half = {"content": b'{"examples": ["\\ud800"]}', "headers": {"content-type": "application/json"}}
    assert "a text that UTF-8 can encode" in client.post("/predict", **half).json()["detail"]
    assert client.post("/predict", files={"files": b"a"}).json() == {"detail": "content-type: send application/json"}


class Sevens(torch.nn.Module):
    """Writes sevens, but no number after a bad letter."""

    def forward(self, tokens):
        logits = torch.zeros(len(tokens), 256, tokens.shape[1])
        logits[:, ord("7")] = 50
        return logits.where((tokens != ord("!"))[:, None], float("nan"))


def test_one_bad_request_among_many_fails_alone():
    async def send():
        transport = httpx.ASGITransport(create_app(trained(Sevens())))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            prompts = ["a" if i != 3 else "!" for i in range(6)]
            return await asyncio.gather(
                *(http.post("/predict", json={"examples": [one], "length": 2}) for one in prompts)
            )

    answers = asyncio.run(send())
    assert [answer.status_code for answer in answers] == [200] * 3 + [422] + [200] * 2
    assert answers[0].json() == {"predictions": [{"prediction": "77"}]}
    assert answers[3].json() == {"detail": "the model's output is not a number for this text"}


class Waiting(Sevens):
    """Waits until it is let go."""

    def __init__(self):
        super().__init__()
        self.let_go, self.num_calls = threading.Event(), 0

    def forward(self, tokens):
        self.num_calls += 1
        self.let_go.wait(20)
        return super().forward(tokens)


def test_a_text_that_nobody_waits_for_any_longer_is_not_written_to_its_end():
    waiting = Waiting()
    with TestClient(create_app(trained(waiting), timeout_seconds=0.2)) as client:
        answer = client.post("/predict", json={"examples": ["a"], "length": 500})
        waiting.let_go.set()
    assert (answer.status_code, waiting.num_calls) == (503, 1)


def test_the_schema_and_the_description_name_the_options(client):
    content = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    body = content["application/json"]["schema"]
    assert list(content) == ["application/json"] and body["additionalProperties"] is False
    assert body["required"] == ["examples"] and body["properties"]["examples"]["maxItems"] == 16
    assert body["properties"]["examples"]["items"] == {"type": "string", "minLength": 1}
    length = body["properties"]["length"]
    assert [length[key] for key in ("type", "minimum", "maximum", "default")] == ["integer", 1, 1000, 200]
    described = client.get("/model").json()
    assert list(described["options"]) == ["length", "temperature", "seed"] and described["files"] == []
