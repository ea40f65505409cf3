import numpy as np
import pytest
from data_helpers import messages
from worker_datasets import Noisy

from nnx_alexnet.data import Loader
from nnx_alexnet.data.bad_samples import BadSamples
from nnx_alexnet.data.sources import MapSource


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_examples_are_left_out_except_in_predictions(num_workers):
    source = MapSource(Noisy(damaged=9), on_bad_sample="skip", argument="test")
    loader = Loader(source, batch_size=8, argument="test", num_workers=num_workers)
    try:
        counted = np.concatenate([b["index"][b["mask"]] for b in loader.batches(multiple=1)])
        assert sorted(counted.tolist()) == [i for i in range(30) if i != 9]
        batches = loader.batches(multiple=1, skips=False)
        assert next(batches)["mask"].all()
        with pytest.raises(ValueError, match=r"`test`\[9\] cannot be read: KeyError.*one row per"):
            next(batches)
    finally:
        loader.close()


@pytest.mark.parametrize(
    ("is_replaced", "action"), [(True, "another example stands in"), (False, "it is left out")]
)
def test_each_bad_sample_is_reported_once(warnings, is_replaced, action):
    bad = BadSamples(300, "train", is_replaced=is_replaced)
    bad.note({5: "OSError: cut off", 7: "KeyError: 7"})
    bad.note({5: "OSError: cut off"})
    first, second = messages(warnings)
    assert first.startswith(f"`train`[5] cannot be read, {action}")
    assert first.endswith("(number 1 of at most 3): OSError: cut off")
    assert second.endswith("(number 2 of at most 3): KeyError: 7")


@pytest.mark.parametrize(("num", "limit"), [(1, 1), (60, 1), (150, 2), (1000, 10)])
def test_more_than_one_percent_of_bad_samples_is_rejected(num, limit):
    bad = BadSamples(num, "val", is_replaced=False)
    bad.note(dict.fromkeys(range(limit), "OSError"))
    with pytest.raises(ValueError, match=rf"More than {limit} examples of `val` \(1%\) cannot be"):
        bad.note({limit: "OSError"})
