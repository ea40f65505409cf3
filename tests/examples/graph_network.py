"""A graph network on padded graphs: is a graph connected?

A batch has a nested field: `batch["graph"]` is a dict of arrays. All graphs have the same number of
nodes and edges. Masks exclude the padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection
from flax import nnx
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression

from nnx_alexnet import DataModule, Task, Trainer

NODES, EDGES = 10, 30  # the most of a graph; each edge counts in both directions


def make_split(num, seed):
    """Returns random graphs of 5 to 10 nodes, and whether each is connected."""
    rng = np.random.default_rng(seed)
    senders, receivers = np.zeros((2, num, EDGES), np.int32)
    edge_mask = np.zeros((num, EDGES), bool)
    num_nodes = rng.integers(5, NODES + 1, size=num)
    connected = np.zeros(num, np.int32)
    for row, count in enumerate(num_nodes):
        first, second = np.triu_indices(count, k=1)
        chosen = rng.permutation(len(first))[: int(rng.integers(count - 1, count + 4))]
        pairs = np.stack([first[chosen], second[chosen]])
        both = np.concatenate([pairs, pairs[::-1]], axis=1)  # both directions
        size = both.shape[1]
        senders[row, :size], receivers[row, :size] = both
        edge_mask[row, :size] = True
        matrix = coo_array((np.ones(size), both), shape=(count, count))
        connected[row] = connected_components(matrix)[0] == 1
    node_mask = np.arange(NODES) < num_nodes[:, None]
    graph = {"senders": senders, "receivers": receivers, "edges": edge_mask, "nodes": node_mask}
    return {"graph": graph, "label": connected}


class GraphNetwork(nnx.Module):
    """Sends messages along the edges; the first node of each graph is marked."""

    def __init__(self, width=32, rounds=8, *, rngs):
        self.rounds = rounds
        self.embed = nnx.Linear(1, width, rngs=rngs)
        self.message = nnx.Linear(width, width, rngs=rngs)
        self.update = nnx.Linear(2 * width, width, rngs=rngs)
        self.out = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, graph):
        is_first = jnp.zeros((*graph["nodes"].shape, 1)).at[:, 0].set(1)
        nodes = self.embed(is_first)  # B NODES width
        for _ in range(self.rounds):
            sent = jnp.take_along_axis(self.message(nodes), graph["senders"][..., None], axis=1)
            sent = jnp.where(graph["edges"][..., None], sent, 0)  # B EDGES width
            received = jax.vmap(lambda rows, to: jax.ops.segment_sum(rows, to, num_segments=NODES))(
                sent, graph["receivers"]
            )
            nodes += nnx.relu(self.update(jnp.concatenate([nodes, received], axis=-1)))
        logits = self.out(nodes)[..., 0]  # B NODES
        return jnp.where(graph["nodes"], logits, jnp.inf).min(axis=1)  # B: of the farthest node


class Connected(Task):
    metrics = Collection.create(
        loss=Average.from_output("loss"), accuracy=Average.from_output("is_right")
    )

    def outputs(self, model, batch):
        logits, label = model(batch["graph"]), batch["label"]
        loss = optax.sigmoid_binary_cross_entropy(logits, label)
        return {"loss": loss, "is_right": (logits > 0) == (label == 1)}

    def predict(self, model, batch):
        return nnx.sigmoid(model(batch["graph"]))


def load_splits():
    return make_split(3000, seed=0), make_split(500, seed=1), make_split(500, seed=2)


def make_trainer(*, max_epochs=6, **options):
    return Trainer(
        GraphNetwork(rngs=nnx.Rngs(0)),
        DataModule(*load_splits(), batch_size=50, name="graphs"),
        task=Connected(),
        optimizer=optax.adam(2e-3),
        max_epochs=max_epochs,
        **options,
    )


def main(**options):
    trainer = make_trainer(**options)
    trainer.fit()
    train, _, test = load_splits()
    counts, test_counts = (
        np.stack([split["graph"][name].sum(axis=1) for name in ("nodes", "edges")], axis=1)
        for split in (train, test)
    )
    baseline = LogisticRegression().fit(counts, train["label"])
    return {
        "accuracy": trainer.test()["test/accuracy"],
        "accuracy_from_counts": baseline.score(test_counts, test["label"]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name} {value:.4g}")
