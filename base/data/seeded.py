"""SeededDataset: any map-style dataset, with random numbers that depend on (seed, epoch, sample) alone."""

from torch.utils.data import Dataset, Subset

from base.data.in_memory import InMemoryDataset
from base.data.sample_seeder import SampleSeeder
from utils.batches import sample_error
from utils.distributed.world import own_samples, own_slice


class SeededDataset(Dataset):
    """A dataset seen through a SampleSeeder; BaseDataLoader wraps every one in it. The attribute dataset is yours.

    So a sample's augmentation is the same whatever the number of workers, and after a resume. One whose __getitems__
    makes whole batches gets its numbers a batch at a time. Of a batch that several processes share, each reads its
    part. Raises DataError, naming the sample, for whatever reading one raises.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.seeder = SampleSeeder()

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.seeder.map(_reader(self.dataset), [index], [index])[0]

    def __getitems__(self, indices):
        try:
            return self._batch(indices)
        except StopIteration as error:  # which would be taken for the end of the data
            raise sample_error(self.dataset, own_samples(indices)[0], error) from error

    def _batch(self, indices):
        dataset = self.dataset
        while type(dataset) is Subset:
            indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
        if isinstance(dataset, InMemoryDataset) and dataset.transform.draws_for_batches:
            own = own_slice(len(indices))  # of what one process would draw
            return tuple(rows[own] for rows in dataset.__getitems__(indices, self.seeder))
        indices = own_samples(indices)
        if isinstance(dataset, InMemoryDataset):
            return dataset.__getitems__(indices, self.seeder)
        if hasattr(dataset, "__getitems__"):
            return self.seeder.map(dataset.__getitems__, [hash(tuple(indices))], [indices])[0]
        return self.seeder.map(_reader(dataset), indices, indices)


def _reader(dataset):
    """dataset.__getitem__ with errors that name the sample."""

    def read(index):
        try:
            return dataset[index]
        except Exception as error:
            raise sample_error(dataset, index, error) from error

    return read


def makes_whole_batches(dataset):
    """Whether the dataset is an InMemoryDataset, or a Subset of one, whose batches need no collating."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, InMemoryDataset)
