"""What several processes cost: our loop and a hand-written one, scaling and its estimate, memory of shards.

    python benchmarks/distributed.py            # all four tables, about 10 minutes on two cores
    python benchmarks/distributed.py loops      # or: scaling, memory, paper

Every measurement starts new processes through torch's launcher, with one thread each on the CPU, or a GPU each if there
are enough. If two loops see the same data, their final weights are compared before their times.
"""

import contextlib
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time

from harness import interleaved, peak_memory_mb, print_table, ratio, run_fresh, run_tables

EPOCHS = 4  # the first is a warm-up
STEPS = 30
WIDTH, LAYERS, SAMPLES = 1024, 6, 128  # of the network for scaling; samples per process and step
MANY_PARAMETERS = 2048, 12

# For the estimate: bytes a second that each of 8 GPUs of a host exchanges with the others, and with other hosts over a
# network; seconds for a message; the share of the backward pass that hides the exchange.
HOST_GPUS, HOST_BANDWIDTH, LATENCY_SECONDS, BUCKET_BYTES, OVERLAP = 8, 300e9, 20e-6, 25e6, 0.8
NETWORKS = {"400 Gb/s a GPU": 40e9, "100 Gb/s a host": 1.5e9}
MODELS = {  # bytes exchanged in a step, and its seconds on one GPU
    "25 million parameters, fp32, ddp": (2 * 4 * 25e6, 0.100),
    "the same, accumulate 8": (2 * 4 * 25e6, 0.800),
    "1 billion parameters, bf16 gradients, ddp": (2 * 2 * 1e9, 0.500),
    "7 billion parameters, bf16, fsdp": (3 * 2 * 7e9, 3.000),
}


def main():
    run_tables({"loops": loops, "scaling": scaling, "memory": memory, "paper": paper})


def loops():
    """Steps a second of the default job, in our loop and in a hand-written one with DistributedDataParallel."""
    measure = {name: start(2, f"{name}_loop") for name in ("ours", "hand_written")}
    ours, written = interleaved(measure, lambda name: measure[name](), repeats=4).values()
    if len({run["weights"] for run in [*ours, *written]}) > 1:
        raise SystemExit("the two loops should have come to equal weights and have not")
    rows = []
    for name, runs in (("ours", ours), ("hand-written", written)):
        rates = [rate for run in runs for rate in run["steps_per_second"]]
        middle, low, high = ratio(*([run["steps_per_second"] for run in side] for side in (runs, written)))
        share = (f"{middle:.3f}", f"{low:.3f}-{high:.3f}") if name == "ours" else ("", "")
        rows.append([name, f"{statistics.median(rates):.1f}", f"{min(rates):.1f}-{max(rates):.1f}", *share])
    print("\nThe default job in 2 processes, batches of 128 in all:\n")
    print_table(["loop", "steps/s", "min-max", "ratio", "95 %"], rows)


def scaling():
    """A step of a network with a larger gradient in 1, 2 and 3 processes, and the estimate from its parts."""
    measured = {processes: start(processes, "step_parts")() for processes in (1, 2, 3)}
    one, rows = measured[1], []
    for processes, run in measured.items():
        sharing = max(1.0, processes / run["devices"])  # of the cores or GPUs
        expected = expected_seconds(one["step"] * sharing, run["exchange"])
        rows.append([processes, *(f"{1e3 * run[part]:.1f}" for part in ("exchange", "step")), f"{1e3 * expected:.1f}"])
        rows[-1] += [f"{one['step'] / run['step']:.2f}", f"{one['step'] / expected:.2f}"]
    megabytes = one["gradient_bytes"] / 1e6
    print(f"\n{LAYERS} layers of {WIDTH}, {SAMPLES} samples a process, a gradient of {megabytes:.0f} MB:\n")
    print_table(["processes", "exchange, ms", "step, ms", "expected, ms", "efficiency", "expected"], rows)


def paper():
    """The efficiency that the same arithmetic gives for many GPUs."""
    rows = []
    for (model, (exchanged, step)), (network, between) in itertools.product(MODELS.items(), NETWORKS.items()):
        cells = []
        for gpus in (8, 64, 1024):
            bandwidth = HOST_BANDWIDTH if gpus <= HOST_GPUS else between
            messages = math.ceil(exchanged / 2 / BUCKET_BYTES)
            exchange = exchanged * (gpus - 1) / gpus / bandwidth + messages * math.log2(gpus) * LATENCY_SECONDS
            cells.append(f"{100 * step / expected_seconds(step, exchange, OVERLAP):.0f} %")
        rows.append([model, network, f"{1e3 * step:.0f}", *cells])
    print("\nOn paper:\n")
    print_table(["model", "between hosts", "step of one GPU, ms", "8 GPUs", "64", "1,024"], rows)


def expected_seconds(step, exchange, overlap=0.0):
    """Seconds of a step. Its backward pass is two thirds of the computation and hides a share of the exchange."""
    return step + max(0.0, exchange - overlap * step * 2 / 3)


def memory():
    """Peak memory and time of a step of a larger model with Adam, as copies and as shards."""
    rows = []
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"  # otherwise the C library keeps freed memory
    for kind in ("ddp", "fsdp"):
        run = start(2, f"{kind}_memory")()
        rows.append([kind, f"{run['parameters_mb']:.0f}", f"{run['peak_mb']:.0f}", f"{1e3 * run['step']:.0f}"])
    width, layers = MANY_PARAMETERS
    print(f"\n{layers} layers of {width} with Adam in 2 processes; memory above that of the imports:\n")
    print_table(["parallel", "parameters, MB", "peak memory of a process, MB", "step, ms"], rows)


def start(processes, job):
    """A function that runs the job in that many new processes and returns what the first one measured."""
    launcher = "--standalone", f"--nproc-per-node={processes}", __file__, "--job", job
    return lambda: run_fresh("-m", "torch.distributed.run", *launcher)


# --- what the processes do ---


def ours_loop():
    """train.py with config.json."""
    import train
    from base.training.optim_step import OptimStep
    from parse_config import ConfigParser
    from trainer import Trainer
    from utils.files import read_json
    from utils.runs.weights import unwrapped

    config = read_json("config.json")
    times, trainers = [], []
    step, init = OptimStep.step, Trainer.__init__
    OptimStep.step = lambda *args, **kwargs: (step(*args, **kwargs), times.append(time.perf_counter()))[0]
    Trainer.__init__ = lambda self, *args, **kwargs: (init(self, *args, **kwargs), trainers.append(self))[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config["trainer"].update(epochs=EPOCHS, save_dir=folder, monitor="off", early_stop=0)
        train.main(ConfigParser(config))
    return {"steps_per_second": rates(times), "weights": digest(unwrapped(trainers[0].model))}


def hand_written_loop():
    """A loop as good as we can write it, with our order and our random numbers, so that the weights must be equal."""
    import torch

    from mnist_jobs import SEED, fast_loaders, measured, parts
    from model.loss import cross_entropy
    from utils.distributed.world import own_samples, process_device, seed_of_process
    from utils.seed import derive_seed, seed_everything

    device = process_device()
    seed_everything(SEED)
    model, optimizer, scheduler = parts()
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    loader = fast_loaders()[0]
    dataset, times = loader.seeded, []
    for epoch in range(1, EPOCHS + 1):
        seed_everything(seed_of_process(derive_seed(SEED, epoch)))
        model.train()
        total = torch.zeros(3, dtype=torch.float64, device=device)
        order = loader.sampler.order(epoch).tolist()
        for first in range(0, len(order), 128):
            data, target = dataset.__getitems__(own_samples(order[first : first + 128]))
            data, target = data.to(device, non_blocking=True), target.to(device, non_blocking=True)
            optimizer.zero_grad()
            output = model(data)
            loss = cross_entropy(output, target)
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter())
            total += measured(loss, output, target) * len(target)
        torch.distributed.all_reduce(total)
        scheduler.step()
    return {"steps_per_second": rates(times), "weights": digest(model.module)}


def step_parts():
    """Seconds of a step, and of the exchange of its gradient alone."""
    import torch

    from utils.distributed.world import world_size

    model, optimizer, device = network(WIDTH, LAYERS)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wrapped = model
    if world_size() > 1:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    step = timed(lambda: train_step(wrapped, optimizer, device), device)
    exchange = 0.0
    if world_size() > 1:
        gradient = torch.zeros(parameters, device=device)
        exchange = timed(lambda: torch.distributed.all_reduce(gradient), device)
    devices = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
    return {"step": step, "exchange": exchange, "gradient_bytes": 4 * parameters, "devices": devices}


def ddp_memory():
    """Peak megabytes of a process above its imports, and seconds of a step, with copies."""
    return memory_of("ddp")


def fsdp_memory():
    """The same with shards."""
    return memory_of("fsdp")


def memory_of(kind):
    import torch

    from utils.distributed import parallel

    before = peak_memory_mb()
    model, optimizer, device = network(*MANY_PARAMETERS, wrap=getattr(parallel, kind))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    step = timed(lambda: train_step(model, optimizer, device), device, steps=5)
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else peak_memory_mb() - before
    return {"parameters_mb": 4 * parameters / 1e6, "peak_mb": peak, "step": step}


def network(width, layers, wrap=None):
    """(model of square layers, its Adam, device); wrap(model, device) before the optimizer is made."""
    import torch

    from utils.distributed.world import process_device

    device = process_device()
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU()) for _ in range(layers)]
    model = torch.nn.Sequential(*blocks).to(device)
    model = model if wrap is None else wrap(model, device)
    return model, torch.optim.Adam(model.parameters(), lr=1e-4), device


def train_step(model, optimizer, device):
    import torch

    data = torch.ones(SAMPLES, next(model.parameters()).shape[-1], device=device)
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()


def timed(function, device, steps=STEPS):
    """Median seconds of a call, after a warm-up."""
    import torch

    seconds = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def rates(times):
    """Steps a second in each epoch but the first, from the times at which all steps ended."""
    steps = len(times) // EPOCHS
    ends = [times[i * steps : (i + 1) * steps] for i in range(1, EPOCHS)]
    return [(steps - 1) / (epoch[-1] - epoch[0]) for epoch in ends]


def digest(model):
    from mnist_jobs import digest

    return digest(model)


def run_job(name):
    """Run a job as one of several processes; the first prints what it measured as its last line."""
    import torch

    from utils.distributed.world import is_main, joined

    torch.set_num_threads(1)
    with joined({}):
        result = globals()[name]()
    if is_main():
        assert all(math.isfinite(value) for value in result.values() if isinstance(value, float))
        print("\n" + json.dumps(result))


if __name__ == "__main__":
    run_job(sys.argv[2]) if sys.argv[1:2] == ["--job"] else main()
