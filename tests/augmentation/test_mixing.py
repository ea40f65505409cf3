import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnx_alexnet.augmentation import CutMix, MixUp, MixUpOrCutMix

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((6, 10, 14, 3), dtype=np.float32)
NUMBERED = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None, None], IMAGES.shape)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MIXUP, CUTMIX = MixUp(0.7, num_classes=3), CutMix(num_classes=3)
MIXINGS = [MIXUP, CUTMIX]


def batch_of(images=IMAGES, labels=LABELS, mask=None, index=None):
    index = np.arange(len(images), dtype=np.int32) + 7 if index is None else index
    mask = np.ones(len(images), bool) if mask is None else np.array(mask)
    return {"image": images, "label": labels, "index": index, "mask": mask}


def test_mixup_is_the_weighted_mean_with_the_next_example():
    found = MIXUP(batch_of(), jax.random.key(1))
    share = float(found["label"][0, 0])  # the next example has another class
    assert 0.01 < share < 0.99
    rows = np.eye(3)[LABELS]
    for name, own in (("image", IMAGES), ("label", rows)):
        wanted = share * own + (1 - share) * np.roll(own, -1, axis=0)
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


def test_cutmix_labels_have_the_share_of_the_pixels():
    shares = []
    for seed in range(12):
        found = CUTMIX(batch_of(NUMBERED), jax.random.key(seed))
        taken = np.asarray(found["image"])[0, ..., 0] == 1
        rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
        assert taken.sum() == len(rows) * len(columns)  # a rectangle
        share = 1 - taken.mean()
        own = np.eye(3)[LABELS]
        wanted = share * own + (1 - share) * np.roll(own, -1, axis=0)
        np.testing.assert_allclose(found["label"], wanted, atol=1e-6)
        shares.append(share)
    assert np.std(shares) > 0.15


def test_share_of_mixup_has_a_beta_distribution():
    keys = jax.random.split(jax.random.key(0), 250)
    shares = np.array([MIXUP(batch_of(), key)["label"][0, 0] for key in keys])
    # The variance of a beta distribution with two equal parameters a is 1 / (4 (2a + 1)).
    assert (shares.mean(), shares.var()) == pytest.approx((0.5, 1 / 9.6), abs=0.03)


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
    first, same, other = (
        mixing(batch_of(index=np.array(index, np.int32)), key)
        for index in ([5] + [1] * 5, [5] + [2] * 5, [6] + [1] * 5)
    )
    np.testing.assert_array_equal(first["image"], same["image"])
    assert not np.array_equal(first["image"], other["image"])


@pytest.mark.parametrize("mixing", [*MIXINGS, MixUpOrCutMix()])
def test_evaluation_does_not_mix(mixing):
    found = mixing(batch_of())
    assert found["image"] is IMAGES
    assert found["label"] is LABELS


class Marking(MixUp):
    """Makes all pixels zero."""

    def __call__(self, batch, key=None):
        return {**batch, "image": 0 * batch["image"]}


class Keeping(CutMix):
    """Keeps the images."""

    def __call__(self, batch, key=None):
        return {**batch}


def test_either_is_chosen_with_its_probability_by_the_first_index():
    both = MixUpOrCutMix(Marking(), Keeping(), 0.25)
    keys = jax.random.split(jax.random.key(0), 300)

    @jax.jit
    @jax.vmap
    def is_cutmix(key, index):
        return both({"image": jnp.ones((2, 1, 1, 1)), "index": index}, key)["image"][0, 0, 0, 0]

    first, same, other = (
        np.asarray(is_cutmix(keys, jnp.tile(jnp.array(index), (300, 1))))
        for index in ([5, 1], [5, 2], [6, 1])
    )
    assert first.mean() == pytest.approx(0.25, abs=0.05)
    assert (first == same).all()
    assert 0.2 < (first != other).mean() < 0.55


def test_probability_of_zero_only_softens_labels():
    found = MixUp(probability=0.0, num_classes=3)(batch_of(), jax.random.key(0))
    np.testing.assert_array_equal(found["image"], IMAGES)
    np.testing.assert_array_equal(found["label"], np.eye(3)[LABELS])


@pytest.mark.parametrize("labels", [RANDOM.random(6), RANDOM.random((6, 4))])
def test_floating_point_labels_are_mixed_as_they_are(labels):
    found = MixUp()(batch_of(NUMBERED, labels.astype(np.float32)), jax.random.key(2))
    share = 1 - found["image"][0].mean()  # of 0, next to 1
    wanted = share * labels + (1 - share) * np.roll(labels, -1, axis=0)
    np.testing.assert_allclose(found["label"], wanted, atol=1e-5)


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


@pytest.mark.parametrize("mixing", MIXINGS)
def test_each_example_keeps_its_weight_in_the_mixed_loss(mixing):
    key, weight = jax.random.key(3), np.array([0, 1, 2, 0.5, 0, 0], np.float32)
    plain = np.asarray(mixing(batch_of(), key)["label"])
    share = np.einsum("nk,nk->n", plain, np.eye(3)[LABELS])  # neighbours are of other classes
    found = mixing({**batch_of(), "weight": weight}, key)
    rows = np.eye(3)[LABELS] * (share * weight)[:, None]
    rows += np.eye(3)[np.roll(LABELS, -1)] * ((1 - share) * np.roll(weight, -1))[:, None]
    np.testing.assert_allclose(found["label"] * found["weight"][:, None], rows, atol=1e-6)
    np.testing.assert_allclose(np.sum(found["label"], axis=1), 1, atol=1e-6)
