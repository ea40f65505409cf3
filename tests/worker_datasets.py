"""Datasets that worker processes read: they import this file by its own name."""

import numpy as np
import torch


class Noisy:
    """Draws from the global generators; one example is damaged."""

    def __init__(self, damaged=None):
        self.damaged = damaged

    def __len__(self):
        return 30

    def __getitem__(self, index):
        if index == self.damaged:
            raise KeyError(f"example {index} is damaged")
        noise = np.random.randint(0, 200, (4, 4, 1)).astype(np.uint8)
        return noise + np.uint8(torch.randint(0, 50, ()).item()), index


class Stripes:
    """Images of one grey each, by their index."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return np.full((8, 8, 1), 3 * index, np.uint8), index % 4


class TellsEpoch:
    """Images of the epoch that it was told, times ten, plus their index."""

    epoch = -1

    def __len__(self):
        return 6

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return np.full((2, 2, 1), 10 * self.epoch + index, np.float32), index % 2


class TellsWorker:
    """Examples whose label is the number of the torch worker that reads them; 7 in no worker."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        worker = torch.utils.data.get_worker_info()
        label = 7 if worker is None else 2 * worker.num_workers + worker.id
        return np.zeros((2, 2, 1), np.uint8), label
