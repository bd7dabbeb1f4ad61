"""A data set of small files and an extractor that counts its calls, importable by child processes."""

import time
from pathlib import Path
from types import SimpleNamespace

import torch

GRID, DIM = (3, 4), 8
BYTES_PER_IMAGE = (3 * 4 * 8 + 8) * 4


class FileImages:
    """Images whose every pixel is the number written in their file."""

    augmented = False

    def __init__(self, directory, count=7, transform="plain"):
        self.samples = [SimpleNamespace(path=Path(directory) / f"{i}.txt") for i in range(count)]
        self.transform = transform
        for i, sample in enumerate(self.samples):
            if not sample.path.exists():
                sample.path.write_text(f"{i + 1}")

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        value = float(self.samples[index].path.read_text())
        return torch.full((3, 6, 6), value), 0, torch.zeros(1, 6, 6), f"{index}", "good"

    def transform_key(self):
        return self.transform


class Augmented(FileImages):
    augmented = True

    def __getitem__(self, index):
        image, *rest = super().__getitem__(index)
        return image + torch.rand(()), *rest


class CountingExtractor:
    """Patch features that are the image's value times a fixed pattern."""

    def __init__(self, name="a", delay=0.0):
        self.name = name
        self.delay = delay
        self.images = 0

    def fingerprint(self):
        return self.name

    def features_with_image_level(self, images):
        time.sleep(self.delay)
        self.images += len(images)
        pattern = torch.arange(1.0, 97.0).reshape(*GRID, DIM).sqrt()
        patches = images.mean((1, 2, 3)).reshape(-1, 1, 1, 1) * pattern
        return patches, patches.mean((1, 2))


def compute_in_child(cache_directory, data_directory, results, delay):
    from moleflow_fast.extractors.cache import FeatureCache

    extractor = CountingExtractor(delay=delay)
    cache = FeatureCache(cache_directory, 10**8, "cpu", 0)
    store = cache.features(FileImages(data_directory), extractor, 2)
    results.put((extractor.images, store.patches(torch.arange(7)).sum().item()))


def die_while_writing(cache_directory, data_directory):
    """Is killed after two batches; the temporary file is on disk."""
    import os
    import signal

    from moleflow_fast.extractors.cache import FeatureCache

    def progress(done, total):
        if done >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

    FeatureCache(cache_directory, 10**8, "cpu", 0).features(
        FileImages(data_directory), CountingExtractor(), 2, progress=progress
    )
