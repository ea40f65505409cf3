"""Convolutions followed by BatchNorm, ReLU and max-pool, faster in training than single layers.

In training, BatchNorm subtracts the mean of each channel, and with it the bias of the convolution
before it. A train step therefore leaves out this bias: its gradient, a sum over all pixels that is
0 up to rounding, is then exactly 0. The running mean includes the bias, and evaluation adds it, as
usual.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from nnx_alexnet.models import norms, pools

if TYPE_CHECKING:
    from jax.typing import DTypeLike

# Flax's default of 0.99 is for long runs: after 100 steps, the initial values (0 and 1) still make
# up 37 % of its running statistics, and evaluation looks broken. With 0.9 they make up 0.003 %.
_MOMENTUM = 0.9

_Layer = Callable[..., jax.Array]


class Conv(nnx.Conv):
    """A convolution of `[B, H, W, C]` that can leave out its bias, unless `has_options`."""

    @property
    def has_options(self) -> bool:
        """Whether it has options that a convolution without a bias would ignore."""
        dilations = (self.kernel_dilation, self.input_dilation)
        return (
            any(each not in (None, 1, (1, 1)) for each in dilations)
            or self.padding not in ("SAME", "VALID")
            or (self.feature_group_count, self.mask, self.precision) != (1, None, None)
        )

    def __call__(  # type: ignore[override]  # other arguments
        self, inputs: jax.Array, *, add_bias: bool = True
    ) -> jax.Array:
        """Returns the convolved images, with or without the bias."""
        if add_bias:
            with_bias: jax.Array = super().__call__(inputs)
            return with_bias
        assert self.bias is not None, "Conv has a bias"
        image, kernel = self.promote_dtype((inputs, self.kernel[...]), dtype=self.dtype)
        strides = (self.strides,) * 2 if isinstance(self.strides, int) else self.strides
        numbers = ("NHWC", "HWIO", "NHWC")
        outputs: jax.Array = self.conv_general_dilated(
            image, kernel, strides, self.padding, dimension_numbers=numbers
        )
        if jax.default_backend() == "cpu":
            return _with_summed_gradient(outputs, self.bias[...])
        return outputs


@jax.custom_vjp
def _with_summed_gradient(outputs: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `outputs`; the gradient of `bias` is that of `outputs`, summed and multiplied by 0.

    Without this sum, only the convolution's own gradients would read the gradient of `outputs`. XLA
    for CPUs would then compute it pixel by pixel inside a transposition, and a train step would
    take 15% longer (measurements are in tests/benchmarks/README.md).
    """
    del bias
    return outputs


def _summed_forward(outputs: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return outputs, jnp.zeros_like(bias)


def _summed_backward(zero: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, zero * gradient.sum((0, 1, 2), dtype=zero.dtype)


_with_summed_gradient.defvjp(_summed_forward, _summed_backward)


class BatchNorm(nnx.BatchNorm):
    """BatchNorm that computes in float32 and returns the dtype of its input.

    Flax's BatchNorm also computes in float32, but promotes a bfloat16 input implicitly, which is
    an error with `jax_numpy_dtype_promotion=strict`.

    Args:
        num_features: the number of channels.
        param_dtype: the dtype in which scale and bias are stored.
        metadata: of scale, bias and the running statistics, such as their sharding (default none).
        rngs: random keys, which the constant initial values do not use.
    """

    def __init__(
        self,
        num_features: int,
        *,
        param_dtype: "DTypeLike" = "float32",
        metadata: Mapping[str, Any] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        metadata = metadata or {}
        super().__init__(
            num_features,
            momentum=_MOMENTUM,
            dtype=jnp.float32,
            param_dtype=param_dtype,
            scale_metadata=metadata,
            bias_metadata=metadata,
            rngs=rngs,
        )
        for statistic in (self.mean, self.var) if metadata else ():
            statistic.set_metadata(**metadata)

    def __call__(  # type: ignore[override]  # other arguments
        self, x: jax.Array, *, left_out: jax.Array | None = None
    ) -> jax.Array:
        """Returns the normalised `x` in its own dtype; in training, updates the statistics.

        Args:
            x: `[..., C]`.
            left_out: `[C]`, a bias that `x` lacks and the running mean includes (default None).
        """
        normalised: jax.Array = super().__call__(x)
        if left_out is not None:
            bias = lax.stop_gradient(left_out).astype(self.mean.dtype)
            self.mean[...] += (1 - self.momentum) * bias
        return normalised.astype(x.dtype)


def _in_training(norm: _Layer) -> bool:
    return isinstance(norm, BatchNorm) and not norm.use_running_average


def _leaves_out_bias(conv: _Layer, norm: _Layer) -> bool:
    return isinstance(conv, Conv) and not conv.has_options and _in_training(norm)


def _conv_norm(conv: Any, norm: _Layer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `conv(x)`, in training without its bias, and `norm(conv(x))`.

    In training, callers use the latter only for its statistics: XLA removes the unused operations,
    and computes the statistics once.
    """
    if not _leaves_out_bias(conv, norm):
        x = conv(x)
        return x, norm(x)
    x = conv(x, add_bias=False)
    return x, norm(x, left_out=conv.bias[...])


def conv_norm_relu(conv: _Layer, norm: Any, x: jax.Array) -> jax.Array:
    """Returns `relu(norm(conv(x)))`; in training, the convolution's bias has a gradient of 0.

    Args:
        conv: a `Conv`. Other layers keep their bias.
        norm: a `BatchNorm` in training. Before other layers, and before a frozen one, the
            convolution keeps its bias.
        x: `[B, H, W, C]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from nnx_alexnet.models.conv_norm import BatchNorm, Conv, conv_norm_relu
        >>> conv = Conv(1, 1, (1, 1), bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
        >>> norm = BatchNorm(1, rngs=nnx.Rngs(0))
        >>> conv_norm_relu(conv, norm, jnp.zeros((1, 2, 2, 1))).ravel()
        Array([0., 0., 0., 0.], dtype=float32)
        >>> f"{norm.mean[0]:.2f}"  # a tenth of the bias
        '0.10'
    """
    x, normalised = _conv_norm(conv, norm, x)
    if not _in_training(norm):
        return nnx.relu(normalised)
    return norms.norm_relu(x, *_scale_and_bias(norm), norm.epsilon)


def conv_norm_relu_max_pool(conv: _Layer, norm: Any, x: jax.Array) -> jax.Array:
    """Returns `max_pool(relu(norm(conv(x))))`; see `conv_norm_relu`."""
    x, normalised = _conv_norm(conv, norm, x)
    if not _in_training(norm):
        return pools.max_pool(nnx.relu(normalised))
    return norms.norm_relu_max_pool(x, *_scale_and_bias(norm), norm.epsilon)


def _scale_and_bias(norm: Any) -> tuple[jax.Array, jax.Array]:
    return norm.scale[...].astype(jnp.float32), norm.bias[...].astype(jnp.float32)
