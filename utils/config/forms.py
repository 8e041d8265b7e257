"""Forms of values and sections, from which the schema of a config is built, and the messages for other forms."""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from utils.config.components import MAX_ENTRIES
from utils.config.files import names_several
from utils.config.plain import line_error, path_error
from utils.duration import FORM, WANTED
from utils.errors import brief, refuse
from utils.nearest import did_you_mean, nearest
from utils.patterns import patterns_mistake


class Section(BaseModel):
    """An object of a config, with rules between its keys.

    The rules are checked even if single values have the wrong form, so that all errors come at once.
    """

    model_config = ConfigDict(strict=True, extra="allow", use_attribute_docstrings=True)

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield (place, error) of each key that contradicts others. given: the section as read, in any form."""
        if cls.model_config["extra"] == "forbid":
            for key in [key for key in given if key not in cls.model_fields]:
                yield (key,), f"no such key{did_you_mean(key, cls.model_fields)}"

    @model_validator(mode="wrap")
    @classmethod
    def _check_rules(cls, given, validate):
        broken = list(cls.rules(given)) if isinstance(given, dict) else []
        if not broken:
            return validate(given)
        errors = [{"type": "rule", "msg": text, "loc": place, "input": given} for place, text in broken]
        try:
            validate(given)
        except ValidationError as found:
            errors = [*(e for e in found.errors(include_url=False) if e["type"] != "extra_forbidden"), *errors]
        for error in errors:
            error["type"] = PydanticCustomError(error["type"], error["msg"], error.pop("ctx", None))
        raise ValidationError.from_exception_data(cls.__name__, errors)


def refused_by(rule: Callable[[Any], str | None]) -> AfterValidator:
    """Return a validator that refuses a value for which the rule returns a text: what the value should be."""

    def check(value):
        if wanted := rule(value):
            raise PydanticCustomError("refused", wanted)
        return value

    return AfterValidator(check)


LINE, PATH = refused_by(line_error), refused_by(path_error)


def matching(pattern: str, wanted: str, then: AfterValidator = LINE) -> Any:
    """Return the form of text that matches the regular expression. wanted: the message for other text."""
    fits = re.compile(pattern).fullmatch
    refused = refused_by(lambda text: None if fits(text) else wanted)
    return Annotated[str, refused, then, WithJsonSchema({"type": "string", "pattern": pattern})]


def _either(tag_of, **kinds):
    """One of the kinds, {tag: type}, chosen by tag_of(value), so that errors are reported for that kind alone."""
    tagged = [Annotated[kind, Tag(_TAG + tag)] for tag, kind in kinds.items()]
    return Annotated[Union[*tagged], Discriminator(lambda value: _TAG + tag_of(value))]


_TAG = "\0"  # no key of a config begins so


def named(component: type[Section]) -> Any:
    """Return the form of a bare name, or of the component with its args."""
    return _either(lambda value: "name" if isinstance(value, str) else "object", name=Line, object=component)


def one_or_several(component: type[Section]) -> Any:
    """Return the form of the component, or of several under names."""
    return _either(
        lambda value: "several" if names_several(value) else "one", one=component, several=dict[str, component]
    )


def several(kind: Any) -> Any:
    """Return the form of a list; by default an empty one."""
    return Annotated[list[kind], Field(default=[], max_length=MAX_ENTRIES)]


def _limit_error(value):
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value <= 1):
        return None
    return "it should be a number of batches from 1 on, or a share above 0.0 and up to 1.0"


Line = Annotated[str, LINE]
FilePath = Annotated[str, Field(min_length=1), PATH]
Args = Annotated[dict[str, Any], Field(default={})]
Patterns = Annotated[str | list[str], refused_by(patterns_mistake)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Limit = Annotated[Any, refused_by(_limit_error), WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "number"}]})]
Duration = _either(
    lambda value: "text" if isinstance(value, str) else "number", number=Count, text=matching(f"^{FORM}$", WANTED)
)


def read_section(model: type[Section], given: object, path: str) -> Any:
    """Return a section as an object of the model. Raises UserError with a line for each error.

    path: where the section is, as "lr_scheduler.generator".
    """
    refuse(line for _, line in form_errors(model, given, where=path.split(".")))
    return model.model_validate(given)


def form_errors(model: type[Section], given: Any, where: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield (pydantic's type, line) of each error that the model finds. where: keys that lead to the section."""
    try:
        model.model_validate(given)
    except ValidationError as found:
        for error in found.errors(include_url=False):
            within = [key for key in error["loc"] if not str(key).startswith(_TAG)]
            path = [*where, *within]
            text = _text_of(error, path)
            if error["type"] == "missing":
                beside = functools.reduce(operator.getitem, within[:-1], given)
                close = nearest(path[-1], [key for key in beside if key not in model.model_fields], cutoff=0.6)
                text = "missing" + (f"; is {close!r} meant to be it?" if close else "")
            yield error["type"], f"{'.'.join(map(str, path))}: {text}"


def _text_of(error, path):
    got = f"got {brief(error['input'])}; "
    match error["type"]:
        case "rule":
            return error["msg"]
        case "refused":
            return got + error["msg"]
        case "too_long":
            return f"has {error['ctx']['actual_length']:,} entries; it should have at most {MAX_ENTRIES}"
        case "model_type" | "model_attributes_type":
            return f"{got}it should be {_OBJECTS.get(path[0], _COMPONENT)}"
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return f"{got}it should be {wanted.replace('a valid', 'a').replace('a integer', 'an integer')}"


_COMPONENT = 'an object such as {"type": ..., "args": {...}}'
_OBJECTS = {
    "trainer": "an object",
    "init_weights": "an object",
    "cli": 'an object such as {"flag": "--n_layers", "target": "arch.args.n_layers", "type": "int"}',
}
