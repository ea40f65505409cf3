"""Digests of arrays and JSON."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.checkpoints.digests import (
    ArrayInfo,
    arrays_of,
    damaged,
    is_manifest,
    manifest_of,
    state_digest,
)

ARRAYS = {
    "model/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "optimizer/count": np.array(3, np.int32),
    "metrics/window/0": np.zeros(0),
}
LOOP = {"epoch": 1, "callbacks": {}}


def test_a_manifest_has_dtype_shape_and_sha256_of_each_array():
    manifest = manifest_of(ARRAYS, LOOP)
    assert list(manifest["arrays"]) == sorted(ARRAYS)
    assert manifest["arrays"]["model/w"] == {
        "dtype": "float32",
        "shape": [2, 3],
        "sha256": hashlib.sha256(ARRAYS["model/w"].tobytes()).hexdigest(),
    }
    assert manifest["loop"] == hashlib.sha256(b'{"callbacks":{},"epoch":1}').hexdigest()
    assert is_manifest(manifest)


def test_arrays_are_digested_in_row_major_order_whatever_their_layout():
    transposed = np.asfortranarray(ARRAYS["model/w"])
    assert manifest_of({"model/w": transposed}, {}) == manifest_of(
        {"model/w": ARRAYS["model/w"]}, {}
    )


def test_bfloat16_arrays_have_digests():
    (about,) = manifest_of({"model/w": np.array(jnp.ones(2, jnp.bfloat16))}, {})["arrays"].values()
    assert about["dtype"] == "bfloat16"
    assert about["sha256"] == hashlib.sha256(b"\x80\x3f" * 2).hexdigest()


def test_one_changed_bit_is_found():
    manifest = manifest_of(ARRAYS, LOOP)
    flipped = ARRAYS["model/w"].copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    assert damaged(manifest, ARRAYS | {"model/w": flipped}, LOOP) == ["model/w"]
    assert damaged(manifest, ARRAYS, LOOP | {"epoch": 2}) == ["loop"]
    assert damaged(manifest, ARRAYS, LOOP) == []


def test_missing_and_additional_arrays_of_an_item_are_found():
    manifest = manifest_of(ARRAYS, LOOP)
    assert damaged(manifest, {"model/v": np.ones(1)}, LOOP) == ["model/v", "model/w"]
    assert damaged(manifest, {"model/w": ARRAYS["model/w"]}, LOOP) == []


def test_the_state_digest_covers_model_and_optimizer_only():
    digest = state_digest(manifest_of(ARRAYS, LOOP))
    assert digest == state_digest(manifest_of(ARRAYS | {"metrics/window/0": np.ones(2)}, {}))
    assert digest != state_digest(
        manifest_of(ARRAYS | {"optimizer/count": np.array(4, np.int32)}, LOOP)
    )
    assert digest != state_digest(manifest_of(ARRAYS | {"optimizer/count": np.array(3)}, LOOP))


def test_dtypes_and_shapes_of_an_item_are_listed_by_path():
    manifest = manifest_of(ARRAYS, LOOP)
    assert arrays_of(manifest, "model") == {"w": ArrayInfo("float32", [2, 3])}
    assert arrays_of(manifest, "window") == {}
    assert ArrayInfo("bfloat16", [0, 3]).num_bytes == 0


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"arrays": [], "loop": ""},
        {"arrays": {"model/w": {"dtype": "float32", "shape": [-1]}}, "loop": ""},
        {"arrays": {"model/w": {"dtype": 4, "shape": [1]}}, "loop": ""},
        {"arrays": {}, "loop": None},
    ],
)
def test_other_structures_are_no_manifest(value):
    assert not is_manifest(value)
