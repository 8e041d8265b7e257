"""Builds the optimizer of a config: one over groups of parameters, or several by name."""

from typing import TYPE_CHECKING, Any

from base.training.precision import fused_option
from utils import UserError
from utils.config.files import names_several
from utils.distributed.launch import refuse_several
from utils.distributed.shards import require_shardable
from utils.errors import brief
from utils.patterns import choose_names

if TYPE_CHECKING:
    import torch

    from parse_config import ConfigParser


class Optimizers:
    """Several optimizers that step as one; optimizers["generator"] is one of them.

    by_name: {name: optimizer}.
    every: {name: n}, to step that optimizer in every nth step only; 1 for names that are missing.

    It has the methods of an optimizer that a Trainer calls.
    """

    def __init__(self, by_name: "dict[str, torch.optim.Optimizer]", every: dict[str, int] | None = None) -> None:
        self.by_name = dict(by_name)
        self.every = dict.fromkeys(by_name, 1) | (every or {})
        self.steps = 0

    def __getitem__(self, name: str) -> "torch.optim.Optimizer":
        return self.by_name[name]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, in their order."""
        return [group for optimizer in self.by_name.values() for group in optimizer.param_groups]

    def is_due(self, name: str) -> bool:
        """Whether the next step includes the optimizer of that name."""
        return (self.steps + 1) % self.every[name] == 0

    def step(self) -> None:
        """Step with the optimizers that are due."""
        for name, optimizer in self.by_name.items():
            if self.is_due(name):
                optimizer.step()
        self.steps += 1

    def zero_grad(self) -> None:
        """Reset the gradients of all."""
        for optimizer in self.by_name.values():
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state of each by its name, and the number of steps; utils.runs.weights.load_optimizer restores it."""
        states = {name: optimizer.state_dict() for name, optimizer in self.by_name.items()}
        return {"steps": self.steps, "optimizers": states}


def build_optimizer(
    config: "ConfigParser", model: "torch.nn.Module", name: str = "optimizer", criterion: Any = None
) -> "torch.optim.Optimizer | Optimizers":
    """The optimizer of the parameters that require a gradient; an Optimizers if the section names several.

    criterion: the loss, whose parameters are trained, too, under the names "loss.<name>".

    Raises UserError for a pattern that matches no parameter, and for a parameter of no optimizer or of two.
    """
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise UserError("arch: no parameter of the model requires a gradient, so there is nothing to train")
    of_loss = parameters_of_loss(criterion)
    if of_loss:
        refuse_several(f"loss: {type(criterion).__name__}, which has parameters to train")
    if both := of_loss.keys() & trained.keys():
        raise UserError(f"loss: it and the model have a parameter {min(both)!r}; rename that of the model")
    trained |= of_loss
    section = config[name]
    if not names_several(section):
        return _build(config, name, section, trained, model)
    owners = {}
    for key, spec in section.items():
        for parameter in _choose(spec.get("params", f"{key}.*"), trained, f"{name}.{key}.params", model):
            if parameter in owners:
                raise UserError(f"{name}.{key}.params: {parameter!r} belongs to {owners[parameter]} already")
            owners[parameter] = key
    left = [key for key in trained if key not in owners]
    if left:
        raise UserError(
            f"{name}: none of {', '.join(section)} trains {', '.join(left[:3])}; add it to the params of one"
        )
    own = {key: {n: p for n, p in trained.items() if owners[n] == key} for key in section}
    built = {key: _build(config, f"{name}.{key}", spec, own[key], model) for key, spec in section.items()}
    return Optimizers(built, every={key: spec.get("every", 1) for key, spec in section.items()})


def parameters_of_loss(criterion: Any) -> "dict[str, torch.nn.Parameter]":
    """{"loss.<name>": parameter} of those that require a gradient, for a loss that is a module; else {}."""
    named = getattr(criterion, "named_parameters", dict)
    return {f"loss.{name}": parameter for name, parameter in dict(named()).items() if parameter.requires_grad}


def _build(config, path, spec, parameters, model):
    """One optimizer over {name: parameter}."""
    groups, left = [], dict(parameters)
    for i, group in enumerate(spec.get("groups", ())):
        names = _choose(group["params"], parameters, f"{path}.groups.{i}.params", model)
        own = {"params": [left.pop(name) for name in names if name in left], "lr_factor": group.get("lr_factor", 1.0)}
        groups.append({**group.get("args", {}), **own})
    groups = [group for group in [{"params": list(left.values())}, *groups] if group["params"]]
    if not spec.get("decay_biases_and_norms", True):
        groups = [part for group in groups for part in _without_decay(group)]
    plain = groups[0]["params"] if len(groups) == 1 and groups[0].keys() == {"params"} else groups
    optimizer = config.build(path, spec, plain, **fused_option(spec, config["trainer"].get("fused"), model))
    require_shardable(optimizer, path, spec["type"])
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
    return optimizer


def _choose(patterns, trained, where, model):
    """The names of trained parameters that match. Raises UserError for a pattern without any of the model's."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    chosen = [name for name in choose_names(patterns, [*trained, *frozen], where) if name in trained]
    if not chosen:
        why = "that are not trained, since their requires_grad is False; leave it out, or train them"
        raise UserError(f"{where}: {brief(patterns)} names only parameters {why}")
    return chosen


def _without_decay(group):
    """[the group's matrices and kernels, its vectors and scalars without weight decay], without empty ones."""
    weights = [parameter for parameter in group["params"] if parameter.dim() > 1]
    others = [parameter for parameter in group["params"] if parameter.dim() <= 1]
    parts = [{**group, "params": weights}, {**group, "params": others, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]
