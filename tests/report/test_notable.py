import numpy as np

from nnx_alexnet.report.notable import NUM_EXAMPLES, Notable


def filled(labels, rows, batch_size):
    notable = Notable()
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        fields = {"image": np.arange(len(labels))[part].astype(np.float32)}
        notable.add(fields, np.arange(len(labels))[part], labels[part], rows[part])
    return notable.examples()


def test_the_examples_are_those_of_one_sorted_pass():
    rng = np.random.default_rng(0)
    labels, rows = rng.integers(0, 4, 300), rng.dirichlet(np.ones(4), 300)
    found = filled(labels, rows, batch_size=100)
    predicted, ordered = rows.argmax(1), np.sort(rows, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2]
    assert [e.index for e in found["uncertain"]] == np.argsort(gaps)[:NUM_EXAMPLES].tolist()
    wrong = np.flatnonzero(predicted != labels)
    expected = wrong[np.argsort(-rows[wrong].max(axis=1))][:NUM_EXAMPLES]
    assert [e.index for e in found["wrong"]] == expected.tolist()
    for k, example in enumerate(found["correct"]):
        right = np.flatnonzero((labels == k) & (predicted == k))
        assert example.index == right[rows[right, k].argmax()]


def test_an_example_holds_its_prediction_and_its_own_fields():
    found = filled(np.array([0, 1]), np.array([[0.9, 0.06, 0.04], [0.3, 0.2, 0.5]]), 2)
    (wrong,) = found["wrong"]
    assert (wrong.index, wrong.label, wrong.predicted, wrong.second) == (1, 1, 2, 0)
    assert (wrong.confidence, wrong.second_confidence) == (0.5, 0.3)
    assert wrong.fields["image"].tolist() == [1.0]
    assert wrong.fields["image"].base is None  # does not keep its batch in memory


def test_correct_examples_are_spread_over_the_classes():
    found = filled(np.arange(15), np.eye(15), batch_size=5)
    assert [e.label for e in found["correct"]] == [0, 2, 4, 6, 8, 10, 12, 14]
    found = filled(np.arange(100), np.eye(100), batch_size=30)
    assert [e.label for e in found["correct"]] == [0, 12, 28, 40, 56, 68, 84, 96]
