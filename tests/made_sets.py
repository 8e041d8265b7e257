"""Small made data in the form of the published sets that examples/ read; each returns what to set in the config."""

import gzip

import numpy as np


def made_mnist1d(folder):
    """A file of 60 series of 40 numbers, and 20 for testing; the classes are in their level."""
    numbers = np.random.RandomState(0)
    folder.mkdir(parents=True)
    arrays = {}
    for suffix, number in (("", 60), ("_test", 20)):
        arrays[f"y{suffix}"] = np.arange(number) % 10
        arrays[f"x{suffix}"] = (numbers.randn(number, 40) + arrays[f"y{suffix}"][:, None]).astype(np.float32)
    np.savez(folder / "made.npz", **arrays)
    return {"data_loader.args.path": str(folder / "made.npz"), "data_loader.args.batch_size": 12}


def made_series(folder):
    """Files of 50 series of 30 numbers, and 12 for testing, of the classes 1 and 2."""
    numbers = np.random.RandomState(0)
    folder.mkdir(parents=True)
    for part, number in (("TRAIN", 50), ("TEST", 12)):
        lines = ["# made", "@problemName Made", "@classLabel true 1 2", "@data"]
        for i in range(number):
            values = ",".join(f"{value:.4f}" for value in numbers.randn(30) + i % 2)
            lines.append(f"{values}:{1 + i % 2}")
        (folder / f"Made_{part}.ts").write_text("\n".join(lines) + "\n")
    return {"data_loader.args.data_dir": str(folder), "data_loader.args.dataset": "Made"}


def made_fashion(folder):
    """Files of 64 images and 16 for testing, the labels in their brightness."""
    numbers = np.random.RandomState(0)
    folder.mkdir(parents=True)
    for part, number in (("train", 64), ("t10k", 16)):
        labels = (np.arange(number) % 10).astype(np.uint8)
        images = (numbers.randint(0, 60, (number, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return {"data_loader.args.data_dir": str(folder), "data_loader.args.batch_size": 16}


def write_idx(path, array):
    """Write an array of bytes in MNIST's format."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))
