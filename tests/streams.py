"""Streams of batches by several libraries, for tests that stop in the middle of them."""

import warnings

import pytest

IN_PROCESS = [
    "grain_loader", "grain_map", "hf_stream", "hf_shuffled", "torchdata", "torchdata_generator",
    "list", "torch_loader",
]  # fmt: skip
WITH_WORKERS = ["grain_loader_workers", "grain_map_workers", "torchdata_workers", "hf_torchdata"]


class Pairs:
    """A map-style dataset of (image, label)."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]

    def __repr__(self):
        return "Pairs"  # Grain compares it


class Columns(Pairs):
    """The same as dicts."""

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index]}


def stream_of(name, images, labels, batch_size):
    """A stream over arrays, shuffled where the library makes that repeatable; skips without it.

    Those of Hugging Face yield single examples, the others batches.
    """
    make = {"grain": _grain, "hf": _hugging_face, "torchdata": _torchdata}.get(name.split("_")[0])
    if make is not None:
        return make(name, images, labels, batch_size)
    if name == "list":
        ends = range(0, len(images), batch_size)
        return [(images[i : i + batch_size], labels[i : i + batch_size]) for i in ends]
    import torch

    return torch.utils.data.DataLoader(Columns(images, labels), batch_size=batch_size)


def _grain(name, images, labels, batch_size):
    grain = pytest.importorskip("grain")
    workers = 2 if name.endswith("workers") else 0
    if workers:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain's workers read flags
    source = Pairs(images, labels)
    if name.startswith("grain_map"):
        batches = grain.MapDataset.source(source).shuffle(seed=1).batch(batch_size)
        batches = batches.to_iter_dataset()
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        return batches.mp_prefetch(options) if workers else batches
    sampler = grain.samplers.IndexSampler(
        len(images), shuffle=True, seed=1, num_epochs=1,
        shard_options=grain.sharding.NoSharding(),
    )  # fmt: skip
    return grain.DataLoader(
        data_source=source, sampler=sampler, worker_count=workers,
        operations=[grain.transforms.Batch(batch_size)],
    )  # fmt: skip


def _hugging_face(name, images, labels, batch_size):
    datasets = pytest.importorskip("datasets")
    if name == "hf_torchdata":
        images = (images / 255).astype("float32")  # the format "torch" makes int64 of uint8
    image = datasets.Array3D(images.shape[1:], str(images.dtype))
    features = datasets.Features({"image": image, "label": datasets.Value("int32")})
    columns = {"image": list(images), "label": labels}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    if name == "hf_map":
        return dataset
    examples = dataset.to_iterable_dataset(num_shards=4)
    if name == "hf_shuffled":
        examples = examples.shuffle(seed=1, buffer_size=20)
    if name != "hf_torchdata":
        return examples
    return _stateful(examples.with_format("torch"), batch_size=batch_size, num_workers=2)


def _torchdata(name, images, labels, batch_size):
    torch = pytest.importorskip("torch")
    if name == "torchdata_generator":  # which its seeds are drawn from, too
        options = {"generator": torch.Generator().manual_seed(1)}
    else:
        options = {"num_workers": 2 if name.endswith("workers") else 0}
        torch.manual_seed(1)
    return _stateful(Pairs(images, labels), batch_size=batch_size, shuffle=True, **options)


def _stateful(dataset, **options):
    module = pytest.importorskip("torchdata.stateful_dataloader")
    if options.get("num_workers"):
        options["multiprocessing_context"] = "forkserver"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchdata calls a deprecated function of torch
        return module.StatefulDataLoader(dataset, **options)
