import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.augmentation import CutMix, MixUp, MixUpOrCutMix

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((6, 10, 14, 3), dtype=np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MIXINGS = [MixUp(1.0, num_classes=3), CutMix(num_classes=3), MixUpOrCutMix().with_num_classes(3)]


def batch_of(images=IMAGES, labels=LABELS, mask=None, index=None):
    index = np.arange(len(images), dtype=np.int32) + 7 if index is None else index
    mask = np.ones(len(images), bool) if mask is None else np.array(mask)
    return {"image": images, "label": labels, "index": index, "mask": mask}


def test_mixup_is_the_weighted_mean_with_the_next_example():
    key = jax.random.key(1)
    found = MixUp(0.7, num_classes=3)(batch_of(), key)
    _, shares, _ = jax.random.split(jax.random.fold_in(key, 7), 3)
    share = float(jax.random.beta(shares, 0.7, 0.7))
    rows = np.eye(3)[LABELS]
    for name, own in (("image", IMAGES), ("label", rows)):
        wanted = share * own + (1 - share) * np.roll(own, -1, axis=0)
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


def test_cutmix_labels_have_the_share_of_the_pixels():
    ones = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((6, 10, 14, 1), np.float32)
    shares = []
    for seed in range(20):
        mixing = CutMix(num_classes=6)
        found = mixing(batch_of(ones, np.arange(6)), jax.random.key(seed))
        image = np.asarray(found["image"])[..., 0]
        taken = image[0] == 1
        rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
        assert taken.sum() == len(rows) * len(columns)  # a rectangle
        share = 1 - taken.mean()
        wanted = share * np.eye(6) + (1 - share) * np.roll(np.eye(6), -1, axis=0)
        np.testing.assert_allclose(found["label"], wanted, atol=1e-6)
        shares.append(share)
    assert np.std(shares) > 0.15


def test_share_of_mixup_has_a_beta_distribution():
    mixing = MixUp(0.4, num_classes=2)
    batch = batch_of(np.zeros((2, 1, 1, 1), np.float32), np.arange(2))
    keys = jax.random.split(jax.random.key(0), 500)
    shares = np.asarray(jax.vmap(lambda key: mixing(batch, key)["label"][0, 0])(keys))
    # The variance of a beta distribution with two equal parameters a is 1 / (4 (2a + 1)).
    assert (shares.mean(), shares.var()) == pytest.approx((0.5, 1 / 7.2), abs=0.03)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_padding_is_never_mixed(mixing):
    images = np.concatenate([IMAGES[:4], np.full_like(IMAGES[:2], np.nan)])
    batch = batch_of(images, mask=[True] * 4 + [False] * 2)
    for seed in range(3):
        found = mixing(batch, jax.random.key(seed))
        assert np.isfinite(found["image"][:4]).all()
        np.testing.assert_array_equal(found["image"][3], images[3])
        np.testing.assert_array_equal(found["label"][3], np.eye(3)[LABELS[3]])


@pytest.mark.parametrize("mixing", MIXINGS)
def test_mixing_depends_on_the_first_index_only(mixing):
    key = jax.random.key(0)
    first, same = (mixing(batch_of(index=np.array([5, *rest])), key) for rest in ([1] * 5, [2] * 5))
    np.testing.assert_array_equal(first["image"], same["image"])
    other = mixing(batch_of(index=np.array([6, *[1] * 5])), key)
    assert not np.array_equal(first["image"], other["image"])


@pytest.mark.parametrize("mixing", MIXINGS)
def test_evaluation_does_not_mix(mixing):
    found = mixing(batch_of())
    assert found["image"] is IMAGES
    assert found["label"] is LABELS


def test_either_is_chosen_with_its_probability():
    both = MixUpOrCutMix(MixUp(num_classes=3), CutMix(num_classes=3), 0.25)
    images = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 6, 6, 1), np.float32)
    keys = jax.random.split(jax.random.key(0), 300)
    found = jax.vmap(lambda key: both(batch_of(images), key)["image"][0])(keys)
    is_whole = (found == 0) | (found == 1)
    shares = np.asarray(is_whole.all(axis=(1, 2, 3)))
    # A mixup whose weight rounds to 0 or 1 looks like a CutMix.
    assert shares.mean() == pytest.approx(0.25, abs=0.1)


def test_probability_of_zero_only_softens_labels():
    found = MixUp(probability=0.0, num_classes=3)(batch_of(), jax.random.key(0))
    np.testing.assert_array_equal(found["image"], IMAGES)
    np.testing.assert_array_equal(found["label"], np.eye(3)[LABELS])


@pytest.mark.parametrize("labels", [RANDOM.random(6), RANDOM.random((6, 4))])
def test_floating_point_labels_are_mixed_as_they_are(labels):
    key = jax.random.key(2)
    _, shares, _ = jax.random.split(jax.random.fold_in(key, 7), 3)
    share = float(jax.random.beta(shares, 0.2, 0.2))
    found = MixUp()(batch_of(labels=labels.astype(np.float32)), key)["label"]
    wanted = share * labels + (1 - share) * np.roll(labels, -1, axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_unknown_number_of_classes_is_refused():
    spec = {"image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)}
    spec["label"] = jax.ShapeDtypeStruct((), jnp.int32)
    with pytest.raises(ValueError, match=r"Pass MixUp\(num_classes=...\)"):
        MixUp().check(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "`alpha` .* must be greater than 0"),
        ({"probability": -0.1}, "`probability` .* must be in"),
        ({"num_classes": 1}, "`num_classes` .* must be an integer of at least 2"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        CutMix(**arguments)
