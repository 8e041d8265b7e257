import pickle
import random
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from base import BaseDataLoader, InMemoryDataset, memory_map, whole_batch
from utils import UserError
from utils.batches import batches_of
from utils.seed import seed_everything


def images(count=12):
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_batch_is_its_samples_and_the_arrays_stay_as_they_are():
    stored, labels = images(), torch.arange(12)
    dataset = InMemoryDataset(stored, labels, batch_transform=lambda batch: batch.float().div_(255))
    batch, targets = dataset.__getitems__([3, 1])
    assert torch.equal(batch, torch.stack([dataset[3][0], dataset[1][0]])) and targets.tolist() == [3, 1]
    assert torch.equal(batch, stored[[3, 1]].float() / 255) and torch.equal(stored, images())
    assert len(dataset) == 12 and dataset[-1][1] == 11 and len(list(dataset)) == 12


def test_a_function_sees_whole_batches_as_batch_transform_and_single_samples_as_transform():
    seen = []

    def scale(values):
        seen.append(tuple(values.shape))
        return values.float() / values.max()  # over a batch another number than over a sample

    def read(**transforms):
        seen.clear()
        loader = DataLoader(InMemoryDataset(images(), **transforms), batch_size=5, collate_fn=whole_batch)
        return torch.cat([batch[0] for batch in loader])

    whole = read(batch_transform=[scale])
    assert seen == [(5, 3, 8, 8), (5, 3, 8, 8), (2, 3, 8, 8)]
    assert torch.equal(whole, torch.cat([part.float() / part.max() for part in images().split(5)]))
    single = read(transform=[scale])
    assert seen == [(3, 8, 8)] * 12
    assert torch.equal(single, torch.stack([image.float() / image.max() for image in images()]))
    both = read(transform=lambda image: image[:1], batch_transform=scale)
    assert torch.equal(both, torch.cat([part.float() / part.max() for part in images()[:, :1].split(5)]))


def test_making_a_dataset_calls_no_transform():
    def fail(values):
        raise AssertionError

    InMemoryDataset(images(), transform=[fail], batch_transform=[fail])


@pytest.mark.parametrize(
    "function",
    [
        v2.CenterCrop(5),
        v2.ConvertImageDtype(torch.float32),
        v2.Grayscale(),
        v2.Identity(),
        v2.LinearTransformation(torch.eye(192), torch.ones(192)),
        v2.Normalize([0.5], [0.25]),
        v2.Pad(2),
        v2.Resize(5),
        v2.RGB(),
        v2.ToDtype(torch.float32, scale=True),
        v2.ToImage(),
        v2.ToPureTensor(),
    ],
    ids=lambda function: type(function).__name__,
)
def test_transforms_that_are_safe_on_batches_give_what_they_give_for_samples(function, monkeypatch):
    batches, forward = [], type(function).forward
    monkeypatch.setattr(type(function), "forward", lambda self, x: batches.append(len(x)) or forward(self, x))
    stored = images().float() / 255
    batch = InMemoryDataset(stored, transform=[function]).__getitems__(list(range(12)))[0]
    assert batches == [12]
    assert torch.equal(batch, torch.stack([function(image) for image in stored]))


@pytest.mark.parametrize("compose", [v2.Compose, list])
def test_random_transforms_of_torchvision_are_drawn_per_sample(compose):
    same_image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(200, -1, -1, -1).contiguous()
    transform = compose(
        [v2.ToDtype(torch.float32, scale=True), v2.RandomCrop(8, padding=2), v2.Normalize([0.5], [0.5])]
    )
    torch.manual_seed(0)
    batch = InMemoryDataset(same_image, transform=transform).__getitems__(list(range(200)))[0]
    assert batch.shape == (200, 1, 8, 8) and len(batch.unique(dim=0)) == 25  # all offsets from (0, 0) to (4, 4)


class Single(torch.utils.data.Dataset):
    """The images as single samples."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.transform(images()[index]), index


def test_a_batch_equals_what_a_dataset_of_single_samples_gives():
    """Both paths, whatever the number of workers, draw the same for the same (seed, epoch, sample)."""
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomCrop(8, padding=2), v2.RandomErasing()])
    seed_everything(3)
    loaders = [
        BaseDataLoader(InMemoryDataset(images(), torch.arange(12), transform=transform), 5, True, 0, 0),
        BaseDataLoader(InMemoryDataset(images(), torch.arange(12), transform=transform), 5, True, 0, 2),
        BaseDataLoader(Single(transform), 5, True, 0, 0),
        BaseDataLoader(Single(transform), 5, True, 0, 1),
        BaseDataLoader(Single(transform), 5, True, 0, 2),
    ]
    epochs = []
    for epoch in (1, 2):
        passes = []
        for loader in loaders:
            loader.set_epoch(epoch)
            batches = list(loader)
            passes.append((torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])))
        assert all(torch.equal(data, passes[0][0]) and torch.equal(order, passes[0][1]) for data, order in passes)
        epochs.append(passes[0][0][passes[0][1].argsort()])
    assert not torch.equal(*epochs)  # the next epoch draws anew


def test_a_transform_that_draws_for_each_sample_itself_gets_whole_batches():
    def flip(batch):
        return torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(-1), batch)

    flip.draws_per_sample = True
    seed_everything(3)
    for transforms in ({"batch_transform": [flip, torch.Tensor.float]}, {"transform": [flip, torch.Tensor.float]}):
        loader = BaseDataLoader(InMemoryDataset(images(), **transforms), 6, False, 0, 0)
        loader.set_epoch(1)
        first, again = torch.cat([b[0] for b in loader]), torch.cat([b[0] for b in loader])
        flipped = (first != images().float()).flatten(1).any(1)
        assert torch.equal(first, again) and 0 < flipped.sum() < 12
    with pytest.raises(UserError, match="draws_per_sample stands between two"):
        InMemoryDataset(images(), transform=[v2.RandomCrop(4), flip, v2.RandomCrop(2)])


def test_what_is_sent_to_a_new_process_lives_until_that_has_begun():
    """Torch sends an open file, and closes it with the tensor; a spawned worker then ended with status 1."""
    dataset = InMemoryDataset(images(), torch.arange(12))
    for array in map(weakref.ref, dataset.__getstate__()["arrays"]):
        assert array() is not None
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3][0], dataset[3][0]) and again._sent == []


def test_all_new_processes_share_one_copy_of_the_arrays():
    """Each of eight spawned workers took a copy of its own."""
    labels = np.arange(12)
    read_only = labels.copy()
    read_only.flags.writeable = False
    dataset = InMemoryDataset(labels, read_only)
    first = [tensor.share_memory_() for tensor in dataset.__getstate__()["arrays"]]  # as torch does to send it
    labels[0] = 7
    second = dataset.__getstate__()["arrays"]
    assert [tensor.data_ptr() for tensor in second] == [tensor.data_ptr() for tensor in first]
    assert second[0][0] == 7 and second[1].tolist() == list(range(12))
    dataset.arrays[0] = labels + 1
    assert dataset.__getstate__()["arrays"][0].tolist() == [8, *range(2, 13)]


def noisy_by_torch(batch):
    return batch + torch.rand(())


def noisy_by_numpy(batch):
    return batch + np.random.rand()


def noisy_by_python(batch):
    return batch + random.random()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("noisy", [noisy_by_torch, noisy_by_numpy, noisy_by_python])
def test_a_batch_transform_that_draws_without_saying_so_is_refused(noisy, num_workers):
    loader = BaseDataLoader(InMemoryDataset(images(), batch_transform=noisy), 6, False, 0, num_workers)
    with pytest.raises(UserError, match=f"batch_transform: {noisy.__name__} draws random numbers; give it as tran"):
        list(batches_of(loader))


def test_memory_maps_are_read_row_by_row(tmp_path):
    np.save(tmp_path / "x.npy", images().numpy())
    mapped = memory_map(tmp_path / "x.npy", sample_shape=(3, 8, 8), dtype="uint8")
    assert isinstance(mapped, np.memmap)
    dataset = InMemoryDataset(mapped, torch.arange(12))
    batch, targets = dataset.__getitems__([7, 2])
    assert torch.equal(batch, images()[[7, 2]]) and targets.tolist() == [7, 2]
    assert isinstance(dataset.arrays[0].base, np.memmap)  # still no copy in memory
    assert torch.equal(dataset.to("cpu").__getitems__([7])[0], images()[[7]])


def test_wrong_memory_maps_are_refused_by_name(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, images().numpy())
    with pytest.raises(UserError, match=r"x.npy: its shape is \(12, 3, 8, 8\); it should be \(N, 1, 28, 28\)"):
        memory_map(path, sample_shape=(1, 28, 28))
    with pytest.raises(UserError, match=r"x.npy: its dtype is uint8; it should be float32"):
        memory_map(path, dtype="float32")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"x.npy: not a whole .npy file"):
        memory_map(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"x.npy: not a whole .npy file of numbers"):
        memory_map(path)
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(UserError, match="holds several arrays"):
        memory_map(tmp_path / "x.npz")
    with pytest.raises(UserError, match="cannot read the array: No such file"):
        memory_map(tmp_path / "none.npy")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ((torch.zeros(3, 2), torch.zeros(4)), "same number of rows; got 3, 4"),
        ((torch.zeros(3), torch.tensor(1)), "array 1 of the dataset is a single number"),
        ((np.array(["a", "b"]),), "array 0 of the dataset has dtype <U1, unknown to torch; make numbers of its texts"),
        ((np.zeros(2, ">f4"),), "array 0 of the dataset has dtype >f4"),
    ],
)
def test_arrays_that_cannot_be_a_dataset_are_refused(arrays, message):
    with pytest.raises(UserError, match=message):
        InMemoryDataset(*arrays)


def first_batch(**transforms):
    return InMemoryDataset(images(), **transforms).__getitems__([0, 1, 2])[0]


def test_a_transform_that_changes_the_number_of_samples_is_refused():
    with pytest.raises(
        UserError, match=r"transform: <lambda> returns \(1, 3, 8, 8\) for a batch of 3 samples; it should return"
    ):
        first_batch(batch_transform=lambda batch: batch[:1])
    with pytest.raises(UserError, match=r"^transform: 'crop' cannot be called"):
        InMemoryDataset(images(), transform=["crop"])
    with pytest.raises(UserError, match=r"^batch_transform: 3 cannot be called"):
        InMemoryDataset(images(), batch_transform=3)


def test_batch_transforms_follow_those_of_single_samples():
    def top_half(image):
        return image[:, : image.shape[1] // 2]

    def channels_at_the_end(batch):
        return batch.permute(0, 2, 3, 1)

    dataset = InMemoryDataset(images(), transform=top_half, batch_transform=channels_at_the_end)
    assert torch.equal(dataset.__getitems__([4, 2])[0], images()[[4, 2], :, :4].permute(0, 2, 3, 1))


def test_samples_that_come_out_in_different_shapes_are_refused():
    def cut(image):
        return image[:, : 1 + int(image[0, 0, 0]) % 7]

    with pytest.raises(
        UserError,
        match=r"transform: the samples do not make a batch: .* equal size, but got \[3, \d, 8\] at entry 0"
        r".*; it should return a tensor of the same shape for every sample$",
    ):
        first_batch(transform=cut)


def test_a_subset_serves_whole_batches_too():
    loader = DataLoader(
        Subset(InMemoryDataset(images(), torch.arange(12)), [4, 5]), batch_size=2, collate_fn=whole_batch
    )
    assert next(iter(loader))[1].tolist() == [4, 5]


def test_device_residence_needs_data_that_can_move():
    with pytest.raises(UserError, match="device_resident: needs an InMemoryDataset and num_workers 0"):
        BaseDataLoader(InMemoryDataset(images()), 2, False, 0, 2, device_resident=True)
    loader = BaseDataLoader(InMemoryDataset(images()), 2, False, 4, 0, device_resident=True).to(torch.device("cpu"))
    assert isinstance(loader.dataset.arrays[0], torch.Tensor) and len(next(iter(loader))[0]) == 2
    assert len(next(iter(loader.split_validation()))[0]) == 2


def test_a_function_with_a_generator_of_its_own_is_called_with_single_samples():
    generator = np.random.default_rng(0)

    def flip(image):
        return image.flip(-1) if generator.random() < 0.5 else image

    same_image = images(1).expand(40, -1, -1, -1).contiguous()
    batch = InMemoryDataset(same_image, transform=flip).__getitems__(list(range(40)))[0]
    assert len(batch.unique(dim=0)) == 2


def shift(image):
    return image.add_(torch.randn(1))


def shift_each(batch):
    return batch.add_(torch.randn(len(batch), 1, 1, 1))


shift_each.draws_per_sample = True


def test_a_random_transform_that_works_in_place_is_applied_once():
    for transforms in ({"transform": shift}, {"batch_transform": shift_each}):
        stored = images().float()
        seed_everything(3)
        loaders = [BaseDataLoader(InMemoryDataset(stored, **transforms), 5, False, 0, n) for n in (0, 1)]
        passes = []
        for loader in (*loaders, loaders[0]):
            loader.set_epoch(1)
            passes.append(torch.cat([batch[0] for batch in loader]))
        assert torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])
        shifts = passes[0] - images().float()
        assert torch.equal(stored, images().float()) and shifts.abs().max() < 6  # one draw of a normal, not a sum


def test_a_compose_whose_transforms_are_modules_is_called_as_a_whole():
    class Compose(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.transforms = torch.nn.ModuleList([torch.nn.Flatten(0)])

        def forward(self, image):
            return self.transforms[0](image)

    assert first_batch(transform=Compose()).shape == (3, 192)


def test_images_of_pil_can_stand_between():
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToPILImage(), transforms.RandomCrop(8, 2), transforms.ToTensor()])
    batch = InMemoryDataset(images(), transform=transform).__getitems__([0, 1, 2])[0]
    assert batch.shape == (3, 3, 8, 8) and batch.dtype == torch.float32
    with pytest.raises(UserError, match=r"transform: the samples do not make a batch: .* but got Image; it should"):
        first_batch(transform=transforms.ToPILImage())


def test_images_of_pil_become_tensors_again_whatever_stands_behind():
    transform = v2.Compose([v2.ToPILImage(), v2.Resize(4), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    expected = torch.stack([transform(image) for image in images()[:3]])
    assert torch.equal(first_batch(transform=transform), expected)


@pytest.mark.parametrize(
    "transform, message",
    [
        (lambda batch: batch.numpy(), "returns ndarray for a batch of 3"),
        (lambda batch: (batch, batch), "returns tuple for a batch of 3"),
        (lambda batch: batch.flatten(0, 1), r"returns \(9, 8, 8\) for a batch of 3"),
        (lambda batch: batch.float().mean(), r"returns \(\) for a batch of 3"),
    ],
)
def test_what_is_no_batch_is_refused(transform, message):
    with pytest.raises(UserError, match=message):
        first_batch(batch_transform=transform)


def test_memory_maps_travel_to_other_processes_by_name(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(80_000, dtype=np.float32).reshape(-1, 8))
    dataset = InMemoryDataset(memory_map(tmp_path / "x.npy"), torch.arange(10_000))
    assert len(pickle.dumps(dataset.arrays[0])) > 300_000
    parts = [InMemoryDataset(memory_map(tmp_path / "x.npy")), InMemoryDataset(memory_map(tmp_path / "x.npy")[5:])]
    sizes = [len(pickle.dumps(part)) for part in parts]
    assert sizes[0] < 2000 < 300_000 < sizes[1]  # a part of a file travels as it is
    for left, right in ((dataset, dataset), *zip(parts, parts, strict=True)):
        copied = pickle.loads(pickle.dumps(left))
        assert all(map(torch.equal, copied.__getitems__([3, 77]), right.__getitems__([3, 77])))
    assert isinstance(pickle.loads(pickle.dumps(parts[0])).arrays[0].base, np.memmap)


def test_no_arrays_are_no_dataset():
    with pytest.raises(UserError, match="at least one array"):
        InMemoryDataset()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "int64", "bool", "float16", "float64"])
@pytest.mark.parametrize("on_device", [False, True])
def test_samples_keep_the_dtype_of_the_arrays(dtype, on_device):
    rows = np.arange(6).reshape(3, 2).astype(dtype)
    dataset = InMemoryDataset(rows, np.arange(3))
    served = (dataset.to("cpu") if on_device else dataset).__getitems__([2, 0])[0]
    assert str(served.dtype) == f"torch.{dtype}" and served.tolist() == rows[[2, 0]].tolist()
