import collections
import copy
import json
import operator
import pickle

import jax
import numpy as np
import pytest

from nnx_alexnet.data.batch_on_demand import BatchOnDemand, from_indices
from nnx_alexnet.data.sources import MapSource

PLAIN = {"tokens": [1, 2], "label": 3, "mask": True, "index": 7}


def on_demand(reads=None):
    reads = [] if reads is None else reads

    def read(name):
        reads.append(name)
        return PLAIN[name]

    return BatchOnDemand({"mask": True, "index": 7}, ["tokens", "label"], read)


def test_only_the_fields_that_are_accessed_are_read():
    reads = []
    batch = on_demand(reads)
    assert (len(batch), "tokens" in batch, "other" in batch, bool(batch)) == (4, True, False, True)
    assert list(batch) == list(batch.keys()) == list(PLAIN)
    assert (batch["index"], batch.get("mask"), batch.get("other", 5)) == (7, True, 5)
    assert reads == []
    assert batch["label"] == batch["label"] == batch.get("label") == 3
    assert reads == ["label"]
    with pytest.raises(KeyError, match="other"):
        batch["other"]


# Uses of a batch that do not change it; each is compared with an ordinary dict.
USES = {
    "dict": dict,
    "unpacking": lambda batch: {**batch},
    "keywords": lambda batch: dict(**batch),
    "ordered": collections.OrderedDict,
    "or": lambda batch: batch | {"a": 1},
    "ror": lambda batch: {"label": 1, "a": 1} | batch,
    "items": lambda batch: list(batch.items()),
    "keys": lambda batch: list(batch.keys()),
    "values": lambda batch: list(batch.values()),
    "reversed": lambda batch: list(reversed(batch)),
    "sorted": sorted,
    "copy": lambda batch: batch.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda batch: pickle.loads(pickle.dumps(batch)),
    "json": json.dumps,
    "repr": repr,
    "str": str,
    "equal": lambda batch: (batch == PLAIN, batch == {**PLAIN, "label": 4}, {1} == batch),
    "unequal": lambda batch: (batch != PLAIN, batch != {**PLAIN, "label": 4}, {1} != batch),
    "comprehension": lambda batch: {name: batch[name] for name in batch},
    "itemgetter": operator.itemgetter("tokens", "mask"),
    "leaves": jax.tree.leaves,
    "map": lambda batch: jax.tree.map(lambda leaf: leaf * 2, batch),
    "paths": lambda batch: jax.tree_util.tree_flatten_with_path(batch)[0],
    "isinstance": lambda batch: isinstance(batch, dict),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_use_gives_the_result_of_an_ordinary_dict(use):
    assert use(on_demand()) == use(dict(PLAIN))


def test_every_method_of_dict_is_adapted_to_fields_on_demand():
    works_unchanged = {
        *("__getitem__", "__class_getitem__", "fromkeys", "__new__", "__getattribute__"),
        *("__lt__", "__le__", "__gt__", "__ge__", "__sizeof__", "__doc__"),
    }
    assert set(vars(dict)) - works_unchanged <= set(vars(BatchOnDemand))


def test_a_batch_on_demand_cannot_be_changed():
    changes = [
        lambda batch: operator.setitem(batch, "label", 1),
        lambda batch: operator.delitem(batch, "label"),
        lambda batch: operator.ior(batch, {"label": 1}),
        lambda batch: batch.update(label=1),
        lambda batch: batch.pop("label"),
        lambda batch: batch.popitem(),
        lambda batch: batch.setdefault("other", 1),
        lambda batch: batch.clear(),
    ]
    for change in changes:
        batch = on_demand()
        with pytest.raises(TypeError, match=r"`batch` cannot be changed in a hook"):
            change(batch)
        assert dict(batch) == PLAIN


def test_a_function_can_be_compiled_for_a_batch_on_demand():
    values = {"label": np.arange(3), "index": np.array([4, 5, 6])}
    batch = BatchOnDemand({"index": values["index"]}, ["label"], values.__getitem__)
    total = jax.jit(lambda batch: batch["label"].sum() + batch["index"].sum())(batch)
    assert int(total) == 18


def test_a_batch_without_arrays_takes_its_examples_from_the_source_once():
    reads = []

    class Squares:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            reads.append(index)
            return {"x": np.float32(index**2), "y": np.float32(index)}

    source = MapSource(Squares(), argument="train")
    reads.clear()
    batch = {"index": np.array([3, 1]), "mask": np.ones(2, bool)}
    batch = from_indices(batch, None, source)
    assert [*batch] == ["x", "y", "index", "mask"]
    assert reads == []
    assert (batch["x"].tolist(), batch["y"].tolist()) == ([9.0, 1.0], [3.0, 1.0])
    assert reads == [3, 1]
