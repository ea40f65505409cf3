"""A small transformer that predicts the next character, trained on padded lines of text.

A batch is a dict of `tokens` and `attention`, which is False for padding. The loss of an example is
the mean over its real characters, and the metric `perplexity` is exact over all real characters.
The text is the documentation of the Python language, which ships with Python.
"""

from pydoc_data.topics import topics

import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx

from nnx_alexnet import DataModule, Task, Trainer

LENGTH = 40  # the most characters of a line
VOCABULARY = 128  # ASCII; 0 begins each line, and fills it


def load_splits():
    """Returns train and test: different lines, as dicts of arrays `[N, 1 + LENGTH]`."""
    text = "\n".join(topics[name] for name in sorted(topics))
    lines = (" ".join(line.split()) for line in text.splitlines())
    lines = [*dict.fromkeys(line for line in lines if len(line) >= 16)][:1500]  # each line once
    tokens = np.zeros((len(lines), 1 + LENGTH), np.int32)
    for row, line in zip(tokens, lines, strict=True):
        characters = line[:LENGTH].encode("ascii", "replace")
        row[1 : 1 + len(characters)] = [*characters]
    attention = tokens > 0
    attention[:, 0] = True
    arrays = {"tokens": tokens, "attention": attention}
    return [{key: x[rows] for key, x in arrays.items()} for rows in (slice(150, None), slice(150))]


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.project = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attend(self.norm1(x), mask=mask)
        return x + self.project(nnx.gelu(self.expand(self.norm2(x))))


class Transformer(nnx.Module):
    def __init__(self, *, width=64, depth=1, rngs):
        self.token = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.position = nnx.Embed(LENGTH, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, rngs) for _ in range(depth))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, rngs=rngs)

    def __call__(self, tokens, attention):
        real = nnx.make_attention_mask(attention, attention)
        mask = nnx.combine_masks(real, nnx.make_causal_mask(tokens))  # B 1 T T
        x = self.token(tokens) + self.position(jnp.arange(tokens.shape[1]))  # B T width
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))  # B T VOCABULARY


@flax.struct.dataclass
class Perplexity(Average):
    """exp of the mean loss of all characters of a split."""

    @classmethod
    def from_model_output(cls, loss, characters, mask, **_):
        count = jnp.where(mask, characters, 0)
        return cls(total=jnp.sum(jnp.where(mask, loss, 0) * count), count=jnp.sum(count))

    def compute(self):
        return jnp.exp(super().compute())


class NextCharacter(Task):
    metrics = Collection.create(loss=Average.from_output("loss"), perplexity=Perplexity)

    def outputs(self, model, batch):
        tokens, attention = batch["tokens"], batch["attention"]
        logits = model(tokens[:, :-1], attention[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        characters = attention[:, 1:].sum(axis=1)
        loss = jnp.where(attention[:, 1:], losses, 0).sum(axis=1) / characters
        return {"loss": loss, "characters": characters}


def make_trainer(*, max_epochs=6, **options):
    train, test = load_splits()
    return Trainer(
        Transformer(rngs=nnx.Rngs(0)),
        DataModule(train, test, test, batch_size=50, name="Python's documentation"),
        task=NextCharacter(),
        optimizer=optax.adam(5e-3),
        max_epochs=max_epochs,
        **options,
    )


def bigram_perplexity(train, test):
    """Returns the perplexity of a prediction from the character before, by counting pairs."""

    def pairs(split):
        real = split["attention"][:, 1:]
        return split["tokens"][:, :-1][real], split["tokens"][:, 1:][real]

    counts = np.full((VOCABULARY, VOCABULARY), 0.1)  # so that no pair is impossible
    np.add.at(counts, pairs(train), 1)
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    return float(np.exp(-np.log(probabilities[pairs(test)]).mean()))


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    return {
        "perplexity": trainer.test()["test/perplexity"],
        "bigram_perplexity": bigram_perplexity(*load_splits()),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
