"""A recurrent network on padded sequences: are the brackets of a string balanced?

`lengths` gives the real length of each sequence, which `nnx.RNN` reads as `seq_lengths`: the carry
that it returns is that of the last real character.
"""

import jax
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx

from nnx_alexnet import DataModule, Task, Trainer

LONGEST = 20
PAIRS = dict(zip(")]", "([", strict=True))
TOKENS = {character: number for number, character in enumerate("()[]")}


def is_balanced(text):
    opened = []
    for character in text:
        if character in PAIRS.values():
            opened.append(character)
        elif not opened or opened.pop() != PAIRS[character]:
            return False
    return not opened


def balanced(rng, num_pairs):
    """Returns a random balanced string."""
    text, opened = "", []
    for left in range(2 * num_pairs, 0, -1):
        if opened and (len(opened) == left or rng.random() < 0.5):
            text += opened.pop()
        else:
            closing = str(rng.choice([*PAIRS]))
            text, opened = text + PAIRS[closing], [*opened, closing]
    return text


def make_split(num, seed):
    """Returns strings as a dict of arrays; half of them have one wrong bracket."""
    rng = np.random.default_rng(seed)
    characters = np.zeros((num, LONGEST), np.int32)
    lengths = np.zeros(num, np.int32)
    labels = np.zeros(num, np.int32)
    for row in range(num):
        text = balanced(rng, int(rng.integers(2, LONGEST // 2 + 1)))
        if rng.random() < 0.5:
            at = int(rng.integers(len(text)))
            others = [each for each in TOKENS if each != text[at]]
            text = text[:at] + str(rng.choice(others)) + text[at + 1 :]
        characters[row, : len(text)] = [TOKENS[each] for each in text]
        lengths[row], labels[row] = len(text), is_balanced(text)
    return {"characters": characters, "lengths": lengths, "label": labels}


class Recurrent(nnx.Module):
    def __init__(self, width=64, *, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(len(TOKENS), width, rngs=rngs), return_carry=True)
        self.out = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, characters, lengths):
        x = jax.nn.one_hot(characters, len(TOKENS))  # B T 4
        carry, _ = self.rnn(x, seq_lengths=lengths)  # B width
        return self.out(carry)[:, 0]  # B


class Balanced(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"), accuracy=Average.from_output("is_right")
    )

    def outputs(self, model, batch):
        logits, label = model(batch["characters"], batch["lengths"]), batch["label"]
        loss = optax.sigmoid_binary_cross_entropy(logits, label)
        return {"loss": loss, "is_right": (logits > 0) == (label == 1)}

    def predict(self, model, batch):
        return nnx.sigmoid(model(batch["characters"], batch["lengths"]))


def make_trainer(*, max_epochs=10, **options):
    train, val, test = make_split(4000, seed=0), make_split(500, seed=1), make_split(500, seed=2)
    return Trainer(
        Recurrent(rngs=nnx.Rngs(0)),
        DataModule(train, val, test, batch_size=50, name="brackets"),
        task=Balanced(),
        optimizer=optax.adam(1e-2),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    return {"accuracy": trainer.test()["test/accuracy"]}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
