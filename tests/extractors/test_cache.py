"""The feature cache: hits, misses, limits, and everything that can go wrong with files."""

import errno
import gc
import json
import multiprocessing
import os
import sys
import threading
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import torch
from data.builders import save

from moleflow_fast.backend import use_precision
from moleflow_fast.data import AnomalyImages, Sample
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.normalization import normalized
from moleflow_fast.extractors import cache as cache_module
from moleflow_fast.extractors import cache_files, create_feature_extractor
from moleflow_fast.extractors.backbone_source import BackboneSource, NonFiniteFeatures
from moleflow_fast.extractors.cache import FeatureCache, default_directory

sys.path.insert(0, str(Path(__file__).parent))  # so that child processes find the helpers by name
from cache_helpers import (  # noqa: E402
    BYTES_PER_IMAGE,
    DIM,
    GRID,
    Augmented,
    CountingExtractor,
    FileImages,
    compute_in_child,
    die_while_writing,
)

ALL = torch.arange(7)
PLENTY = 10**8


@pytest.fixture
def data(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def make_cache(tmp_path):
    def make(max_bytes=PLENTY, device_bytes=0, **options):
        return Settled(tmp_path / "cache", max_bytes, "cpu", device_bytes, **options)

    return make


class Settled(FeatureCache):
    """Its entries are there, or given up, when `features` returns."""

    def features(self, *args, **options):
        store = super().features(*args, **options)
        self.settle()
        return store


def direct(dataset, extractor=None, batch_size=3):
    """Patch features straight from the backbone, in the batches that the cache uses."""
    extractor = extractor or CountingExtractor()
    images = torch.stack([dataset[i][0] for i in range(len(dataset))])
    return torch.cat([extractor.features_with_image_level(batch)[0] for batch in images.split(batch_size)])


def test_features_rounded_to_tf32_have_an_entry_of_their_own(data, tmp_path):
    dataset, extractor = FileImages(data), CountingExtractor()

    def key(precision, device):
        with use_precision(precision):
            return FeatureCache(tmp_path / "cache", PLENTY, device, 0)._key(dataset, extractor)

    assert key("fp32", "cpu") == key("tf32", "cpu") == key("fp32", "cuda") == key("bf16", "cuda")
    assert key("tf32", "cuda") != key("fp32", "cuda")


@pytest.mark.parametrize(("device_bytes", "origin"), [(0, "file"), (PLENTY, "device")])
def test_second_time_without_backbone(data, make_cache, device_bytes, origin):
    dataset, extractor = FileImages(data), CountingExtractor()
    for _ in range(2):
        store = make_cache(device_bytes=device_bytes).features(dataset, extractor, 3)
        assert extractor.images == 7
        assert (store.origin, len(store), store.grid, store.dim) == (origin, 7, GRID, DIM)
        assert store.nbytes == 7 * 3 * 4 * 8 * 4
        assert torch.equal(store.patches(ALL), direct(dataset))
        assert torch.equal(store.image_features, direct(dataset).mean((1, 2)))


@pytest.mark.parametrize("device_bytes", [0, PLENTY])
def test_batches(data, make_cache, device_bytes):
    dataset = FileImages(data)
    store = make_cache(device_bytes=device_bytes).features(dataset, CountingExtractor(), 3)
    order = [torch.tensor(batch) for batch in ([6, 0, 3], [1, 1], [5], [2], [4])]
    batches = list(store.batches(order))
    assert len(batches) == 5
    for indices, (patches, image_features) in zip(order, batches, strict=True):
        assert torch.equal(patches, direct(dataset)[indices])
        assert torch.equal(image_features, store.image_features[indices])
    assert list(store.batches([])) == []


def test_bit_identical_to_a_real_backbone(data, make_cache):
    class Pictures(FileImages):
        def __getitem__(self, index):
            generator = torch.Generator().manual_seed(index)
            return (torch.randn(3, 32, 32, generator=generator),)

    extractor = create_feature_extractor("resnet18", (3, 32, 32), 16, "cpu", pretrained=False)
    dataset = Pictures(data)
    cached = make_cache().features(dataset, extractor, 3)
    uncached = make_cache().features(dataset, extractor, 3, enabled=False)
    assert isinstance(uncached, BackboneSource)
    assert torch.equal(cached.patches(ALL), direct(dataset, extractor))
    assert torch.equal(cached.patches(ALL), uncached.patches(ALL))
    assert torch.equal(cached.image_features, uncached.image_features)


@pytest.mark.parametrize("degrees", [0.0, 180.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_image_files_through_decoding_processes(data, make_cache, workers, degrees):
    """The same bits as from items one by one, each under a random state of its own."""

    class Pixels(CountingExtractor):
        def features_with_image_level(self, images):
            assert images.dtype == torch.uint8
            patches = normalized(images).permute(0, 2, 3, 1)
            return patches, patches.mean((1, 2))

    samples = [Sample(save(data / f"{i}.png", (30 + i, 24), 60 + 9 * i), None, 0, "good", "a") for i in range(7)]
    options = {"img_size": 16, "crp_size": 16, "use_rotation_aug": degrees > 0, "rotation_degrees": degrees}
    dataset = AnomalyImages(samples, True, **options)
    with closing(Decoder(workers)) as decoder:
        store = make_cache().features(dataset, Pixels(), 3, decoder)
        batches = [torch.tensor(batch) for batch in ([5, 0, 1], [6, 6, 2], [4])]
        seed = zlib.crc32(repr([batch.tolist() for batch in batches]).encode()) * len(dataset)
        for indices, (patches, _) in zip(batches, store.batches(batches), strict=True):
            for index, found in zip(indices.tolist(), patches, strict=True):
                torch.manual_seed(seed + index)
                assert torch.equal(found, dataset[index][0].permute(1, 2, 0))


def test_global_random_state_is_left_alone(data, make_cache):
    before = torch.random.get_rng_state()
    make_cache().features(FileImages(data), CountingExtractor(), 3)
    list(make_cache().features(Augmented(data), CountingExtractor(), 3).batches([ALL]))
    assert torch.equal(before, torch.random.get_rng_state())


def test_progress(data, make_cache):
    calls = []
    make_cache().features(FileImages(data), CountingExtractor(), 3, progress=lambda *call: calls.append(call))
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_changes_are_noticed(data, make_cache):
    extractor = CountingExtractor()
    make_cache().features(FileImages(data), extractor, 3)
    (data / "2.txt").write_text("50")
    store = make_cache().features(FileImages(data), extractor, 3)
    assert extractor.images == 14
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    make_cache().features(FileImages(data, transform="other"), extractor, 3)
    assert extractor.images == 21
    make_cache(dtype=torch.bfloat16).features(FileImages(data), extractor, 3)
    assert extractor.images == 28
    other = CountingExtractor("b")
    make_cache().features(FileImages(data), other, 3)
    assert other.images == 7
    make_cache().features(FileImages(data, count=5), extractor, 3)
    assert extractor.images == 33


@pytest.mark.parametrize("device_bytes", [0, PLENTY])
def test_narrow_dtype(data, make_cache, device_bytes):
    store = make_cache(dtype=torch.bfloat16, device_bytes=device_bytes).features(
        FileImages(data), CountingExtractor(), 3
    )
    patches = store.patches(ALL)
    assert patches.dtype == store.image_features.dtype == torch.float32
    assert torch.equal(patches, direct(FileImages(data)).bfloat16().float())
    assert store.nbytes == 7 * 3 * 4 * 8 * 2


def test_device_budget_counts_living_stores(data, make_cache):
    cache = make_cache(device_bytes=10 * 3 * 4 * 8 * 4)
    first = cache.features(FileImages(data), CountingExtractor(), 3)
    second = cache.features(FileImages(data), CountingExtractor(), 3)
    assert (first.origin, second.origin) == ("device", "file")
    del first
    gc.collect()
    assert cache.features(FileImages(data), CountingExtractor(), 3).origin == "device"


def entries(make_cache):
    return {path.stem for path in make_cache().directory.glob("*.features")}


def test_least_recently_used_goes_first(data, make_cache):
    cache = make_cache(max_bytes=int(2.5 * 7 * BYTES_PER_IMAGE))
    one, two, three = (FileImages(data, transform=t) for t in ("1", "2", "3"))
    cache.features(one, CountingExtractor(), 3)
    (first,) = entries(make_cache)
    cache.features(two, CountingExtractor(), 3)
    (second,) = entries(make_cache) - {first}
    for age, key in ((300, second), (200, first)):
        past = (cache.directory / f"{key}.json").stat().st_mtime - age
        os.utime(cache.directory / f"{key}.json", (past, past))
    cache.features(two, CountingExtractor(), 3)  # now the first is the older one
    gc.collect()
    cache.features(three, CountingExtractor(), 3)
    left = entries(make_cache)
    assert second in left
    assert first not in left
    assert len(left) == 2
    extractor = CountingExtractor()
    cache.features(two, extractor, 3)
    assert extractor.images == 0


def test_open_entries_are_not_evicted(data, make_cache, caplog):
    cache = make_cache(max_bytes=int(1.5 * 7 * BYTES_PER_IMAGE))
    held = cache.features(FileImages(data), CountingExtractor(), 3)
    other = cache.features(FileImages(data, transform="other"), CountingExtractor(), 3)
    assert (held.origin, other.origin) == ("file", "memory")
    assert "more than the cache" in caplog.text
    assert len(entries(make_cache)) == 1
    del held
    gc.collect()
    assert cache.features(FileImages(data, transform="other"), CountingExtractor(), 3).origin == "file"
    assert len(entries(make_cache)) == 1


@pytest.mark.parametrize(("device_bytes", "origin"), [(0, "memory"), (PLENTY, "device")])
def test_larger_than_the_limit_stays_in_memory(data, make_cache, device_bytes, origin, caplog):
    extractor = CountingExtractor()
    store = make_cache(max_bytes=100, device_bytes=device_bytes).features(FileImages(data), extractor, 3)
    assert store.origin == origin
    assert extractor.images == 7
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    assert [p.suffix for p in make_cache().directory.iterdir()] == []
    assert "not written" in caplog.text


def test_larger_than_everything_runs_the_backbone(data, make_cache, monkeypatch, caplog):
    monkeypatch.setattr(cache_module, "free_memory", lambda: 1000)
    store = make_cache(max_bytes=100).features(FileImages(data), CountingExtractor(), 3)
    assert store.origin == "backbone"
    assert "fit nowhere" in caplog.text
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def damage_tail(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


def damage_remove(path):
    path.unlink()


def damage_sidecar(path):
    path.with_suffix(".json").write_text('{"version": 1')


def damage_sums(path):
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["patch_crc32"] = sidecar["patch_crc32"][:-1]
    path.with_suffix(".json").write_text(json.dumps(sidecar))


@pytest.mark.parametrize(
    "damage", [damage_flip, damage_tail, damage_truncate, damage_remove, damage_sidecar, damage_sums]
)
def test_damaged_entry_is_computed_again(data, make_cache, damage, caplog):
    make_cache().features(FileImages(data), CountingExtractor(), 3)
    (path,) = make_cache().directory.glob("*.features")
    damage(path)
    extractor = CountingExtractor()
    store = make_cache().features(FileImages(data), extractor, 3)
    assert extractor.images == 7
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    assert [record.message.count("are damaged") for record in caplog.records] == [1]
    make_cache().features(FileImages(data), extractor, 3)
    assert extractor.images == 7


class FullDisk:
    """A file on which the write number `failing` finds no space."""

    def __init__(self, file, failing):
        self.file = file
        self.left = failing

    def write(self, content):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def close(self):
        self.file.close()


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_disk_fills_up(data, make_cache, monkeypatch, caplog, failing):
    opened = cache_files.EntryWriter.__init__

    def full(self, *args):
        opened(self, *args)
        self._file = FullDisk(self._file, failing)

    monkeypatch.setattr(cache_files.EntryWriter, "__init__", full)
    store = make_cache().features(FileImages(data), CountingExtractor(), 3)
    assert store.origin == "memory"
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    assert caplog.text.count("No space left on device") == len(caplog.records) == 1
    assert list(make_cache().directory.iterdir()) == []


def slowly(monkeypatch, release):
    """Entries are written once `release` is set."""
    append = cache_files.EntryWriter.append

    def late(self, *batch):
        assert release.wait(60)
        append(self, *batch)

    monkeypatch.setattr(cache_files.EntryWriter, "append", late)


@pytest.mark.parametrize(("device_bytes", "origins"), [(0, ("memory", "file")), (PLENTY, ("device", "device"))])
def test_features_are_used_before_they_are_written(data, tmp_path, monkeypatch, device_bytes, origins):
    release = threading.Event()
    slowly(monkeypatch, release)
    cache = FeatureCache(tmp_path / "cache", PLENTY, "cpu", device_bytes)
    store = cache.features(FileImages(data), CountingExtractor(), 3)
    assert store.origin == origins[0] and not list(cache.directory.glob("*.json"))
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    release.set()
    cache.settle()
    assert store.origin == origins[1] and len(list(cache.directory.glob("*.json"))) == 1
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    assert sorted(path.suffix for path in cache.directory.iterdir()) == [".features", ".json"]


def test_an_entry_that_is_being_written_is_waited_for(data, tmp_path, monkeypatch):
    release, extractor = threading.Event(), CountingExtractor()
    slowly(monkeypatch, release)
    cache = FeatureCache(tmp_path / "cache", PLENTY, "cpu", 0)
    cache.features(FileImages(data), extractor, 3)  # nobody keeps the store
    threading.Timer(0.2, release.set).start()
    store = FeatureCache(tmp_path / "cache", PLENTY, "cpu", 0).features(FileImages(data), extractor, 3)
    assert extractor.images == 7 and torch.equal(store.patches(ALL), direct(FileImages(data)))


def test_a_fault_in_the_thread_that_writes_does_not_hold_the_run_up(data, tmp_path, monkeypatch, caplog):
    def broken(self, *batch):
        raise MemoryError("no more")

    monkeypatch.setattr(cache_files.EntryWriter, "append", broken)
    cache = FeatureCache(tmp_path / "cache", PLENTY, "cpu", 0)
    store = cache.features(FileImages(data, count=40), CountingExtractor(), 1)  # more batches than are in hand
    cache.settle()
    assert store.origin == "memory" and caplog.text.count("cannot be kept") == 1 and "no more" in caplog.text
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))
    assert list(cache.directory.iterdir()) == []


def test_features_too_large_for_memory_are_read_from_the_file(data, make_cache, monkeypatch):
    monkeypatch.setattr(cache_module, "free_memory", lambda: 1000)
    store = make_cache().features(FileImages(data), CountingExtractor(), 3)
    assert store.origin == "file"
    assert torch.equal(store.patches(ALL), direct(FileImages(data)))


def test_a_stored_entry_is_mapped_and_not_copied(data, make_cache):
    for device_bytes in (0, PLENTY):
        make_cache().features(FileImages(data), CountingExtractor(), 3)
        store = make_cache(device_bytes=device_bytes).features(FileImages(data), CountingExtractor(), 3)
        (path,) = make_cache().directory.glob("*.features")
        assert str(path) in Path("/proc/self/maps").read_text()
        del store
        gc.collect()


def test_disk_is_full_already(data, make_cache, monkeypatch, caplog):
    usage = cache_module.shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    assert make_cache().features(FileImages(data), CountingExtractor(), 3).origin == "memory"
    assert "No space left" in caplog.text


def test_directory_cannot_be_made(data, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "cache", PLENTY, "cpu", 0)
    assert cache.features(FileImages(data), CountingExtractor(), 3).origin == "memory"
    assert "cannot be kept" in caplog.text


def test_image_errors_are_not_taken_for_a_full_disk(data, make_cache):
    class Unreadable(FileImages):
        def __getitem__(self, index):
            if index == 5:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="truncated"):
        make_cache().features(Unreadable(data), CountingExtractor(), 3)
    assert list(make_cache().directory.iterdir()) == []


def test_two_processes_at_once(data, make_cache):
    FileImages(data)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (make_cache().directory, data, results, 0.3)
    children = [context.Process(target=compute_in_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    (calls_a, sum_a), (calls_b, sum_b) = results.get(timeout=120), results.get(timeout=120)
    for child in children:
        child.join()
    assert sorted((calls_a, calls_b)) == [0, 7]  # the second waited and read
    assert sum_a == sum_b == direct(FileImages(data), batch_size=2).sum().item()
    assert sorted(p.suffix for p in make_cache().directory.iterdir()) == [".features", ".json"]


def test_killed_while_writing(data, make_cache):
    FileImages(data)
    child = multiprocessing.get_context("spawn").Process(target=die_while_writing, args=(make_cache().directory, data))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -9
    assert len(list(make_cache().directory.glob("*.tmp"))) == 1
    extractor = CountingExtractor()
    store = make_cache().features(FileImages(data), extractor, 2)
    assert extractor.images == 7
    assert torch.equal(store.patches(ALL), direct(FileImages(data), batch_size=2))
    assert not list(make_cache().directory.glob("*.tmp"))


def test_temporary_file_of_a_living_process_stays(tmp_path):
    temporary = tmp_path / "abc.1.tmp"
    temporary.write_text("")
    with cache_files.lock(tmp_path, "abc"):
        cache_files.clean_leftovers(tmp_path)
        assert temporary.exists()
    cache_files.clean_leftovers(tmp_path)
    assert not temporary.exists()


def test_augmented_images_bypass_the_cache(data, make_cache):
    extractor = CountingExtractor()
    source = make_cache().features(Augmented(data), extractor, 3)
    assert source.origin == "backbone"
    assert not make_cache().directory.exists()
    (first, image_features), (second, _) = list(source.batches([ALL[:4], ALL[:4]]))
    assert not torch.equal(first, direct(FileImages(data))[:4])
    torch.testing.assert_close(image_features, first.mean((1, 2)))
    assert (source.grid, source.dim, len(source), source.nbytes) == (GRID, DIM, 7, 0)


def test_augmentation_follows_from_the_order_alone(data, make_cache):
    dataset = Augmented(data)
    expected = make_cache().features(dataset, CountingExtractor(), 3)
    source = make_cache().features(dataset, CountingExtractor(), 3)
    order, other = [ALL.flip(0), ALL[:2]], [ALL, ALL[:2]]
    torch.rand(3)
    for (a, _), (b, _) in zip(source.batches(order), expected.batches(order), strict=True):
        assert torch.equal(a, b)
    epochs = [next(iter(source.batches(o)))[0] for o in (order, other)]
    assert not torch.equal(epochs[0].flip(0), epochs[1])


def test_backbone_source_of_no_images(data):
    assert BackboneSource(FileImages(data), CountingExtractor(), 3).patches(ALL[:0]).shape == (0, *GRID, DIM)


def test_non_finite_features_name_the_image(data, make_cache):
    (data / "4.txt").write_text("nan")
    with pytest.raises(NonFiniteFeatures, match=r"NaN or infinite.*4\.txt"):
        make_cache().features(FileImages(data), CountingExtractor(), 3)
    assert list(make_cache().directory.iterdir()) == []
    (data / "4.txt").write_text("60000")  # finite, but its features are not in float16
    with pytest.raises(NonFiniteFeatures, match=r"float16.*4\.txt"):
        make_cache(dtype=torch.float16).features(FileImages(data), CountingExtractor(), 3)


def test_a_change_that_keeps_size_and_time(data, make_cache):
    extractor = CountingExtractor()
    make_cache().features(FileImages(data), extractor, 3)
    known, file = extractor.images, data / "4.txt"
    before = file.stat()
    file.write_text("9")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    make_cache().features(FileImages(data), extractor, 3)
    assert extractor.images == 2 * known


def test_empty_data_set(data, make_cache):
    with pytest.raises(ValueError, match="no images"):
        make_cache().features(FileImages(data, count=0), CountingExtractor(), 3)


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path))
    assert default_directory() == tmp_path
    assert FeatureCache(None, 0, "cpu", 0).directory == tmp_path
    monkeypatch.delenv("MOLEFLOW_CACHE")
    assert default_directory().parts[-3:] == (".cache", "moleflow_fast", "features")
