import contextlib
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from helpers import ALEXNET_LAYERS, TinyNet, alexnet_shapes, tree_equal

from nnx_alexnet.models.summary import layer_table, record_calls, recorded_calls, summarize


@pytest.fixture(scope="module")
def text():
    return summarize(alexnet_shapes(num_classes=10, image_size=96, in_channels=1), (10, 96, 96, 1))


def row(text: str, name: str) -> list[str]:
    """The cells of one layer's row; two spaces or more stand between them."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
    return re.split(r" {2,}", line)


@pytest.mark.parametrize(("name", "outputs", "parameters", "statistics"), ALEXNET_LAYERS)
def test_each_layer_has_its_outputs_and_counts(text, name, outputs, parameters, statistics):
    cells = row(text, name)
    assert cells[3] == f"float32[{','.join(map(str, outputs))}]"
    counts = [cell.split(" (")[0] for cell in cells[4:]]
    assert counts == [f"{number:,}" for number in (parameters, statistics) if number]


def test_dense1_has_the_features_of_the_last_pool(text):
    assert row(text, "dense1")[2] == "float32[10,256]"


def test_the_totals_are_those_of_the_contract(text):
    assert text.splitlines()[-1] == (
        "Total: 21,601,674 parameters (86.4 MB) and 2,752 batch statistics (11.0 KB), "
        "21,604,426 in all (86.4 MB)."
    )


def test_the_text_has_at_most_120_columns_and_whole_cells(text):
    assert text.isascii()
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}
    assert max(map(len, text.splitlines())) <= 120
    assert text == "\n".join(line.rstrip() for line in text.splitlines())
    assert "RngState" not in text
    assert "sharding" not in text


def test_a_narrow_table_has_whole_cells_without_dtypes_and_bytes():
    narrow = summarize(
        alexnet_shapes(num_classes=10, image_size=96, in_channels=1), (10, 96, 96, 1), width=80
    )
    lines = narrow.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 1 + len(ALEXNET_LAYERS) + 2  # the totals need two lines
    assert row(narrow, "bn2") == [
        "bn2", "BatchNorm", "[10,10,10,256]", "[10,10,10,256]", "512", "512",
    ]  # fmt: skip
    numbers = {len(line) for line in lines[:-2] if "BatchNorm" in line or "statistics" in line}
    assert len(numbers) == 1  # aligned to the right


def test_names_that_are_too_long_are_folded():
    class WithAVeryLongNameThatDoesNotFitInOneLineOfTheTable(nnx.Linear):
        pass

    model = WithAVeryLongNameThatDoesNotFitInOneLineOfTheTable(3, 2, rngs=nnx.Rngs(0))
    assert max(map(len, summarize(model, (5, 3), width=60).splitlines())) <= 60


def test_the_summary_does_not_depend_on_the_mode():
    model = TinyNet(3, rngs=nnx.Rngs(0))
    first = summarize(model, (2, 8, 8, 1))
    model.eval()
    assert summarize(model, (2, 8, 8, 1)) == first


def test_the_model_is_not_changed():
    model = TinyNet(3, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    before = jax.tree.map(jnp.copy, state)
    summarize(model, (2, 8, 8, 1))
    after_graphdef, after = nnx.split(model)
    assert tree_equal(before, after)
    assert graphdef == after_graphdef
    assert model(jnp.zeros((2, 8, 8, 1))).shape == (2, 3)
    assert model.dropout.rngs is not None


def test_the_model_works_after_a_refused_batch():
    model = TinyNet(3, rngs=nnx.Rngs(0))
    with pytest.raises((TypeError, ValueError)):
        summarize(model, (2, 8, 8, 5))
    assert model(jnp.zeros((2, 8, 8, 1))).shape == (2, 3)
    assert "8 parameters" not in summarize(model, (2, 8, 8, 1))


def test_a_nested_model_with_random_numbers_is_listed():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.tiny = TinyNet(3, rngs=rngs)
            self.rngs = rngs.fork()

        def __call__(self, image):
            return self.tiny(image) + jax.random.normal(self.rngs.params(), (3,))

    text = summarize(Noisy(nnx.Rngs(0)), (2, 8, 8, 1))
    assert "tiny/bn" in text
    # conv 80, BatchNorm 16, dense 27; keys are neither
    assert (
        "Total: 123 parameters (492 B) and 16 batch statistics (64 B), 139 in all (556 B)." in text
    )


@pytest.mark.parametrize(
    "shape", [(), (0, 8, 8, 1), (2, -8, 8, 1), (2.0, 8, 8, 1), "2881", 5, None]
)
def test_an_invalid_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"`input_shape` .* positive integers, the batch first"):
        summarize(TinyNet(3, rngs=nnx.Rngs(0)), shape)


def test_a_small_width_is_refused():
    with pytest.raises(ValueError, match=r"`width` \(=20\) must be at least 60"):
        summarize(TinyNet(3, rngs=nnx.Rngs(0)), (2, 8, 8, 1), width=20)


class Odd(nnx.Module):
    """Methods of other kinds, a recurrent cell inside a scan, a layer that is never called."""

    def __init__(self, rngs):
        self.recurrent = nnx.RNN(nnx.LSTMCell(1, 8, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)
        self.unused = nnx.Linear(3, 5, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(3))

    def num_layers(self):
        return 3

    def layers(self):
        yield self.out

    @staticmethod
    def squeezed(x):
        return x[:, -1]

    def __call__(self, x):
        assert self.num_layers() == 3
        (out,) = self.layers()
        return out(self.squeezed(self.recurrent(x[..., None])))


def test_arrays_belong_to_one_layer_and_uncalled_layers_have_no_shapes():
    text = summarize(Odd(nnx.Rngs(0)), (5, 4), width=200)
    assert row(text, "(model)")[1:] == ["Odd", "float32[5,4]", "float32[5,2]", "3 (12 B)"]
    assert row(text, "recurrent")[1:] == ["RNN", "float32[5,4,1]", "float32[5,4,8]"]
    assert row(text, "recurrent/cell/hi")[1:] == [
        "Linear", "float32[5,8]", "float32[5,8]", "72 (288 B)"
    ]  # fmt: skip
    assert row(text, "unused")[1:] == ["Linear", "20 (80 B)"]
    assert text.splitlines()[-1].startswith("Total: 361 parameters")


@pytest.mark.parametrize("fails", [False, True])
def test_no_class_is_changed(fails):
    class Fails(Odd):
        def __call__(self, x):
            super().__call__(x)
            raise RuntimeError("on purpose")

    classes = [Odd, Fails, nnx.RNN, nnx.LSTMCell, nnx.Linear]
    before = [dict(vars(each)) for each in classes]
    model = (Fails if fails else Odd)(nnx.Rngs(0))
    with contextlib.suppress(RuntimeError):
        summarize(model, (5, 4))
    assert [dict(vars(each)) for each in classes] == before
    assert type(model) is (Fails if fails else Odd)
    assert type(model.out) is nnx.Linear
    assert nnx.Linear(4, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 4))).shape == (1, 2)


def test_a_mode_argument_is_set_to_evaluation():
    class Told(nnx.Module):
        def __init__(self, rngs):
            self.bn = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x, train):
            assert not train
            return self.bn(x, use_running_average=not train)

    text = summarize(Told(nnx.Rngs(0)), (5, 4))
    assert row(text, "bn")[4:] == ["8 (32 B)", "8 (32 B)"]


# ---- Other calls than model(inputs) --------------------------------------------------------------


class TwoInputs(nnx.Module):
    """Takes a dict and random numbers, and has layers in a dict and in a list."""

    def __init__(self, rngs):
        self.parts = nnx.Dict(a=nnx.Linear(3, 2, rngs=rngs), b=nnx.Linear(5, 2, rngs=rngs))
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs)])

    def __call__(self, inputs, *, rngs=None):
        assert [*self.parts] == ["a", "b"]
        (layer,) = self.layers
        return {"sum": layer(sum(part(inputs[name]) for name, part in self.parts.items()))}


def recorded(model, *arguments, **named):
    definition, state = nnx.split(model)

    def forward(state, *inputs):
        copy = nnx.merge(definition, state)
        record_calls(copy)
        return copy(*inputs, **named)

    with recorded_calls() as calls:
        jax.eval_shape(forward, state, *arguments)
    return calls


def test_calls_of_any_kind_are_recorded():
    model = TwoInputs(nnx.Rngs(0))
    calls = recorded(model, {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 5))}, rngs=nnx.Rngs(0))
    assert calls == {
        "": ("float32[4,3], float32[4,5]", "float32[4,2]"),
        "parts/a": ("float32[4,3]", "float32[4,2]"),
        "parts/b": ("float32[4,5]", "float32[4,2]"),
        "layers/0": ("float32[4,2]", "float32[4,2]"),
    }
    text = layer_table(model, calls)
    assert row(text, "parts/b") == [
        "parts/b", "Linear", "float32[4,5]", "float32[4,2]", "12 (48 B)"
    ]  # fmt: skip
    assert text.endswith(
        "Total: 26 parameters (104 B) and 0 batch statistics (0 B), 26 in all (104 B)."
    )


def test_nothing_is_recorded_outside_of_the_block():
    model = TinyNet(3, rngs=nnx.Rngs(0))
    record_calls(model)
    assert type(model) is TinyNet


def test_a_compiled_layer_is_recorded_each_time():
    class Compiled(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        @nnx.jit
        def __call__(self, x):
            return self.layer(x)

    model = Compiled()
    first, second = (recorded(model, jnp.ones((4, 3))) for _ in range(2))
    assert first == second
    assert first["layer"] == ("float32[4,3]", "float32[4,2]")


def test_what_cannot_be_recorded_does_not_end_the_call():
    class Odd(nnx.Module):
        def __init_subclass__(cls, **arguments):
            raise TypeError("no subclasses")

        def __call__(self, x):
            return x["a"]

    class Outer(nnx.Module):
        def __init__(self):
            self.odd = Odd()

        def __call__(self, x):
            return self.odd({"a": x, 1: x})  # keys that cannot be sorted

    assert recorded(Outer(), jnp.ones(3)) == {"": ("float32[3]", "float32[3]")}

    class Unsorted(Outer):
        def __init__(self):
            pass

        def __call__(self, x):
            return {"a": x, 1: x}

    with pytest.raises((TypeError, ValueError)):  # JAX itself refuses the result
        recorded(Unsorted(), jnp.ones(3))


def test_a_linen_module_is_listed_by_its_own_type():
    model = nnx.bridge.ToNNX(linen.Dense(2), rngs=nnx.Rngs(0)).lazy_init(jnp.ones((1, 3)))
    assert row(summarize(model, (4, 3)), "(model)")[1:] == [
        "Dense", "float32[4,3]", "float32[4,2]", "8 (32 B)"
    ]  # fmt: skip
