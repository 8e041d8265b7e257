import inspect
import typing

import pytest
import torch

from base import BaseDataLoader, BaseModel
from utils import UserError
from utils.config.annotations import as_arguments
from utils.config.types import argument_errors, call


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1], ["1", 1.5, True, None]),
        ("float", [1, 0.5], ["0.5", False]),
        ("float | None", [1, None], ["x"]),
        ("bool", [True], [1]),
        ("str", ["x"], [1]),
        ("tuple[float, float]", [[1, 2], "x"], []),
        ("int | Path", [1, "x"], []),
        ("Optional[int]", [3, None], ["3", [3], 0.5]),
        ("Union[float, list[float]]", [0.1, [0.1, 0.2]], [None, "0.1"]),  # as torch 2.8 writes it
        ("typing.Union[int, List[int], NoneType]", [3, [3], None], ["3"]),
        ("Union[float, tuple[float, float]]", ["not read"], []),
    ],
)
def test_values_are_checked_where_the_annotation_is_plain(annotation, good, bad):
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    for value in good:
        assert argument_errors((parameter,), {"x": value}, 0) == []
    for value in bad:
        assert argument_errors((parameter,), {"x": value}, 0) == [f"x: got {value!r}; it should be {annotation}"]


QUOTE = "'"
_LISTS = "; write a tensor as a list of numbers, [1.0, 2.0], or of rows of equal length"


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("Tensor | None", [[1.0, 3], [2], [[1, 2], [3.5, 4]], None], ["x", 1.0, [], ["a"], [True], [[1], [1, 2]], {}]),
        ("torch.Tensor", [[1.0, 3.0]], [None, [[1], 2], [[]], [[1], None], [[["x"]]]]),
        (torch.Tensor, [[1.0, 3.0]], [None, "x"]),
        (torch.Tensor | None, [[1.0, 3.0], None], ["x"]),
        ("Optional[Tensor]", [[1.0], None], ["x", 1]),
        ("'torch.Tensor|None'", [[1.0], None], ["x", 1]),
        (typing.Optional[torch.Tensor], [[1.0], None], ["x", 1]),  # noqa: UP045
        (typing.Union[float, torch.Tensor, None], [[1.0], 2.0, None], ["x"]),  # noqa: UP007
        ("float | Tensor", [0.1, [0.1, 0.2]], ["0.1"]),
    ],
)
def test_tensors_are_lists_of_numbers(annotation, good, bad):
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    for value in [*good, torch.ones(2)]:  # a script may pass one
        assert argument_errors((parameter,), {"x": value}, 0) == []
        made = as_arguments((parameter,), {"x": value, "y": [1]})
        assert made["y"] == [1] and isinstance(made["x"], torch.Tensor) == isinstance(value, (list, torch.Tensor))
        if isinstance(value, list):
            assert torch.equal(made["x"], torch.tensor(value, dtype=torch.float32)) and made["x"].dtype == torch.float32
    for value in bad:
        assert argument_errors((parameter,), {"x": value}, 0) == [
            f"x: got {value!r}; it should be {str(annotation).strip(QUOTE)}{_LISTS}"
        ]


@pytest.mark.parametrize(
    "annotation", ["list | Tensor", "list[float] | Tensor | None", "Sequence[float] | Tensor", "Any"]
)
def test_a_list_stays_one_where_a_list_is_taken(annotation):
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    args = {"x": [1.0, 2.0]}
    assert argument_errors((parameter,), args, 0) == [] and as_arguments((parameter,), args) == args


class WithoutBase(BaseDataLoader):
    def __init__(self):
        self.classes = ["a"]


class BeforeBase(BaseDataLoader):
    def __init__(self):
        super().__init__([1.0] * self.n_samples, 2, True, 0, 0)


class LayersFirst(torch.nn.Module):
    def __init__(self):
        self.layer = torch.nn.Linear(2, 2)
        super().__init__()


class BuffersFirst(torch.nn.Module):
    def __init__(self):
        self.register_buffer("weight", torch.ones(2))


class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = LayersFirst()


class Unbuilt(torch.nn.Module):
    def __init__(self):
        self.width = 3


@pytest.mark.parametrize("kind", [WithoutBase, BeforeBase, LayersFirst, BuffersFirst, Holder, Unbuilt])
def test_a_constructor_that_does_not_call_its_bases_is_named(kind):
    with pytest.raises(UserError, match=rf"^arch.type: the constructor of {kind.__name__} has to call super\(\)"):
        call("arch", kind, (), {})


def test_an_abstract_class_is_named_with_what_it_lacks():
    class Headless(BaseModel):
        pass

    with pytest.raises(UserError, match=r"^arch.type: Headless lacks forward, which its base class demands$"):
        call("arch", Headless, (), {})


def test_other_attribute_errors_are_the_projects_own():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.missing()

    with pytest.raises(AttributeError, match="missing"):
        call("arch", Own, (), {})
    assert isinstance(call("loss", torch.nn.MSELoss, (), {}), torch.nn.MSELoss)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_traced_model_of_a_function_is_whole():
    def traced():
        return torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))

    assert call("arch", traced, (), {})(torch.zeros(3, 2)).shape == (3, 2)
