"""The sections and keys of a config, and the rules between them. The checks and the tables of docs/ are made of it."""

import collections
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from utils.config import forms
from utils.config.components import MAX_ENTRIES, args_of, dict_at, last_word, metric_names, nested_specs
from utils.config.files import names_several
from utils.device import KINDS as DEVICE_KINDS
from utils.errors import UserError, brief
from utils.patterns import expression_errors, in_bounded_time, patterns_mistake, rename_mistake
from utils.rules import optimizer_error, precision_error


class Component(forms.Section):
    """An object built by name."""

    type: forms.Line
    """A name in the section's main file, as "MnistModel"; in another file of that folder, as "mine.MyModel"; or in a
    library, as "torch.nn.CrossEntropyLoss"."""
    args: forms.Args
    """Keyword arguments of the constructor or function."""


class Metric(Component):
    """A metric built by name."""

    # no space, since "monitor" has one; no "val_", which tells validation values apart
    name: (
        forms.matching(
            r"^(?!(epoch|lr|loss)$)(?!val_)[\w.+-]{1,60}$",
            "a metric's name is letters, digits and '_.+-', not epoch, lr or loss, and does not begin with val_",
        )
        | None
    ) = None
    """Name of the metric on screen, in logs and in "monitor"; by default the last word of its type."""
    training: bool = True
    """Whether it is measured on training batches, too; false leaves it to validation and test.py."""


class ParameterGroup(forms.Section):
    """Parameters with settings of their own."""

    params: forms.Patterns
    """Patterns of parameter names, as "encoder.*"; a parameter belongs to the first group whose pattern matches."""
    lr_factor: forms.Positive = 1.0
    """Factor on the learning rate of these parameters."""
    args: forms.Args
    """Arguments of the optimizer that differ for these parameters, as {"weight_decay": 0}."""


class Optimizer(Component):
    """An optimizer built by name."""

    groups: forms.several(ParameterGroup)
    """Groups of parameters with settings of their own."""
    decay_biases_and_norms: bool = True
    """Whether weight_decay also acts on parameters of one dimension: biases and the weights of normalization layers."""
    params: forms.Patterns | None = None
    """With several optimizers: patterns of the parameters that this one trains; by default its own name, as
    "generator.*"."""
    every: forms.Count = 1
    """With several optimizers: this one takes every nth optimizer step only."""

    @classmethod
    def rules(cls, given):
        if error := optimizer_error(last_word(given.get("type"))):
            yield ("type",), error


class Scheduler(Component):
    """A learning-rate scheduler built by name. Its args may be durations, as "500 steps" or "5%"."""

    interval: Literal["epoch", "step"] = "epoch"
    """When the schedule steps: after each epoch or after each optimizer step."""
    warmup: forms.Duration | None = None
    """How long the learning rate first rises to its value: a duration, or a number of steps of the schedule."""
    monitor: forms.Line | None = None
    """The value that ReduceLROnPlateau follows; by default that of `trainer.monitor`."""

    @classmethod
    def rules(cls, given):
        kind = last_word(given.get("type"))
        if given.get("monitor") and kind != "ReduceLROnPlateau":
            yield ("monitor",), "only ReduceLROnPlateau watches a value; leave it out"
        if given.get("interval") == "step" and kind == "ReduceLROnPlateau":
            yield ("interval",), "ReduceLROnPlateau steps after an epoch; leave interval out"
        if given.get("warmup") and kind == "ReduceLROnPlateau":
            yield ("warmup",), "ReduceLROnPlateau cannot follow a warm-up; leave it out"
        if given.get("warmup") and kind == "ChainedScheduler":
            yield ("warmup",), "is not for ChainedScheduler; chain a LinearLR too"
        for place, part in nested_specs(dict_at(given, "args")):
            inner = "a warm-up" if part.get("warmup") else last_word(part["type"])
            if kind == "ChainedScheduler" and inner in _OVERWRITE_THE_RATE:
                yield ("args", *place), f"{inner} overwrites the rate that the others have set; use another"
            if kind == "SequentialLR" and inner == "ChainedScheduler":
                yield ("args", *place, "type"), "SequentialLR cannot contain a ChainedScheduler; use another"
            yield from ((("args", *place, *within), error) for within, error in cls.rules(part))


_OVERWRITE_THE_RATE = {"a warm-up", "SequentialLR", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau"}
_OVERWRITE_THE_RATE |= {"CosineAnnealingWarmRestarts"}


class InitWeights(forms.Section):
    """The weights to begin with."""

    model_config = ConfigDict(extra="forbid")

    path: forms.FilePath
    """A checkpoint, ours or of another program; a file that holds only a state_dict, such as torchvision's; or a
    `.safetensors` file."""
    rename: Annotated[dict[str, str], forms.refused_by(rename_mistake), Field(default={})]
    """Regular expressions and their replacements, applied in order to the names in the file."""
    skip: Annotated[list[str], forms.refused_by(patterns_mistake), Field(default=[])]
    """Shell patterns of names, as "fc.*". Matching entries of the model keep their initial values; matching entries of
    the file are not used."""
    strict: bool = True
    """Require every other entry of the file to match one of the model, and the reverse; `false` takes the entries whose
    names match."""

    @classmethod
    def rules(cls, given):
        yield from super().rules(given)
        patterns = [pattern for pattern in dict_at(given, "rename") if isinstance(pattern, str)]
        try:
            with in_bounded_time("rename"):
                errors = list(expression_errors(patterns[:MAX_ENTRIES]))
        except UserError as error:
            errors = [str(error).removeprefix("rename: ")]
        for error in errors:
            yield ("rename",), error


class Flag(forms.Section):
    """A flag of train.py and test.py that sets one value of the config, as --set does."""

    flag: forms.matching(
        r"^--[A-Za-z][\w-]{0,60}$", "a flag is '--' and a word of letters, digits, '_' and '-', such as '--n_layers'"
    )
    """The flag, as "--n_layers"."""
    target: forms.matching(
        r"^[^\s.;]+(\.[^\s.;]+)*$", "it should be the dotted path of a value, such as 'arch.args.n_layers'"
    )
    """Dotted path of the value that the flag sets, as "arch.args.n_layers"."""
    type: Literal["int", "float", "str", "bool"] = "str"
    """Type of the value: "int", "float", "str" or "bool", which is typed as true or false."""
    help: forms.Line = ""
    """The text that --help shows."""


class Parallel(forms.Section):
    """How several processes train one model."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["ddp", "fsdp"] = "ddp"
    """"ddp": a copy of the model in each process; "fsdp": a shard of it in each, for models that fill a GPU."""
    args: forms.Args
    """Arguments of the function `ddp` or `fsdp` in utils/distributed/parallel.py."""
    processes: forms.Count | None = None
    """How many processes `python train.py` starts; null starts one for each of `n_gpu` GPUs."""
    timeout_seconds: Annotated[float, Field(ge=0.1, le=1e6)] = 600.0
    """How long a process waits for the others before it ends and names the missing ones."""


class RunSettings(forms.Section):
    """The keys at the top of a config that are single values."""

    name: forms.matching(
        r"^[^/\\\x00-\x1f]*[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$",
        "a name becomes a folder's: it is one line of text without a slash",
        then=forms.PATH,
    ) = "run"
    """Name of the job. Its runs are in folders of this name below `trainer.save_dir`."""
    description: str = ""
    """Text for people: what the job does and what result to expect."""
    n_gpu: Annotated[int, Field(ge=0)] = 1
    """Largest number of GPUs to use; 0 uses the CPU."""
    device: forms.matching(
        rf"^(auto|({'|'.join(DEVICE_KINDS)})(:[0-9]{{1,3}})?)$", "it should be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'"
    ) = "auto"
    """"auto" (the accelerator that torch finds, else the CPU), "cpu", "cuda", "cuda:1", "mps", "xpu" or the like."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 123
    """Seed of the random generators of Python, NumPy and torch, also in loader workers."""
    deterministic: bool = False
    """Use only kernels that give the same bits in every run, on CUDA too, where they are slower."""
    strict: bool = False
    """Refuse keys that the framework does not know. By default they are kept as the project's own, and listed."""


class TrainerSettings(forms.Section):
    """The "trainer" section."""

    type: forms.Line = "Trainer"
    """Class of the training loop, in trainer/trainer.py or in another file there, as "mine.MyTrainer"."""
    epochs: forms.Count
    """Number of epochs to train."""
    save_dir: forms.FilePath = "saved/"
    """Folder of all runs: checkpoints in `models/<name>/<run>/`, logs in `log/<name>/<run>/`."""
    save_period: forms.Count = 1
    """Number of epochs between two saves of `checkpoint-epoch<N>.pth`; the last epoch is always saved."""
    keep_last: forms.Count | None = None
    """How many of the newest `checkpoint-epoch<N>.pth` to keep; null keeps all. `model_best.pth` is always kept."""
    verbosity: Annotated[int, Field(ge=0, le=2)] = 2
    """0 shows warnings only, 1 also the results of each epoch, 2 also progress within an epoch."""
    monitor: forms.matching(
        r"^(off|(min|max) \S+)$", "it should be 'off', 'min <name>' or 'max <name>', such as 'min val_loss'"
    ) = "off"
    """The value by which a model is best, as "min val_loss" or "max val_accuracy"; "off" keeps no best model."""
    also_logged: list[forms.Line] | None = None
    """Names that your trainer or callback logs besides the loss and the metrics, so that `monitor` may use them."""
    early_stop: Annotated[int, Field(ge=0)] = 0
    """Number of epochs without an improvement of the monitored value after which to stop; 0 never stops early."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    report: bool = True
    """Write `report.html` into the log folder at the end of training, and again after `test.py`."""
    len_epoch: forms.Count | None = None
    """Batches in an epoch, for training by iterations; null means one pass over the data."""
    log_step: forms.Count | None = None
    """Batches between two progress lines and TensorBoard points; null means at most 20 an epoch, lines 5 s apart."""
    images_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Number of epochs between two grids of input images in TensorBoard; 0 shows none."""
    histograms_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Number of epochs between two sets of parameter histograms in TensorBoard; 0 shows none."""
    accumulate: forms.Count = 1
    """Number of batches in one optimizer step, as if they were one batch; the last step of an epoch may have fewer."""
    clip_norm: forms.Positive | None = None
    """Largest norm of the gradient over all parameters; a larger gradient is scaled down."""
    clip_value: forms.Positive | None = None
    """Largest absolute value of each entry of the gradient; a larger one is clipped."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic: "fp32" is torch's default, in which cuDNN may round convolutions; "tf32" also rounds matrix products
    on CUDA; "bf16" and "fp16" use torch's autocast, "fp16" with gradient scaling and on GPUs only."""
    channels_last: bool = False
    """Keep weights of convolutions in channels-last memory format, in which convolutions are fastest."""
    compile: Literal[
        False, True, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "dynamic"
    ] = False
    """torch.compile the model: true or one of its modes for each batch shape, "dynamic" for batches of any shape."""
    fused: bool | None = None
    """Use the fused kernel of the optimizer; null uses it where torch has one that fits the model."""
    cudnn_benchmark: bool = False
    """Let cuDNN measure which algorithm is fastest; useful when all batches have the same shape."""
    save_every_steps: forms.Count | None = None
    """Number of batches between two saves within an epoch; the newest of these files are kept."""
    save_every_minutes: forms.Positive | None = None
    """Minutes since the last save after which to save within an epoch."""
    validate_every_steps: forms.Count | None = None
    """Number of batches between two validations within an epoch; the best model of these validations is kept, too."""
    on_nonfinite: Literal["stop", "skip", "rollback", "ignore"] = "stop"
    """What to do when a training loss or gradient is nan or infinite: "stop" the run; "skip" the optimizer step, for
    which every step waits for the GPU; "rollback" to the last checkpoint, at first one of epoch 0, and leave the batch
    out; "ignore" checks nothing, and saves such weights too."""
    async_save: bool | None = None
    """Write checkpoints in the background while training continues; null does so if a copy takes less than 1 GB."""
    limit_train_batches: forms.Limit | None = None
    """Train on the first batches of each pass over the data: an integer is their number, a float up to 1.0 a share."""
    limit_valid_batches: forms.Limit | None = None
    """Validate on the first batches: an integer is their number, a float up to 1.0 a share."""
    overfit_batches: forms.Count | None = None
    """Train and validate on the same few batches in every epoch, with the transforms of validation."""
    sanity_check_batches: Annotated[int, Field(ge=0)] = 0
    """Batches to validate on before the first epoch, to find errors in validation early; the run is unchanged."""
    detect_anomaly: bool = False
    """Name the operation whose gradient is nan, and show where it was called; training is much slower."""

    @classmethod
    def rules(cls, given):
        if given.get("limit_train_batches") is not None and given.get("len_epoch") is not None:
            yield ("limit_train_batches",), "trainer.len_epoch sets the number already; leave one of them out"
        if given.get("compile") in ("reduce-overhead", "max-autotune") and given.get("accumulate", 1) != 1:
            error = f"{given['compile']!r} records CUDA graphs, which overwrite accumulated gradients"
            yield ("compile",), f"{error}; give true or 'max-autotune-no-cudagraphs'"


class Config(RunSettings):
    """A training job."""

    arch: Component
    """The model: a class in model/."""
    init_weights: InitWeights | None = None
    """The initial weights of a new run, from a file."""
    data_loader: Component
    """The data: a class in data_loader/."""
    valid_data_loader: Component | None = None
    """The data to validate on, if data_loader sets none aside."""
    test_data_loader: Component | None = None
    """The data that test.py measures; by default data_loader with training=False."""
    optimizer: forms.one_or_several(Optimizer)
    """The optimizer: a class of torch.optim. Or several, under the names of the parts of the model that they train."""
    loss: forms.named(Component) | None
    """The loss: a function in model/loss.py, or a class such as "torch.nn.CrossEntropyLoss"; null: docs/trainers.md."""
    metrics: forms.several(forms.named(Metric))
    """The metrics: functions and classes in model/metric.py, or classes such as "torchmetrics.MeanSquaredError"."""
    lr_scheduler: forms.one_or_several(Scheduler) | None = None
    """The learning-rate scheduler: a class of torch.optim.lr_scheduler. Or several under the names of optimizers."""
    callbacks: forms.several(forms.named(Component))
    """Callbacks, called in this order: classes in trainer/callbacks.py."""
    trackers: forms.several(forms.named(Component))
    """Experiment trackers besides TensorBoard: classes in logger/trackers.py."""
    parallel: Parallel | None = None
    """How several processes train one model together; see docs/scaling.md."""
    trainer: TrainerSettings
    """How to train."""
    cli: forms.several(Flag)
    """Flags of the job's own."""

    @classmethod
    def rules(cls, given):
        trainer, scheduler = dict_at(given, "trainer"), dict_at(given, "lr_scheduler")
        device = "cpu" if given.get("n_gpu") == 0 else given.get("device")
        if device in ("cpu", "mps") and (error := precision_error(trainer.get("precision"), device)):
            yield ("trainer", "precision"), error
        if trainer.get("cudnn_benchmark") and given.get("deterministic"):
            yield ("trainer", "cudnn_benchmark"), 'chooses kernels by time, and "deterministic" is on; leave one out'
        if trainer.get("fused") and "fused" in args_of(given, "optimizer"):
            yield ("trainer", "fused"), "optimizer.args.fused says it already; leave one of them out"
        elif trainer.get("fused") and args_of(given, "optimizer").get("foreach"):
            yield ("trainer", "fused"), "optimizer.args.foreach asks for another kernel; leave one of them out"
        for key in ("params", "every"):
            if key in dict_at(given, "optimizer") and not names_several(given["optimizer"]):
                yield ("optimizer", key), "is for one of several optimizers; use requires_grad or Freeze with one"
        for key in ("fold", "validation_split"):
            if args_of(given, "valid_data_loader").get(key):
                yield ("valid_data_loader", "args", key), "all its samples are validated on; leave it out"
        for name, count in collections.Counter(["loss", *metric_names(given).values()]).items():
            if count > 1:
                yield ("metrics",), f'two are called {brief(name)}; give one a "name"'
        mode, _, monitored = str(trainer.get("monitor", "off")).partition(" ")
        chosen = args_of(given, "lr_scheduler").get("mode", "min")
        watches = last_word(scheduler.get("type")) == "ReduceLROnPlateau" and mode in ("min", "max")
        if watches and scheduler.get("monitor", monitored) == monitored and chosen != mode:
            error = f"got {brief(chosen)}, but trainer.monitor is {brief(trainer['monitor'])}; give {mode!r}"
            yield ("lr_scheduler", "args", "mode"), f"{error}, or another value to watch as lr_scheduler.monitor"


OTHER_LOADERS = ("valid_data_loader", "test_data_loader")
SECTION_MODELS = dict.fromkeys(("arch", "data_loader", *OTHER_LOADERS, "loss", "callbacks", "trackers"), Component)
SECTION_MODELS |= {"optimizer": Optimizer, "lr_scheduler": Scheduler, "metrics": Metric, "cli": Flag}
"""The model of one object of a section, for the sections that may hold keys of a project's own."""

SECTIONS = tuple(Config.model_fields)
_EXTENDABLE = {"init_weights": InitWeights, "parallel": Parallel, "trainer": TrainerSettings}
_EXTENDABLE |= {"optimizer": Optimizer, "lr_scheduler": Scheduler}
KNOWN_KEYS = {(): SECTIONS} | {(name,): tuple(model.model_fields) for name, model in _EXTENDABLE.items()}
