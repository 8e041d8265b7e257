"""What /openapi.json promises of the service holds for requests that are generated from it."""

import math

import hypothesis
import pytest
import torch

from base.data.encoding import TableInput
from base.data.inputs import ImageInput
from base.data.outputs import Output
from base.data.texts import TextInput
from base.trained_model import TrainedModel
from examples.char_lm.model import CharTransformer
from serving.app import create_app

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
UNTRUE = [checks.positive_data_acceptance]  # any bytes are a file to the schema, and few of them are an image


def without_lifespan(app):
    """The application, which stays open although each request of the test starts and ends a server."""

    async def answer(scope, receive, send):
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    return answer


def served(kind):
    if kind == "table":
        input = TableInput(["size"], ["town"], [3.0], [1.0], [3.0], [["Bonn", "Ulm"]], one_hot=True)
        model = torch.nn.Linear(3, 2)
    elif kind == "texts":
        input, model = TextInput(4), CharTransformer(width=8, n_heads=1, n_layers=1)
    else:
        input, model = ImageInput(1, 2, 2, [0.5], [0.5]), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = TrainedModel(model, input, Output(["low", "high"]), torch.device("cpu"))
    return create_app(model, timeout_seconds=math.inf)  # a busy machine takes any time


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that schemathesis calls
@pytest.mark.parametrize("kind", ["table", "images", "texts"])
def test_answers_to_generated_requests_are_as_the_schema_says(kind):
    schema = schemathesis.openapi.from_asgi("/openapi.json", without_lifespan(served(kind)))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/predict", "/health", "/ready", "/metrics", "/model"}
    statuses = set()
    for operation in operations:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=25 if operation.path == "/predict" else 2,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            answer = case.call(timeout=None)  # after the client's 10 s, it would end the request, which is status 503
            statuses.add((case.path, answer.status_code))
            case.validate_response(answer, excluded_checks=UNTRUE if kind == "images" else [])

        check()
    assert ("/predict", 200) in statuses and not any(status >= 500 for _, status in statuses)
