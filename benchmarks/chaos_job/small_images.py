"""Images read one by one, with random numbers of three generators: copied into data_loader/ by benchmarks/chaos.py."""

import random

import numpy as np
import torch
from torchvision.transforms import v2

from base import BaseDataLoader


class SmallImages(torch.utils.data.Dataset):
    """180 images of 10 x 10; cropped with torch's, mirrored with Python's and given noise by NumPy's generator."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.images = torch.rand(180, 3, 10, 10, generator=generator)
        self.labels = torch.randint(4, (180,), generator=generator)
        self.crop = v2.RandomCrop(8)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.crop(self.images[index])
        if random.random() < 0.5:
            image = image.flip(-1)
        return image + 0.1 * float(np.random.standard_normal()), self.labels[index]


class SmallImagesLoader(BaseDataLoader):
    """Batches of these images."""

    def __init__(self, batch_size, num_workers=0):
        super().__init__(SmallImages(), batch_size, True, 20, num_workers)
