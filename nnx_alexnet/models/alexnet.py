"""AlexNet, in one tower and with BatchNorm.

The widths, windows and strides are those of Krizhevsky, Sutskever and Hinton, "ImageNet
Classification with Deep Convolutional Neural Networks" (NeurIPS 2012,
https://papers.nips.cc/paper/4824). What differs from the paper:

- BatchNorm (Ioffe and Szegedy 2015) after every convolution, instead of local response
  normalisation after the first two, and before the ReLU. The convolutions keep their biases, but
  in training BatchNorm subtracts them, so their gradients are exactly 0.
- One tower: the paper splits conv2, conv4 and conv5 in two groups, one for each of its GPUs.
- 227x227 images. The paper says 224, but its own 55x55 first layer without padding needs 227.
- He-normal weights (He et al. 2015, https://arxiv.org/abs/1502.01852) where a ReLU follows, so
  that the layers keep the variance, and LeCun-normal weights for the logits, where none follows;
  the paper draws all weights with a standard deviation of 0.01. Biases start at 0.

The paper's network was split over two GPUs. This one has sharding metadata that split it over the
axis `model` of a device mesh, whose size must divide the widths: the convolutions and BatchNorm by
output channels, dense1 by outputs ("column"), dense2 and dense3 by inputs ("row"; Shoeybi et al.
2019, "Megatron-LM", https://arxiv.org/abs/1909.08053). Without such a mesh the metadata have no
effect.

torchvision's `alexnet` is a different model: it follows a later paper with fewer filters (64, 192,
384, 256, 256), pads conv1, and has no normalisation.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nnx_alexnet.models import convolutions
from nnx_alexnet.models.conv_norm import (
    BatchNorm,
    Conv,
    conv_norm_relu,
    conv_norm_relu_max_pool,
)

if TYPE_CHECKING:
    from jax.typing import DTypeLike
else:
    # The command line is derived from the signatures, and there a dtype is its name.
    DTypeLike = str

# (window, stride) of the layers that make the image smaller: conv1 and the max-pools, all VALID.
_REDUCTIONS = ((11, 4), (3, 2), (3, 2), (3, 2))

_NUM_HIDDEN = 4096  # outputs of dense1 and dense2

# The axis of the trainer's mesh, if it has one. Flax's own eager sharding would need the mesh when
# a variable is created.
_MODEL_AXIS = "model"


def _split(*axes: str | None) -> dict[str, Any]:
    """Returns the metadata of a parameter that is split over the named axes of a mesh."""
    return {"out_sharding": axes, "eager_sharding": False}


def _last_pool_size(image_size: int) -> int:
    """Returns the height and width after the last pool, below 1 if the image is too small."""
    size = image_size
    for window, stride in _REDUCTIONS:
        size = (size - window) // stride + 1
    return size


def _smallest_image_size() -> int:
    """Returns the smallest `image_size` that leaves one pixel after the last pool."""
    size = 1
    for window, stride in reversed(_REDUCTIONS):
        size = (size - 1) * stride + window
    return size


def _check_whole(argument: str, value: object, *, least: int = 1, hint: str = "") -> None:
    """Raises a `ValueError` unless a value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{argument}` (={value!r}) must be an integer of at least {least}.{hint}")


def _floating_dtype(argument: str, value: DTypeLike) -> jnp.dtype:
    """Converts a string, a scalar type or a dtype to a floating-point dtype."""
    try:
        dtype = None if value is None else jnp.dtype(value)  # NumPy reads None as float64
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`{argument}` (={value!r}) must be a floating-point dtype, "
            "for example 'float32' or 'bfloat16'."
        )
    return dtype


class AlexNet(nnx.Module):
    """AlexNet with BatchNorm: five convolutions, three dense layers, 62.4 million parameters.

    A new model is in training mode: BatchNorm uses and updates the statistics of the batch, and
    dropout is on. `model.eval()` switches both, `model.train()` switches back.

    Args:
        num_classes: the number of logits (default 1000, as ImageNet).
        image_size: height and width of the images, at least 67 (default 227).
        in_channels: channels of the images (default 3).
        dropout_rate: the share of dense activations set to zero in training, in [0, 1)
            (default 0.5, as the paper).
        dtype: what the layers compute in and return, such as "bfloat16" or `jnp.bfloat16`
            (default None: the dtype that the images and the parameters promote to).
            BatchNorm computes in float32 in any case.
        param_dtype: what the parameters are stored in (default float32).
        remat: whether a train step computes the convolutional blocks again in the backward pass,
            instead of keeping their activations (default False): less memory, more time (Chen et
            al. 2016, https://arxiv.org/abs/1604.06174).
        rngs: random keys for the weights ("params") and for dropout ("dropout").

    Raises:
        ValueError: an argument is outside its range.
        TypeError: `remat` is not a bool.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from nnx_alexnet.models import AlexNet
        >>> def logits(image):  # only the shapes are computed here
        ...     model = AlexNet(num_classes=10, image_size=96, in_channels=1, rngs=nnx.Rngs(0))
        ...     return model(image)
        >>> jax.eval_shape(logits, jnp.zeros((2, 96, 96, 1)))
        ShapeDtypeStruct(shape=(2, 10), dtype=float32)
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        image_size: int = 227,
        in_channels: int = 3,
        dropout_rate: float = 0.5,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check_whole("num_classes", num_classes)
        _check_whole("in_channels", in_channels, hint=" 1 is for grey images, 3 for colour.")
        reason = " Nothing is left of smaller images after the last pool."
        _check_whole("image_size", image_size, least=_smallest_image_size(), hint=reason)
        if not (isinstance(dropout_rate, int | float | np.floating) and 0.0 <= dropout_rate < 1.0):
            raise ValueError(
                f"`dropout_rate` (={dropout_rate!r}) must be in [0, 1); 0 turns dropout off."
            )
        if not isinstance(remat, bool):
            raise TypeError(f"`remat` (={remat!r}) must be True or False.")
        compute = None if dtype is None else _floating_dtype("dtype", dtype)
        stored = _floating_dtype("param_dtype", param_dtype)

        self.num_classes = num_classes
        self.image_size = image_size
        self.in_channels = in_channels
        self.dropout_rate = float(dropout_rate)
        self.dtype, self.param_dtype = compute, stored
        self.remat = remat

        sizes = _last_pool_size(image_size) ** 2 * 256, _NUM_HIDDEN
        self._build(rngs, sizes, float(dropout_rate), compute, stored)  # type: ignore[call-arg]  # `nnx.jit` hides `self`

    @functools.partial(nnx.jit, static_argnums=(2, 3, 4, 5))
    def _build(
        self,
        rngs: nnx.Rngs,
        sizes: tuple[int, int],
        dropout_rate: float,
        compute: jnp.dtype | None,
        stored: jnp.dtype,
    ) -> None:
        """Adds the layers; one compiled program draws all weights."""
        num_features, hidden = sizes
        he = nnx.initializers.he_normal()
        lecun = nnx.initializers.lecun_normal()
        conv = functools.partial(
            Conv,
            kernel_init=he,
            dtype=compute,
            param_dtype=stored,
            conv_general_dilated=convolutions.conv,
            kernel_metadata=_split(None, None, None, _MODEL_AXIS),
            bias_metadata=_split(_MODEL_AXIS),
            rngs=rngs,
        )
        norm = functools.partial(
            BatchNorm, param_dtype=stored, metadata=_split(_MODEL_AXIS), rngs=rngs
        )
        dense = functools.partial(nnx.Linear, dtype=compute, param_dtype=stored, rngs=rngs)
        columns, rows = _split(None, _MODEL_AXIS), _split(_MODEL_AXIS, None)
        # The outputs of dense2 are split again, as the inputs of dense3.
        split_bias = functools.partial(dense, bias_metadata=_split(_MODEL_AXIS))

        self.conv1 = conv(self.in_channels, 96, (11, 11), strides=4, padding="VALID")
        self.bn1 = norm(96)
        self.conv2 = conv(96, 256, (5, 5))
        self.bn2 = norm(256)
        self.conv3 = conv(256, 384, (3, 3))
        self.bn3 = norm(384)
        self.conv4 = conv(384, 384, (3, 3))
        self.bn4 = norm(384)
        self.conv5 = conv(384, 256, (3, 3))
        self.bn5 = norm(256)
        self.dense1 = split_bias(num_features, hidden, kernel_init=he, kernel_metadata=columns)
        self.dropout1 = nnx.Dropout(dropout_rate, rngs=rngs)
        self.dense2 = split_bias(hidden, hidden, kernel_init=he, kernel_metadata=rows)
        self.dropout2 = nnx.Dropout(dropout_rate, rngs=rngs)
        self.dense3 = dense(hidden, self.num_classes, kernel_init=lecun, kernel_metadata=rows)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns the logits of a batch of images.

        Args:
            image: `[B, image_size, image_size, in_channels]`, floating point, normalised.

        Returns:
            `[B, num_classes]`, in the model's `dtype`.

        Raises:
            ValueError: the images have another shape.
        """
        expected = (self.image_size, self.image_size, self.in_channels)
        if image.shape[1:] != expected:
            raise ValueError(
                f"`image` has shape {image.shape}; this AlexNet accepts (batch, "
                f"{', '.join(map(str, expected))}): height, width, channels. Transform the "
                "images, or set `image_size` and `in_channels`."
            )
        # B: batch; then height, width and channels, with the numbers of a 227x227 image.
        block, pooled = conv_norm_relu, conv_norm_relu_max_pool
        if self.remat and not self.bn1.use_running_average:
            block, pooled = nnx.remat(block), nnx.remat(pooled)
        x = pooled(self.conv1, self.bn1, image)  # B 55 55 96, then B 27 27 96
        x = pooled(self.conv2, self.bn2, x)  # B 27 27 256, then B 13 13 256
        x = block(self.conv3, self.bn3, x)  # B 13 13 384
        x = block(self.conv4, self.bn4, x)  # B 13 13 384
        x = pooled(self.conv5, self.bn5, x)  # B 13 13 256, then B 6 6 256
        x = x.reshape(x.shape[0], -1)  # B 9216
        x = self.dropout1(nnx.relu(self.dense1(x)))  # B 4096
        x = self.dropout2(nnx.relu(self.dense2(x)))  # B 4096
        return self.dense3(x)  # B num_classes
