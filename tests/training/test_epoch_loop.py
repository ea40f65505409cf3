"""`EpochLoop`: the order of what happens around each dispatch, without a device."""

from types import SimpleNamespace

import numpy as np
import pytest
from parts import split_of

from nnx_alexnet import DataModule
from nnx_alexnet.callbacks import Callback, CallbackList
from nnx_alexnet.devices import Placement
from nnx_alexnet.training import Hooks, Settings
from nnx_alexnet.training.epoch_loop import EpochLoop
from nnx_alexnet.training.progress import Progress
from nnx_alexnet.training.requests import Requests
from nnx_alexnet.training.run_identity import Ingredients

TRACE = SimpleNamespace(can_loop_on_device=True, forward_flops={"float32": 1.0})


class Hooked(Callback):
    """Notes its train batch hooks, and does something before or after a step."""

    def __init__(self, made, *, every_n_steps=1, at=None, start=None, end=None):
        self.made, self.every_n_steps = made, every_n_steps
        self.at, self.start, self.end = at, start, end

    def on_train_batch_start(self, trainer, batch, batch_index):
        step = self.made.progress.global_step + 1
        self.made.calls.append(f"start {step}")
        assert {"image", "label", "mask", "index"} <= batch.keys()
        assert self.made.num_rows == len(batch["index"])  # for gradients of this very batch
        self.made.shown.append(batch)
        if step == self.at and self.start is not None:
            self.start(self.made)

    def on_train_batch_end(self, trainer, outputs, batch, batch_index):
        step = self.made.progress.global_step
        assert (outputs, batch_index) == (step, self.made.progress.step_in_epoch - 1)
        self.made.calls.append(f"end {step}")
        if step == self.at and self.end is not None:
            self.end(self.made)


class Starts(Callback):
    """Has a start hook alone, so that further steps follow in its dispatch."""

    def __init__(self, made, *, every_n_steps, at, start):
        self.made, self.every_n_steps, self.at, self.start = made, every_n_steps, at, start

    def on_train_batch_start(self, trainer, batch, batch_index):
        if self.made.progress.global_step + 1 == self.at:
            self.start(self.made)


class Made:
    """An epoch loop whose dispatcher, saver and store note what they are asked."""

    def __init__(
        self, *, num=12, data=None, hook=None, starts=None, check=None, store=True, **settings
    ):
        self.calls, self.sent, self.shown, self.data_on_device = [], [], [], None
        self.progress = Progress(lambda metrics, step: None)
        self.requests = Requests(self.progress.stop)
        self.on_save = lambda: None
        self.data = DataModule(split_of(*range(num)), batch_size=2) if data is None else data
        callbacks = [] if hook is None else [Hooked(self, **hook)]
        callbacks += [] if starts is None else [Starts(self, **starts)]
        dispatcher = SimpleNamespace(
            data={}, augmentation_key=lambda: "key", note_wait=lambda seconds: None,
            begin_group=self.begin_group, send=self.send, use_data=self.use_data,
            lowered=self.lowered, compile_early=lambda lowered: None,
        )  # fmt: skip
        self.dispatcher = dispatcher
        checkpoints = SimpleNamespace(
            check=lambda: self.calls.append("check"), prepare=lambda: None
        )
        ingredients = Ingredients(
            arrays=None, data=self.data, task=None, optimizers=None,
            settings=Settings(name="run", log_dir=None, **settings), config={},
            placement=Placement(1), evaluation=TRACE, training=None,
        )  # fmt: skip
        self.loop = EpochLoop(
            ingredients=ingredients, progress=self.progress, requests=self.requests,
            hooks=Hooks(CallbackList(callbacks), None),
            run=SimpleNamespace(checkpoints=checkpoints if store else None),
            dispatcher=dispatcher, saver=SimpleNamespace(save_if_asked=self.save_if_asked),
            check_batch=check or (lambda loader, batch: None),
            validation=SimpleNamespace(is_due_by_step=False),
        )  # fmt: skip

    def lowered(self, data, batch, *, max_steps):
        self.compiled = {name: leaf.shape for name, leaf in batch.items()}, max_steps

    def begin_group(self, num_rows, lengths=()):
        self.num_rows = num_rows

    def send(self, group, key, *, num_examples, max_steps):
        assert key == "key"
        assert self.num_rows == len(group[0]["index"])
        assert len(group) <= max_steps
        self.sent += group
        self.progress.advance(num_steps=len(group), num_examples=num_examples)
        first = self.progress.global_step - len(group) + 1
        self.calls.append(" ".join(map(str, ["step", *range(first, first + len(group))])))
        return self.progress.global_step

    @property
    def trained(self):
        """The examples of each batch that was trained on."""
        return [batch["index"].tolist() for batch in self.sent]

    def save_if_asked(self):
        if self.requests.take_save() is not None:
            self.calls.append(f"save {self.progress.global_step}")
        self.on_save()

    def use_data(self, data):
        self.data_on_device = data


def stop(made):
    made.requests.stop("enough")


def save(made):
    made.requests.save()


def test_an_epoch_is_trained_on_whole_and_in_the_order_of_the_loader():
    made = Made()
    assert made.loop.run()
    loader = made.data.train
    assert made.trained == [batch["index"].tolist() for batch in loader.batches(seed=0, epoch=0)]
    assert (made.progress.global_step, made.progress.num_examples) == (6, 12)


def test_seed_and_epoch_choose_the_order():
    made = Made(seed=3)
    made.progress.epoch = 2
    made.loop.run()
    loader = made.data.train
    assert made.trained == [batch["index"].tolist() for batch in loader.batches(seed=3, epoch=2)]


def test_a_resumed_epoch_skips_the_steps_that_it_has_had():
    made, whole = Made(), Made()
    whole.loop.run()
    made.progress.advance(num_steps=4, num_examples=8)
    assert made.loop.run()
    assert made.trained == whole.trained[4:]


def test_the_order_around_a_dispatch():
    made = Made(hook={"every_n_steps": 3})
    made.loop.run()
    assert made.calls == [
        "check", "step 1 2",  # up to the step before the hook
        "start 3", "check", "step 3", "end 3",
        "check", "step 4 5",
        "start 6", "check", "step 6", "end 6",
    ]  # fmt: skip


def test_a_failed_save_is_reported_before_the_next_dispatch():
    def fails():
        raise OSError("the disk is full")

    made = Made()
    made.loop._run.checkpoints.check = fails
    with pytest.raises(OSError, match="the disk is full"):
        made.loop.run()
    assert made.trained == []


def test_another_process_has_no_checkpoints_to_check():
    made = Made(store=False)
    assert made.loop.run()
    assert made.calls == ["step 1 2 3 4 5 6"]


def test_a_checkpoint_that_an_end_hook_asks_for_is_taken_before_the_next_step():
    made = Made(hook={"every_n_steps": 2, "at": 4, "end": save})
    made.loop.run()
    position = made.calls.index("save 4")
    assert made.calls[position - 1] == "end 4"
    assert "step 5" in made.calls[position + 1 :]


@pytest.mark.parametrize("ask", [stop, save])
def test_what_a_start_hook_asks_for_is_done_after_that_very_step(ask):
    """Though its group had more steps: the others are given back."""
    made = Made(starts={"every_n_steps": 4, "at": 4, "start": ask})
    is_whole = made.loop.run()
    steps = [call for call in made.calls if call != "check"]
    if ask is stop:
        assert not is_whole
        assert steps == ["step 1 2 3", "step 4"]
    else:
        assert is_whole
        assert steps == ["step 1 2 3", "step 4", "save 4", "step 5 6"]
        assert len(made.trained) == 6, "each batch once"
        assert sorted(index for batch in made.trained for index in batch) == list(range(12))


def test_a_stop_in_an_end_hook_makes_that_step_the_last_one():
    made = Made(hook={"every_n_steps": 1, "at": 3, "end": stop})
    assert not made.loop.run()
    assert made.progress.global_step == 3
    assert made.progress.stop_reason == "enough"


def test_batches_are_given_back_if_the_run_is_stopped_while_a_save_is_written():
    made = Made(hook={"every_n_steps": 2, "at": 2, "end": save})
    made.on_save = lambda: made.progress.global_step == 2 and made.requests.interrupt(15)
    assert not made.loop.run()
    assert made.progress.global_step == 2
    assert made.requests.interrupted


class ClaimsOne:
    """An iterable of two batches that says it has one."""

    def __iter__(self):
        return iter([split_of(1, 2), split_of(3, 4)])

    def __len__(self):
        return 1


def test_a_batch_that_was_read_before_the_run_was_stopped_is_still_left():
    made = Made(data=DataModule(ClaimsOne()), hook={"at": 1, "end": save})
    made.on_save = lambda: made.progress.global_step == 1 and made.requests.interrupt(15)
    assert not made.loop.run()


@pytest.mark.parametrize(
    ("max_steps", "is_whole", "steps"), [(4, False, 4), (6, True, 6), (9, True, 6)]
)
def test_max_steps_ends_the_epoch_where_it_is(max_steps, is_whole, steps):
    made = Made(max_steps=max_steps)
    assert made.loop.run() is is_whole
    assert made.progress.global_step == steps
    assert made.loop.is_stopping is (max_steps <= 6)


def test_a_run_that_is_stopping_already_takes_no_step():
    made = Made()
    made.requests.interrupt(2)
    assert not made.loop.run()
    assert made.trained == []


def test_every_batch_is_checked_before_it_is_sent():
    def check(loader, batch):
        if 7 in batch["index"]:
            raise ValueError("a label of 7")

    made = Made(check=check, steps_per_execution=1)
    with pytest.raises(ValueError, match="a label of 7"):
        made.loop.run()
    assert [7] not in made.trained
    order = [batch["index"].tolist() for batch in made.data.train.batches()]
    number = next(n for n, index in enumerate(order) if 7 in index)
    assert made.trained == order[:number]


def test_data_on_the_device_are_sent_as_indices_and_completed_for_hooks():
    made = Made(hook={"every_n_steps": 2})
    made.dispatcher.data = {"image": np.zeros(12)}
    made.loop.run()
    assert all(batch.keys() == {"index", "mask"} for batch in made.sent)
    expected = list(made.data.train.batches())[1::2]
    for batch, whole in zip(made.shown, expected, strict=True):
        assert not dict.__contains__(batch, "image")  # no hook has accessed it so far
        for name, values in whole.items():
            np.testing.assert_array_equal(batch[name], values)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_train_split_goes_to_the_device_if_it_stays_there(keeps):
    data = DataModule(split_of(*range(4)), batch_size=2, keep_on_device=keeps)
    made = Made(data=data)
    made.loop.take_data()
    assert sorted(made.data_on_device) == (["image", "label"] if keeps else [])
    fields = {} if keeps else {"image": (2, 1), "label": (2,)}
    assert made.compiled == ({"index": (2,), "mask": (2,)} | fields, 3)


def test_an_iterable_is_at_its_end_when_it_gives_no_more():
    made = Made(data=DataModule([split_of(1, 2), split_of(3, 4), split_of(5)]))
    assert made.loop.run()
    assert made.progress.num_examples == 5
    assert made.calls == ["check", "step 1 2", "check", "step 3"]


def test_a_stopped_iterable_is_whole_if_nothing_is_left():
    batches = [split_of(1, 2), split_of(3, 4)]
    assert Made(data=DataModule(batches), max_steps=2).loop.run()
    assert not Made(data=DataModule(batches), max_steps=1).loop.run()


def batches_that_end(ended):
    try:
        for number in range(8):
            yield split_of(number)
    finally:
        ended.append(True)


def test_the_iterator_of_an_epoch_that_is_stopped_ends_before_the_validation():
    ended = []

    class Batches:
        def __iter__(self):
            return batches_that_end(ended)

    made = Made(data=DataModule(Batches()), hook={"at": 2, "end": stop})
    ended.clear()  # the first batch was read to learn its shape
    assert not made.loop.run()
    assert ended == [True]
