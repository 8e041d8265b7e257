import numpy as np
import torch
from base import BaseDataLoader
from torch.utils.data import Dataset


class Rows(Dataset):
    def __init__(self, train=True):
        rng = np.random.RandomState(0 if train else 1)
        self.rows = rng.randn(60 if train else 24, 4).astype('float32')
        self.labels = (self.rows.sum(axis=1) > 0).astype('int64') + (self.rows[:, 0] > 1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.from_numpy(self.rows[i]), int(self.labels[i])


class RowsLoader(BaseDataLoader):
    def __init__(self, batch_size, shuffle, validation_split, num_workers, training=True):
        self.dataset = Rows(training)
        super(RowsLoader, self).__init__(self.dataset, batch_size, shuffle, validation_split, num_workers)
