"""Metrics of batches of any form are those of one pass of NumPy over the split."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from clu.metrics import Average, Collection
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnx_alexnet import DataModule, Task, Trainer

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"),
    *("float16", "float32", "float64", ml_dtypes.bfloat16),
]


@st.composite
def arrays(draw, num, min_axes):
    """An array of `num` rows; its values are small whole numbers, which every dtype holds."""
    shape = (num, *draw(st.lists(st.integers(1, 3), min_size=min_axes, max_size=2)))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    return generator.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)


@st.composite
def splits(draw):
    """A dict of arrays, or of nested dicts, lists and tuples of them; its number of examples; and
    whether it is read example by example."""
    num, as_examples = draw(st.integers(1, 30)), draw(st.booleans())
    leaf = arrays(num, int(as_examples))  # in an example, a list of numbers would be one array
    tree = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2),
            st.tuples(inner, inner),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=2),
        ),
        max_leaves=3,
    )
    names = st.sampled_from(["image", "label", "tokens", "x"])
    return draw(st.dictionaries(names, tree, min_size=1, max_size=3)), num, as_examples


class Scale(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, value):
        return self.scale * value


class Sums(Task):
    """The loss of an example is the sum of the means of its arrays."""

    metrics = Collection.create(
        loss=Average.from_output("loss"), weighted=Average.from_output("weighted")
    )

    def outputs(self, model, batch):
        fields = {name: value for name, value in batch.items() if name not in ("mask", "index")}
        rows = [_means(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(fields)]
        loss = model(sum(rows))
        return {"loss": loss, "weighted": loss * (batch["index"] % 3)}


def _means(leaf):
    return leaf.reshape(len(leaf), -1).mean(axis=1)


def check_metrics(split, num, as_examples, batch_size):
    """Compares the metrics of a run with those of NumPy, and counts the compilations."""
    fields, structure = jax.tree.flatten(split)
    expected = sum(_means(np.asarray(leaf, np.float64)) for leaf in fields)
    weighted = expected * (np.arange(num) % 3)
    data = split
    if as_examples:
        data = Rows([structure.unflatten([leaf[i] for leaf in fields]) for i in range(num)])
    trainer = Trainer(
        Scale(),
        DataModule(
            data, data, batch_size=batch_size, drop_last=False, transform=lambda batch: batch
        ),
        task=Sums(),
        optimizer=optax.sgd(0.0),
        max_epochs=1,
        log_dir=None,
        progress_bar=False,
    )
    (record,) = trainer.fit()
    for split_name in ("train", "val"):
        np.testing.assert_allclose(record[f"{split_name}/loss"], expected.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            record[f"{split_name}/weighted"], weighted.mean(), rtol=1e-5, atol=1e-6
        )
    sizes = {min(batch_size, num), num % batch_size or min(batch_size, num)}
    assert trainer.num_compilations == {"train": len(sizes), "evaluate": 1}


class Rows:
    """A map-style dataset of examples."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


ARGUMENTS = {"drawn": splits(), "batch_size": st.integers(1, 12)}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(**ARGUMENTS)
@settings(max_examples=6, suppress_health_check=QUIET)
def test_metrics_of_any_pytree_equal_one_numpy_pass(drawn, batch_size):
    check_metrics(*drawn, batch_size)


@pytest.mark.slow
@given(**ARGUMENTS)
@settings(max_examples=150, suppress_health_check=QUIET)
def test_metrics_of_many_pytrees_equal_one_numpy_pass(drawn, batch_size):
    check_metrics(*drawn, batch_size)


class Embedding(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(12, 1, rngs=nnx.Rngs(0))

    def __call__(self, tokens):
        return self.embed(tokens)[..., 0]


class MeanOfRealTokens(Task):
    def outputs(self, model, batch):
        values = jnp.where(batch["attention"], model(batch["tokens"]), 0)
        return {"loss": values.sum(axis=1) / batch["attention"].sum(axis=1)}


def sequences(lengths):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 12, length) for length in lengths]
    return [{"tokens": row, "attention": np.ones(len(row), bool)} for row in rows]


def fit_sequences(lengths, pad_to, **options):
    examples = sequences(lengths)
    data = DataModule(examples, examples, batch_size=4, drop_last=False, pad_to=pad_to)
    options = {"log_dir": None, "progress_bar": False, "max_epochs": 1, **options}
    trainer = Trainer(
        Embedding(), data, task=MeanOfRealTokens(), optimizer=optax.sgd(0.0), **options
    )
    table = np.asarray(trainer.model.embed.embedding)[:, 0]
    (record,) = trainer.fit()
    expected = np.mean([table[example["tokens"]].mean() for example in examples])
    return trainer, record, expected


def test_padded_sequences_have_the_metrics_of_each_sequence_alone():
    lengths = [1, 2, 3, 4, 8, 7, 6, 5, 2, 1]
    trainer, record, expected = fit_sequences(lengths, {"tokens": (4, 8), "attention": (4, 8)})
    np.testing.assert_allclose(record["val/loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(record["train/loss"], expected, rtol=1e-5)
    assert trainer.num_compilations["evaluate"] == 2  # one for each length


def test_lengths_that_do_not_fit_together_are_refused_at_the_start():
    with pytest.raises(ValueError, match=r"`attention` bool\[8\], `tokens` int32\[4\] in `val`"):
        fit_sequences([1, 2, 3, 4], {"tokens": (4, 8), "attention": (8,)})
