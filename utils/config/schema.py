"""What a config may say: its sections and the keys of "trainer", each described once, here.

From these descriptions come the checks, config.schema.json and the key tables of docs/.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from utils.config.files import names_several
from utils.config.plain import line_mistake, path_mistake
from utils.duration import FORM, WANTED
from utils.errors import brief
from utils.nearest import did_you_mean, nearest, resembles
from utils.patterns import patterns_mistake, rename_mistake


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", use_attribute_docstrings=True, regex_engine="python-re")


def _refused_by(rule):
    """A validator for what the rule finds no mistake in."""

    def check(value):
        if mistake := rule(value):
            raise PydanticCustomError("refused", mistake.removeprefix("it should be "))
        return value

    return AfterValidator(check)


_LINE, _PATH = _refused_by(line_mistake), _refused_by(path_mistake)
_PATTERNS = _refused_by(patterns_mistake)
Line = Annotated[str, _LINE]
FilePath = Annotated[str, Field(min_length=1), _PATH]
MAX_ENTRIES = 100  # of a list whose entries are looked up by name


class Component(_Section):
    """An object built by name."""

    type: Line
    """A name in the section's main file, as "MnistModel"; in another file of that folder, as "mine.MyModel"; or in a
    library, as "torch.nn.CrossEntropyLoss"."""
    args: dict[str, Any] = {}
    """Keyword arguments of the constructor or function."""


# In the patterns, "$" alone would let a line break at the end pass.

# Names of a metric: no space, since "monitor" has one; no "val_", which tells validation values apart.
_METRIC_NAME = r"^(?!(epoch|lr|loss)$)(?!val_)[\w.+-]{1,60}$(?!\n)"


class Metric(Component):
    """A metric built by name."""

    name: Annotated[str, StringConstraints(pattern=_METRIC_NAME)] | None = None
    """Name of the metric on screen, in logs and in "monitor"; by default the last word of its type."""


# The forms of a loss or a metric, and of an optimizer or a schedule; no key of a config is called so.
_NAME, _OBJECT, _SEVERAL, _NUMBER = "a name", "an object", "several under names", "a number"

Duration = Annotated[
    Annotated[int, Field(ge=1), Tag(_NUMBER)]
    | Annotated[str, StringConstraints(pattern=f"^{FORM}$(?!\\n)"), Tag(_NAME)],
    Discriminator(lambda value: _NAME if isinstance(value, str) else _NUMBER),
]


class ParameterGroup(_Section):
    """Parameters with settings of their own."""

    params: Annotated[str | list[str], _PATTERNS]
    """Patterns of parameter names, as "encoder.*"; a parameter belongs to the first group whose pattern matches."""
    lr_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor on the learning rate of these parameters."""
    args: dict[str, Any] = {}
    """Arguments of the optimizer that differ for these parameters, as {"weight_decay": 0}."""


class Optimizer(Component):
    """An optimizer built by name."""

    groups: Annotated[list[ParameterGroup], Field(max_length=MAX_ENTRIES)] = []
    """Groups of parameters with settings of their own."""
    decay_biases_and_norms: bool = True
    """Whether weight_decay also acts on parameters of one dimension: biases and the weights of normalization layers."""
    params: Annotated[str | list[str] | None, _PATTERNS] = None
    """With several optimizers: patterns of the parameters that this one trains; by default its own name, as
    "generator.*"."""
    every: Annotated[int, Field(ge=1)] = 1
    """With several optimizers: this one takes every nth optimizer step only."""


class Scheduler(Component):
    """A learning-rate scheduler built by name. Its args may be durations, as "500 steps" or "5%"."""

    interval: Literal["epoch", "step"] = "epoch"
    """When the schedule steps: after each epoch or after each optimizer step."""
    warmup: Duration | None = None
    """How long the learning rate first rises to its value: a duration, or a number of steps of the schedule."""
    monitor: Line | None = None
    """The value that ReduceLROnPlateau follows; by default that of `trainer.monitor`."""


class InitWeights(_Section):
    """The weights to begin with."""

    model_config = ConfigDict(extra="forbid")

    path: FilePath
    """A checkpoint, ours or of another program; a file that holds only a state_dict, such as torchvision's; or a
    `.safetensors` file."""
    rename: Annotated[dict[str, str], _refused_by(rename_mistake)] = {}
    """Regular expressions and their replacements, applied in order to the names in the file."""
    skip: Annotated[list[str], _PATTERNS] = []
    """Shell patterns of names, as "fc.*". Matching entries of the model keep their initial values; matching entries of
    the file are not used."""
    strict: bool = True
    """Require every other entry of the file to match one of the model, and the reverse; `false` takes the entries whose
    names match."""


class Flag(_Section):
    """A flag of train.py and test.py that sets one value of the config, as --set does."""

    flag: Annotated[str, StringConstraints(pattern=r"^--[A-Za-z][\w-]{0,60}$(?!\n)")]
    """The flag, as "--n_layers"."""
    target: Annotated[str, StringConstraints(pattern=r"^[^\s.;]+(\.[^\s.;]+)*$(?!\n)"), _LINE]
    """Dotted path of the value that the flag sets, as "arch.args.n_layers"."""
    type: Literal["int", "float", "str", "bool"] = "str"
    """Type of the value: "int", "float", "str" or "bool", which is typed as true or false."""
    help: Line = ""
    """The text that --help shows."""


def _named(component):
    """A bare name, or the component with its args."""
    return Annotated[
        Annotated[Line, Tag(_NAME)] | Annotated[component, Tag(_OBJECT)],
        Discriminator(lambda value: _NAME if isinstance(value, str) else _OBJECT),
    ]


def _one_or_several(component):
    """The component, or several under names."""
    return Annotated[
        Annotated[component, Tag(_OBJECT)] | Annotated[dict[str, component], Tag(_SEVERAL)],
        Discriminator(lambda value: _SEVERAL if names_several(value) else _OBJECT),
    ]


class Parallel(_Section):
    """How several processes train one model."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["ddp", "fsdp"] = "ddp"
    """"ddp": a copy of the model in each process; "fsdp": a shard of it in each, for models that fill a GPU."""
    args: dict[str, Any] = {}
    """Arguments of the function `ddp` or `fsdp` in utils/distributed/parallel.py."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """How many processes `python train.py` starts; null starts one for each of `n_gpu` GPUs."""
    timeout_seconds: Annotated[float, Field(ge=0.1, le=1e6)] = 600.0
    """How long a process waits for the others before it ends and names the missing ones."""


class RunSettings(_Section):
    """The keys at the top of a config that are single values."""

    name: Annotated[
        str, StringConstraints(pattern=r"^[^/\\\x00-\x1f]*[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$(?!\n)"), _PATH
    ] = "run"
    """Name of the job. Its runs are in folders of this name below `trainer.save_dir`."""
    description: str = ""
    """Text for people: what the job does and what result to expect."""
    n_gpu: Annotated[int, Field(ge=0)] = 1
    """Largest number of GPUs to use; 0 uses the CPU."""
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$(?!\n)")] = "auto"
    """"auto" (CUDA, else Apple's MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps"."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 123
    """Seed of the random generators of Python, NumPy and torch, also in loader workers."""
    deterministic: bool = False
    """Use only kernels that give the same bits in every run, on CUDA too, where they are slower."""
    strict: bool = False
    """Refuse keys that the framework does not know. By default they are kept as the project's own, and listed."""


def _limit(value):
    """A number of batches, an integer, or a share of them, a float. Raises PydanticCustomError for anything else."""
    if (type(value) is int and value >= 1) or (type(value) is float and 0 < value <= 1):
        return value
    raise PydanticCustomError("limit", "a number of batches from 1 on, or a share above 0.0 and up to 1.0")


Limit = Annotated[int | float, BeforeValidator(_limit)]


class TrainerSettings(_Section):
    """The "trainer" section."""

    type: Line = "Trainer"
    """Class of the training loop, in trainer/trainer.py or in another file there, as "mine.MyTrainer"."""
    epochs: Annotated[int, Field(ge=1)]
    """Number of epochs to train."""
    save_dir: FilePath = "saved/"
    """Folder of all runs: checkpoints in `models/<name>/<run>/`, logs in `log/<name>/<run>/`."""
    save_period: Annotated[int, Field(ge=1)] = 1
    """Number of epochs between two saves of `checkpoint-epoch<N>.pth`; the last epoch is always saved."""
    keep_last: Annotated[int, Field(ge=1)] | None = None
    """How many of the newest `checkpoint-epoch<N>.pth` to keep; null keeps all. `model_best.pth` is always kept."""
    verbosity: Annotated[int, Field(ge=0, le=2)] = 2
    """0 shows warnings only, 1 also the results of each epoch, 2 also progress within an epoch."""
    monitor: Annotated[str, StringConstraints(pattern=r"^(off|(min|max) \S+)$(?!\n)"), _LINE] = "off"
    """The value by which a model is best, as "min val_loss" or "max val_accuracy"; "off" keeps no best model."""
    early_stop: Annotated[int, Field(ge=0)] = 0
    """Number of epochs without an improvement of the monitored value after which to stop; 0 never stops early."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    len_epoch: Annotated[int, Field(ge=1)] | None = None
    """Batches in an epoch, for training by iterations; null means one pass over the data."""
    log_step: Annotated[int, Field(ge=1)] | None = None
    """Batches between two log lines and TensorBoard points; null logs about 20 times an epoch."""
    images_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Number of epochs between two grids of input images in TensorBoard; 0 shows none."""
    histograms_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Number of epochs between two sets of parameter histograms in TensorBoard; 0 shows none."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of batches in one optimizer step, as if they were one batch; the last step of an epoch may have fewer."""
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest norm of the gradient over all parameters; a larger gradient is scaled down."""
    clip_value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest absolute value of each entry of the gradient; a larger one is clipped."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic: "fp32" is torch's default, in which cuDNN may round convolutions; "tf32" also rounds matrix products
    on CUDA; "bf16" and "fp16" use torch's autocast, "fp16" with gradient scaling and on CUDA only."""
    channels_last: bool = False
    """Keep convolution weights, and so the activations, in channels-last memory format, in which convolutions are
    fastest."""
    compile: Literal[
        False, True, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "dynamic"
    ] = False
    """Compile the model with torch.compile. `true` or the name of one of its modes makes kernels for each batch shape;
    "dynamic" makes kernels for any shape, for data with batches of many shapes."""
    fused: bool | None = None
    """Use the fused kernel of the optimizer; null uses it where torch has one that fits the model."""
    cudnn_benchmark: bool = False
    """Let cuDNN measure which algorithm is fastest; useful when all batches have the same shape."""
    save_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Number of batches between two saves within an epoch; the newest of these files are kept."""
    save_every_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Minutes since the last save after which to save within an epoch."""
    validate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Number of batches between two validations within an epoch; the best model of these validations is kept, too."""
    on_nonfinite: Literal["stop", "skip", "rollback", "ignore"] = "stop"
    """What to do when a training loss or gradient is nan or infinite: "stop" the run; "skip" the optimizer step, for
    which every step waits for the GPU; "rollback" to the last checkpoint, at first one of epoch 0, and leave the batch
    out; "ignore" checks nothing, and saves such weights too."""
    async_save: bool = False
    """Write checkpoints in the background while training continues."""
    limit_train_batches: Limit | None = None
    """Train on the first batches of each pass over the data: an integer is their number, a float up to 1.0 a share."""
    limit_valid_batches: Limit | None = None
    """Validate on the first batches: an integer is their number, a float up to 1.0 a share."""
    overfit_batches: Annotated[int, Field(ge=1)] | None = None
    """Train and validate on the same few batches in every epoch, with the transforms of validation."""
    sanity_check_batches: Annotated[int, Field(ge=0)] = 0
    """Batches to validate on before the first epoch, to find errors in validation early; the run is unchanged."""
    detect_anomaly: bool = False
    """Name the operation whose gradient is nan, and show where it was called; training is much slower."""


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
    optimizer: _one_or_several(Optimizer)
    """The optimizer: a class of torch.optim. Or several, under the names of the parts of the model that they train."""
    loss: _named(Component)
    """The loss: a function in model/loss.py, or a loss class such as "torch.nn.CrossEntropyLoss"."""
    metrics: Annotated[list[_named(Metric)], Field(max_length=MAX_ENTRIES)] = []
    """The metrics: functions and classes in model/metric.py, or classes such as "torchmetrics.MeanSquaredError"."""
    lr_scheduler: _one_or_several(Scheduler) | None = None
    """The learning-rate scheduler: a class of torch.optim.lr_scheduler. Or several under the names of optimizers."""
    callbacks: Annotated[list[_named(Component)], Field(max_length=MAX_ENTRIES)] = []
    """Callbacks, called in this order: classes in trainer/callbacks.py."""
    trackers: Annotated[list[_named(Component)], Field(max_length=MAX_ENTRIES)] = []
    """Experiment trackers besides TensorBoard: classes in logger/trackers.py."""
    parallel: Parallel | None = None
    """How several processes train one model together; see docs/scaling.md."""
    trainer: TrainerSettings
    """How to train."""
    cli: Annotated[list[Flag], Field(max_length=MAX_ENTRIES)] = []
    """Flags of the job's own."""


OTHER_LOADERS = ("valid_data_loader", "test_data_loader")
SECTIONS = tuple(Config.model_fields)
KNOWN_KEYS = {
    (): SECTIONS,
    ("trainer",): tuple(TrainerSettings.model_fields),
    ("optimizer",): tuple(Optimizer.model_fields),
    ("lr_scheduler",): tuple(Scheduler.model_fields),
    ("init_weights",): tuple(InitWeights.model_fields),
    ("parallel",): tuple(Parallel.model_fields),
}


def mistakes_in(config, whole):
    """(mistakes, own keys) of a config: one line for each wrong value or misspelt key, and the keys unknown here.

    whole: all sections must be there in the form that our own scripts read; otherwise only the top keys and the
    "trainer" section are checked, since a project with scripts of its own may shape the others as it likes.
    """
    misspelt, own = _unknown_keys(config, whole)
    mistakes = [f"{key}: no such key; did you mean {meant!r}?" for key, meant in misspelt.items()]
    meant = {".".join([*key.split(".")[:-1], name]) for key, name in misspelt.items()}
    checked = set(SECTIONS) if whole else {"name", "n_gpu", "trainer", "cli"}
    try:
        Config.model_validate(config)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            path = [part for part in problem["loc"] if part not in (_NAME, _OBJECT, _SEVERAL, _NUMBER)]
            ours = path[0] in checked and (whole or problem["type"] != "missing")
            if ours and ".".join(map(str, path)) not in meant:
                mistakes.append(_describe(problem, path, config))
    if config.get("strict") is True:
        mistakes += [f'{key}: not a key of this framework, and "strict" is on' for key in own]
    return mistakes, own


def _unknown_keys(config, whole):
    """({misspelt key: the right name}, [keys that resemble none]), all with their dotted paths.

    A project with scripts of its own may well have a valid_loader or a test_loader.
    """
    places = [("", Config, config), ("trainer.", TrainerSettings, config.get("trainer"))]
    if whole:
        names = ("arch", "data_loader", *OTHER_LOADERS, "loss")
        places += [(f"{name}.", Component, config.get(name)) for name in names]
        for name, model in (("optimizer", Optimizer), ("lr_scheduler", Scheduler)):
            section = config.get(name)
            several = section if names_several(section) else {None: section}
            places += [(f"{name}.{key}." if key else f"{name}.", model, spec) for key, spec in several.items()]
    lists = (("metrics", Metric), ("callbacks", Component), ("trackers", Component), ("cli", Flag))
    for name, model in lists if whole else ():
        entries = config.get(name)
        places += [(f"{name}.{i}.", model, item) for i, item in enumerate(entries if isinstance(entries, list) else ())]
    misspelt, own = {}, []
    for prefix, model, section in places:
        known = tuple(model.model_fields)
        for key in section if isinstance(section, dict) else ():
            if key in known or key == "$schema":
                continue
            free = [name for name in known if name not in section and (whole or name not in OTHER_LOADERS)]
            meant = resembles(key, free) or (whole and (_numbered(key, free) or resembles(key, known)))
            if meant:
                misspelt[prefix + key] = (whole and nearest(key, known)) or meant  # given already or not
            else:
                own.append(prefix + key)
    return misspelt, own


def _numbered(key, names):
    """The name that stands in the key with a number behind it, as in "arch1" where there is no "arch"."""
    name = key.rstrip("0123456789")
    return name if name in names else None


def _describe(problem, path, config):
    where = ".".join(map(str, path))
    if problem["type"] == "missing":
        parent = config
        for part in path[:-1]:
            parent = parent[part]
        close = nearest(path[-1], [key for key in parent if key not in SECTIONS], cutoff=0.6)
        return f"{where}: missing" + (f"; is {close!r} meant to be it?" if close else "")
    if problem["type"] == "string_pattern_mismatch":
        pattern = "metric" if path[0] == "metrics" else path[-1]
        return f"{where}: got {brief(problem['input'])}; {_WANTED[pattern]}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such key{did_you_mean(path[-1], KNOWN_KEYS[tuple(path[:-1])])}"
    if problem["type"] == "too_long":
        return f"{where}: has {problem['ctx']['actual_length']:,} entries; it should have at most {MAX_ENTRIES}"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("String should ").replace("a valid", "a")
    expected = expected.replace("a integer", "an integer")
    if problem["type"] in ("model_type", "model_attributes_type"):
        forms = dict.fromkeys(("trainer", "init_weights"), "an object")
        forms["cli"] = 'an object such as {"flag": "--n_layers", "target": "arch.args.n_layers", "type": "int"}'
        expected = forms.get(path[0], 'an object such as {"type": ..., "args": {...}}')
    return f"{where}: got {brief(problem['input'])}; it should be {expected}"


_WANTED = {
    "name": "a name becomes a folder's: it is one line of text without a slash",
    "metric": "a metric's name is letters, digits and '_.+-', not epoch, lr or loss, and does not begin with val_",
    "flag": "a flag is '--' and a word of letters, digits, '_' and '-', such as '--n_layers'",
    "target": "it should be the dotted path of a value, such as 'arch.args.n_layers'",
    "device": "it should be 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'",
    "warmup": WANTED,
    "monitor": "it should be 'off', 'min <name>' or 'max <name>', such as 'min val_loss'",
}


# What Trainer does batch by batch, and what it does besides: a _train_epoch, or a trainer, of a project's own has to.
SETTINGS_OF_EPOCH = (
    "accumulate",
    "clip_norm",
    "clip_value",
    "precision",
    "on_nonfinite",
    "validate_every_steps",
    "images_every_epochs",
    "histograms_every_epochs",
)
SETTINGS_OF_TRAINER = (
    *SETTINGS_OF_EPOCH,
    "len_epoch",
    "log_step",
    "channels_last",
    "compile",
    "cudnn_benchmark",
    "limit_train_batches",
    "limit_valid_batches",
    "overfit_batches",
    "sanity_check_batches",
    "detect_anomaly",
)
