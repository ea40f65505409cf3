import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ALEXNET_LAYERS, alexnet_shapes, tree_equal
from jsonargparse import ArgumentParser

from nnx_alexnet import Callback, DataModule, Trainer
from nnx_alexnet.models import AlexNet, alexnet


def count(module: nnx.Module, kind: type) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, kind)))


def output_shapes(model: AlexNet, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Runs the model on shapes, and returns what each of its layers returned."""
    shapes = {}

    class Recorded:
        def __init__(self, name, layer):
            self.name, self.layer = name, layer

        def __call__(self, inputs):
            outputs = self.layer(inputs)
            shapes[self.name] = outputs.shape
            return outputs

        def __getattr__(self, name):
            return getattr(self.layer, name)

    def forward(model, image):
        for name, layer in list(vars(model).items()):
            if isinstance(layer, nnx.Module):
                object.__setattr__(model, name, Recorded(name, layer))
        return AlexNet.__call__(model, image)

    abstract = jax.ShapeDtypeStruct(shape, jnp.float32)
    graphdef, state = nnx.split(model)
    jax.eval_shape(lambda state, image: forward(nnx.merge(graphdef, state), image), state, abstract)
    return shapes


pytestmark = pytest.mark.usefixtures("strict_dtype_promotion")

forward = nnx.jit(lambda model, image: model(image))


def test_one_program_draws_all_weights():
    def build(key):
        return nnx.state(AlexNet(5, image_size=67, in_channels=1, rngs=nnx.Rngs(key)))

    (program,) = jax.make_jaxpr(build)(jax.random.key(0)).eqns
    assert program.params["name"] == "_build"


@pytest.fixture(scope="module")
def built():
    return AlexNet(num_classes=5, image_size=67, in_channels=1, rngs=nnx.Rngs(0))


@pytest.fixture
def model(built):
    return nnx.clone(built)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (3, 67, 67, 1))


def test_every_layer_has_the_outputs_and_sizes_of_the_contract():
    model = alexnet_shapes(num_classes=10, image_size=96, in_channels=1)
    shapes = output_shapes(model, (10, 96, 96, 1))
    rows = [
        (
            name,
            shapes[name],
            count(getattr(model, name), nnx.Param),
            count(getattr(model, name), nnx.BatchStat),
        )
        for name in shapes
    ]
    assert rows == ALEXNET_LAYERS


def test_the_totals_are_those_of_the_contract():
    model = alexnet_shapes(num_classes=10, image_size=96, in_channels=1)
    assert count(model, nnx.Param) == 21_601_674
    assert count(model, nnx.BatchStat) == 2_752


def test_the_defaults_are_imagenet_and_dense1_reads_9216_features():
    model = alexnet_shapes()
    assert model.dense1.kernel.shape == (9216, 4096)
    assert output_shapes(model, (2, 227, 227, 3))["dense3"] == (2, 1000)


def test_the_smallest_image_size_leaves_one_pixel():
    def last_pool(image):
        kernel = jnp.zeros((11, 11, 1, 1))
        x = jax.lax.conv_general_dilated(
            image, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        for _ in range(3):
            x = nnx.max_pool(x, (3, 3), strides=(2, 2))
        return x

    def pixels(size):
        try:
            return jax.eval_shape(
                last_pool, jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
            ).size
        except (ValueError, TypeError):  # the window is larger than its input
            return 0

    smallest = next(size for size in range(1, 200) if pixels(size))
    for size in range(smallest):
        with pytest.raises(ValueError, match=rf"`image_size` \(={size}\).* {smallest}\."):
            alexnet_shapes(image_size=size)
    for size in (smallest, smallest + 1, smallest + 31, smallest + 32):
        model = alexnet_shapes(image_size=size, num_classes=2)
        assert output_shapes(model, (1, size, size, 3))["dense3"] == (1, 2)


@pytest.mark.parametrize("dtype", [None, "bfloat16", jnp.bfloat16, jnp.dtype("float16")])
def test_dtype_is_the_compute_dtype_and_parameters_stay_float32(image, dtype):
    @nnx.value_and_grad(has_aux=True)
    def loss(model, image):
        logits = model(image)
        return logits.astype(jnp.float32).mean(), logits

    def step(image):
        model = AlexNet(5, image_size=67, in_channels=1, dtype=dtype, rngs=nnx.Rngs(0))
        (_, logits), gradients = loss(model, image)
        return logits, gradients, nnx.state(model, nnx.BatchStat)

    logits, gradients, statistics = jax.eval_shape(step, image)
    assert logits.shape == (3, 5)
    assert logits.dtype == jnp.dtype(dtype or "float32")
    leaves = jax.tree.leaves((gradients, statistics))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_bfloat16_logits_are_near_those_of_float32(model, image):
    low = alexnet_shapes(num_classes=5, image_size=67, in_channels=1, dtype="bfloat16")
    nnx.update(low, nnx.state(model))
    for each in (model, low):
        each.eval()
    expected, got = forward(model, image), forward(low, image)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.05 * jnp.std(expected) * 3)


def test_param_dtype_is_the_dtype_of_the_parameters():
    model = alexnet_shapes(param_dtype="bfloat16")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}
    assert dtypes == {jnp.dtype("bfloat16")}


def test_training_updates_the_statistics_by_a_tenth(model, image):
    before = model.conv1(image)
    forward(model, image)
    np.testing.assert_allclose(
        model.bn1.mean[...], 0.1 * before.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        model.bn1.var[...], 0.9 + 0.1 * before.var(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6
    )


def test_evaluation_changes_nothing_and_repeats(model, image):
    model.eval()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    assert jnp.array_equal(forward(model, image), forward(model, image))
    assert tree_equal(before, nnx.state(model))


def test_evaluation_uses_the_running_statistics(model, image):
    model.eval()
    first = forward(model, image)
    # one image alone gives what it gives in a batch, which batch statistics would not
    np.testing.assert_allclose(forward(model, image[:1]), first[:1], rtol=1e-3, atol=1e-4)
    model.bn5.mean[...] += 1.0
    assert not jnp.allclose(forward(model, image), first, atol=1e-2)


def test_training_uses_the_statistics_of_the_batch(model, image):
    for dropout in (model.dropout1, model.dropout2):
        dropout.deterministic = True
    first = forward(model, image)
    model.bn5.mean[...] += 1.0
    np.testing.assert_allclose(forward(model, image), first, rtol=1e-4, atol=1e-5)
    assert not jnp.allclose(forward(model, image[:2]), first[:2], atol=1e-2)


def test_dropout_differs_between_calls_in_training(model, image):
    assert not jnp.allclose(forward(model, image), forward(model, image), atol=1e-3)
    model.eval()
    model.train()
    assert not jnp.allclose(forward(model, image), forward(model, image), atol=1e-3)


def test_the_seed_determines_the_weights():
    @jax.jit  # computes no other layer's weights
    def weights(key):
        return AlexNet(2, image_size=67, in_channels=1, rngs=nnx.Rngs(key)).conv1.kernel[...]

    first = weights(jax.random.key(0))
    assert jnp.array_equal(first, weights(jax.random.key(0)))
    assert not jnp.allclose(first, weights(jax.random.key(1)))


@pytest.mark.parametrize(
    "name", [name for name, *_ in ALEXNET_LAYERS if name[:4] in ("conv", "dens")]
)
def test_initial_weights_keep_the_variance(built, name):
    kernel = getattr(built, name).kernel[...]
    fan_in = kernel.size // kernel.shape[-1]
    gain = 1.0 if name == "dense3" else 2.0  # LeCun for the logits, He before a ReLU
    np.testing.assert_allclose(kernel.std(), (gain / fan_in) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(kernel.mean(), 0.0, atol=0.03 * (gain / fan_in) ** 0.5)
    assert not getattr(built, name).bias[...].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be an integer of at least 1"),
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be an integer of at least 1\. 1 is for"),
        ({"dropout_rate": 1.0}, r"`dropout_rate` \(=1.0\) must be in \[0, 1\)"),
        ({"dropout_rate": -0.1}, r"`dropout_rate` \(=-0.1\) must be in \[0, 1\)"),
        ({"dropout_rate": float("nan")}, r"`dropout_rate` \(=nan\) must be in \[0, 1\)"),
        ({"dtype": "bfloat61"}, r"`dtype` \(='bfloat61'\) must be a floating-point dtype"),
        ({"dtype": jnp.int32}, "`dtype` .* must be a floating-point dtype"),
        ({"param_dtype": "int8"}, r"`param_dtype` \(='int8'\) must be a floating-point dtype"),
        ({"param_dtype": None}, r"`param_dtype` \(=None\) must be a floating-point dtype"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        alexnet_shapes(**arguments)


@pytest.mark.parametrize(
    "shape", [(67, 67, 1), (2, 67, 67), (2, 96, 96, 1), (2, 67, 66, 1), (2, 67, 67, 3), (1,), ()]
)
def test_images_of_another_shape_are_refused(built, shape):
    expected = r"`image` has shape \({}\); .* \(batch, 67, 67, 1\)"
    got = str(shape)[1:-1]
    with pytest.raises(ValueError, match=expected.format(got)):
        built(jnp.zeros(shape))


def test_the_command_line_parses_every_argument():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AlexNet, "model", skip={"rngs"})
    for words in ([], ["--model.dtype=bfloat16", "--model.param_dtype=bfloat16"]):
        config = parser.parse_args(words)
        assert parser.parse_string(parser.dump(config)) == config
    model = alexnet_shapes(**config.model.as_dict())
    assert model.conv1.dtype == jnp.bfloat16


class ShardSizes(Callback):
    """Notes how many numbers of the two large kernels are on the first device."""

    def on_predict_batch_end(self, trainer, outputs, batch, batch_index):
        kernels = [trainer.parameters()[f"dense{number}/kernel"] for number in (1, 2)]
        self.seen = [kernel.addressable_shards[0].data.size for kernel in kernels]


def test_split_over_two_devices_it_predicts_as_on_one(monkeypatch):
    monkeypatch.setattr(alexnet, "_NUM_HIDDEN", 512)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 67, 67, 1), dtype=np.uint8)
    split = (images, np.arange(4, dtype=np.int32) % 2)
    data = DataModule(split, split, batch_size=4)
    found = {}
    for name, where in (("one", {"devices": 1}), ("two", {"devices": {"data": 1, "model": 2}})):
        model = AlexNet(2, image_size=67, in_channels=1, rngs=nnx.Rngs(0))
        sizes = ShardSizes()
        options = {"log_dir": None, "progress_bar": False, "callbacks": sizes}
        found[name] = Trainer(model, data, **options, **where).predict(images)
        halves = 1 if name == "one" else 2
        assert sizes.seen == [256 * 512 / halves, 512**2 / halves]
    np.testing.assert_allclose(found["two"], found["one"], rtol=1e-5, atol=1e-6)
