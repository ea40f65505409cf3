"""Which differences between two runs are found, refused and accepted."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import trainer_of

from nnx_alexnet import Classification, DataModule, Task
from nnx_alexnet.callbacks import TensorBoard
from nnx_alexnet.checkpoints import identity
from nnx_alexnet.checkpoints.same_run import Difference, check_same, compare, differences
from nnx_alexnet.data import ImageTransform
from nnx_alexnet.training.tracing import fingerprints

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4, 4, 1)).astype(np.float32)
Y = (X[:, 0, 0, 0] > 0).astype(np.int32)


class Net(nnx.Module):
    def __init__(self, activation=nnx.relu, scale=1.0):
        rngs = nnx.Rngs(0)
        self.hidden, self.head = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
        self.activation = activation
        self._scale = scale  # a constant that no public attribute reveals

    def __call__(self, x):
        hidden = self.activation(self.hidden(x.reshape(len(x), -1)))
        return self.head(hidden * self._scale)


class Scaled(Task):
    """A loss with a factor hidden in a closure."""

    def __init__(self, factor=1.0):
        self._loss = lambda z, y: factor * optax.softmax_cross_entropy_with_integer_labels(z, y)

    def outputs(self, model, batch):
        return {"loss": self._loss(model(batch["image"]), batch["label"])}


def net_trainer(logs, *, epochs=1, x=X, y=Y, model=Net, batch_size=16, transform=None, **arguments):
    data = DataModule((x, y), (x, y), batch_size=batch_size, transform=transform)
    quiet = TensorBoard(
        images=False, histograms=False, texts=False
    )  # images and histograms take most of the time
    defaults = {"optimizer": optax.sgd(0.1), "log_dir": logs, "name": "run", "max_epochs": epochs}
    defaults["callbacks"] = [] if logs is None else [quiet]
    return trainer_of(model(), data, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def saved_logs(tmp_path_factory):
    """The folder of a finished run of one epoch."""
    logs = tmp_path_factory.mktemp("saved")
    net_trainer(logs).fit()
    return logs


def schedule(steps):
    return optax.sgd(optax.cosine_decay_schedule(0.1, steps))


CHANGES = {
    "rate": ({"optimizer": optax.sgd(0.001)}, "optimizer_constants: saved [-0.1], now [-0.001]"),
    "optimizer": ({"optimizer": optax.sign_sgd(0.1)}, "programs.optimizer"),
    "clipping": (
        {"optimizer": optax.chain(optax.clip(1e-4), optax.sgd(0.1))},
        "optimizer_constants: saved [-0.1], now [-0.1, -0.0001, 0.0001]",
    ),
    "schedule": ({"optimizer": schedule(200)}, "200.0"),
    "activation": ({"model": lambda: Net(nnx.gelu)}, "programs.evaluation"),
    "constant": ({"model": lambda: Net(scale=2.0)}, "programs.evaluation"),
    "loss": ({"task": Classification(label_smoothing=0.1)}, "task.label_smoothing: saved 0.0, now"),
    "one pixel": ({"x": np.where(np.arange(X.size).reshape(X.shape) == 5, 9, X)}, "samples.train"),
    "labels": ({"y": 1 - Y}, "data.labels"),
    "augmentation": ({"transform": ImageTransform(flip=True)}, "data.transform.flip: saved False"),
    "seed": ({"seed": 1}, "seed: saved 0, now 1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_refused_with_what_differs(saved_logs, change):
    arguments, named = CHANGES[change]
    before = sorted(path.name for path in saved_logs.rglob("*"))
    with pytest.raises(ValueError, match="which is another run") as raised:
        net_trainer(saved_logs, epochs=2, **arguments).fit(resume="auto")
    assert named in str(raised.value)
    assert sorted(path.name for path in saved_logs.rglob("*")) == before


class WithConstants(Net):
    """A net with two arrays that training does not change, and a counter."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale = np.full(3, scale, np.float32)
        self.shift = nnx.Variable(jnp.float32(shift))
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, image):
        self.calls[...] += 1
        return super().__call__(image) * self.scale[0] + self.shift[...]


def test_constants_of_a_model_are_compared_by_value(tmp_path):
    net_trainer(tmp_path, model=WithConstants).fit()
    for name, arguments in (("scale", {"scale": 2.0}), ("shift", {"shift": 3.0})):
        other = net_trainer(tmp_path, epochs=2, model=functools.partial(WithConstants, **arguments))
        with pytest.raises(ValueError, match=rf"\n  constants.model/{name}: saved \w{{16}}, now"):
            other.fit(resume="auto")
    trainer = net_trainer(tmp_path, epochs=2, model=functools.partial(WithConstants, shift=3.0))
    trainer.fit(resume="auto", accept="constants")
    assert float(trainer.model.shift[...]) == 3.0
    assert int(trainer.model.calls[...]) == trainer.global_step > 0


def test_a_factor_hidden_in_the_loss_is_found(tmp_path):
    net_trainer(tmp_path, task=Scaled()).fit()
    with pytest.raises(ValueError, match=r"programs.evaluation: saved \w{16}, now \w{16}"):
        net_trainer(tmp_path, epochs=2, task=Scaled(2.0)).fit(resume="auto")
    net_trainer(tmp_path, epochs=2, task=Scaled()).fit(resume="auto")


@pytest.mark.parametrize(
    ("setting", "context"),
    [
        ("jax_default_matmul_precision", lambda: jax.default_matmul_precision("highest")),
        ("jax_threefry_partitionable", lambda: jax.threefry_partitionable(False)),
        ("jax_default_prng_impl", lambda: jax.default_prng_impl("rbg")),
    ],
)
def test_another_setting_of_jax_is_refused(saved_logs, setting, context):
    with context(), pytest.raises(ValueError, match=rf"jax\.{setting}: saved .*, now "):
        net_trainer(saved_logs, epochs=2).fit(resume="auto")


def test_another_version_is_refused_and_can_be_accepted_by_name(tmp_path, monkeypatch, caplog):
    net_trainer(tmp_path).fit()
    now = identity._version
    monkeypatch.setattr(
        identity, "_version", lambda package: "0.0.1" if package == "optax" else now(package)
    )
    with pytest.raises(
        ValueError, match=r"accept=\['versions'\].*\n.*versions.optax: saved .*0.0.1"
    ):
        net_trainer(tmp_path, epochs=2).fit(resume="auto")
    with caplog.at_level(logging.INFO, logger="nnx_alexnet"):
        history = net_trainer(tmp_path, epochs=2).fit(resume="auto", accept="versions")
    assert [row["epoch"] for row in history] == [0, 1]
    # Another version may trace the same code differently.
    assert "Not compared with the resumed run: what a step computes" in caplog.text


# ---- Accepting --------------------------------------------------------------------------------


def parameters(trainer):
    return np.array(trainer.model.head.kernel[...])


@pytest.mark.parametrize("injected", [False, True])
def test_after_acceptance_the_rate_of_the_code_is_used(tmp_path, injected):
    def optimizer(rate):
        return optax.inject_hyperparams(optax.sgd)(rate) if injected else optax.sgd(rate)

    net_trainer(tmp_path, optimizer=optimizer(0.1)).fit()
    at_rest = net_trainer(tmp_path, epochs=2, optimizer=optimizer(0.0))
    at_rest.fit(resume="auto", accept=["optimizer"])
    assert at_rest.global_step == 8
    expected = net_trainer(None, optimizer=optimizer(0.1))
    expected.fit()
    np.testing.assert_array_equal(parameters(at_rest), parameters(expected))


def test_accepted_differences_become_part_of_the_run(tmp_path):
    net_trainer(tmp_path).fit()
    slower = {"optimizer": optax.sgd(0.01)}
    net_trainer(tmp_path, epochs=2, **slower).fit(resume="auto", accept=["optimizer"])
    net_trainer(tmp_path, epochs=3, **slower).fit(resume="auto")
    with pytest.raises(ValueError, match="another run"):
        net_trainer(tmp_path, epochs=3).fit(resume="auto")


def saved_loop(now, **position):
    return {"identity": now, "step_in_epoch": 0, **position}


IDENTITY = {
    "seed": 0,
    "config": {"optimizer.learning_rate": 0.1, "data.batch_size": 16},
    "data": {"batch_size": 16, "examples.train": 64},
    "samples": {"train": "a", "val": "b"},
    "arrays": {"model/kernel": "float32[2, 3]"},
    "programs": {"optimizer": "c", "evaluation": "d", "train_step": "e"},
    "versions": {"jax": "1"},
    "platform": "cpu",
}


def changed(**sections):
    return IDENTITY | {name: IDENTITY[name] | new for name, new in sections.items()}


@pytest.mark.parametrize(
    ("accept", "is_enough"),
    [
        (["optimizer"], True), (["optimizer.learning_rate"], False), (["programs"], False),
        (["programs", "config"], True), (["optimiz"], False), ([], False),
    ],
)  # fmt: skip
def test_names_are_accepted_whole_or_by_their_beginnings(accept, is_enough):
    now = changed(
        config={"optimizer.learning_rate": 0.2}, programs={"optimizer": "x", "train_step": "y"}
    )
    if is_enough:
        found = check_same(saved_loop(IDENTITY), now, "run", accept)
        names = [each.name for each in found]
        # The difference of the step follows from that of the optimizer.
        assert names == ["config.optimizer.learning_rate", "programs.optimizer"]
    else:
        with pytest.raises(ValueError, match=r"accept=\['optimizer'\]"):
            check_same(saved_loop(IDENTITY), now, "run", accept)


def test_a_name_that_matches_no_difference_is_reported():
    now = changed(data={"batch_size": 8})
    with pytest.raises(ValueError, match=r"\(\['optimizr'\] in `accept` match none of them\)"):
        check_same(saved_loop(IDENTITY), now, "run", ["optimizr"])


def test_arrays_of_another_shape_cannot_be_accepted():
    now = changed(arrays={"model/kernel": "float32[2, 5]"})
    with pytest.raises(ValueError, match=r"cannot make run continue with other arrays: .*\[2, 5\]"):
        check_same(saved_loop(IDENTITY), now, "run", ["arrays"])
    with pytest.raises(ValueError, match="another run") as caught:
        check_same(saved_loop(IDENTITY), now, "run", [])
    assert "Undo them: a run cannot continue with other arrays. Or start" in str(caught.value)


@pytest.mark.parametrize(
    "sections", [{"data": {"batch_size": 8}}, {"data": {"examples.train": 32}}]
)
def test_another_order_of_examples_is_accepted_between_epochs_only(sections):
    check_same(saved_loop(IDENTITY), changed(**sections), "run", ["data"])
    with pytest.raises(ValueError, match="in the middle of an epoch: data"):
        check_same(saved_loop(IDENTITY, step_in_epoch=3), changed(**sections), "run", ["data"])


def test_what_cannot_be_compared_is_reported():
    now = changed(programs={"train_step": "z"}, samples={"train": None, "val": "b"})
    found, notes = compare(IDENTITY, now | {"platform": "gpu"})
    assert found == []
    assert notes == [
        "what a step computes, because it was traced on another kind of device",
        "the examples of `train`, which may differ each time they are read",
    ]


def test_a_step_for_batches_of_another_size_is_not_compared():
    before = changed(programs={"rows": {"train_step": 16}})
    now = changed(programs={"rows": {"train_step": 8}, "train_step": "z", "evaluation": "y"})
    assert compare(before, now) == (
        [], ["the train step and the evaluation, because their batches have another size"],
    )  # fmt: skip
    (found,), _ = compare(before, now | {"programs": now["programs"] | {"optimizer": "x"}})
    assert found.name == "programs.optimizer"


def test_other_examples_differ():
    found, _ = compare(IDENTITY, changed(samples={"val": "c"}))
    assert [str(each) for each in found] == ["samples.val: saved b, now c"]


def test_the_devices_of_a_step_do_not_matter():
    prints = []
    for devices in (1, 2, 8):
        trainer = net_trainer(None, devices=devices)
        trainer.metric_names  # noqa: B018  # traces the steps
        prints.append(fingerprints(*trainer._verbs.preparation.known(is_running=False)))
    assert prints[0] == prints[1] == prints[2]
    assert set(prints[0]) == {"evaluation", "train_step", "rows"}


def test_differences_are_listed_up_to_twelve_and_the_rest_counted():
    found = differences({"data": {str(n): 0 for n in range(14)}}, {"data": {"0": 0}})
    assert found[0] == "data.1: saved 0, now nothing"
    assert len(found) == 13
    assert found[-1] == "and 1 more"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("data.batch_size", "data"), ("programs.optimizer_constants", "optimizer"),
        ("config.optimizer.learning_rate", "optimizer"), ("constants.model/scale", "model"),
        ("versions.jax", "versions"), ("seed", "seed"),
    ],
)  # fmt: skip
def test_the_shortest_name_accepts_a_difference(name, subject):
    difference = Difference(name, 0, 1)
    assert difference.subject == subject
    assert difference.is_accepted([subject])
    assert not difference.is_accepted(["other"])
