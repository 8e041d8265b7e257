import pandas as pd
import torch
from base import BaseDataLoader
from torch.utils.data import DataLoader, Dataset


class CsvDataset(Dataset):
    def __init__(self, csv_path):
        table = pd.read_csv(csv_path)
        self.points = torch.tensor(table[["x", "y"]].values, dtype=torch.float32)
        self.labels = torch.tensor(table["label"].values)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index], self.labels[index]


class CsvDataLoader(BaseDataLoader):
    def __init__(self, csv_path, batch_size, shuffle=True, validation_split=0.0, num_workers=1):
        self.dataset = CsvDataset(csv_path)
        super().__init__(self.dataset, batch_size, shuffle, validation_split, num_workers)

    def split_validation(self):
        return DataLoader(sampler=self.valid_sampler, **self.init_kwargs)


class HalvesLoader(BaseDataLoader):
    """Splits by itself, and makes one plain DataLoader of each half."""

    def __init__(self, csv_path, batch_size):
        self.dataset = CsvDataset(csv_path)
        self.n_samples = len(self.dataset)
        self.shuffle = True
        first, second = self._split_sampler(0.5)
        self.first = DataLoader(self.dataset, batch_size=batch_size, sampler=first)
        self.second = DataLoader(self.dataset, batch_size=batch_size, sampler=second)
