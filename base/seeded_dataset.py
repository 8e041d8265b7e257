"""SeededDataset: any map-style dataset, with random numbers that depend on (seed, epoch, sample) alone."""

from torch.utils.data import Dataset, Subset

from base.in_memory_dataset import InMemoryDataset
from utils.sample_seeder import SampleSeeder


class SeededDataset(Dataset):
    """A dataset seen through a SampleSeeder; BaseDataLoader wraps every one in it. The attribute dataset is yours.

    So a sample's augmentation is the same whatever the number of workers, and after a resume. One whose __getitems__
    makes whole batches gets its numbers a batch at a time.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.seeder = SampleSeeder()

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.seeder.map(self.dataset.__getitem__, [index], [index])[0]

    def __getitems__(self, indices):
        dataset = self.dataset
        while type(dataset) is Subset:
            indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
        if isinstance(dataset, InMemoryDataset):
            return dataset.__getitems__(indices, self.seeder)
        if hasattr(dataset, "__getitems__"):
            return self.seeder.map(dataset.__getitems__, [hash(tuple(indices))], [indices])[0]
        return self.seeder.map(dataset.__getitem__, indices, indices)


def makes_whole_batches(dataset):
    """Whether the dataset is an InMemoryDataset, or a Subset of one, whose batches need no collating."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, InMemoryDataset)
