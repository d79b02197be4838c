"""How fast the notebook's training step is, and how its cost grows with the data.

python tests/benchmark.py

Uses random images, so it needs no data. Compared within one process and alternating: the notebook's
loop, `fit` on the same model, the same step without `tf.function`, and the loop with the plain
32–64 network (ReLU, no hidden dense layers). Ratios are medians over rounds; above 1 is faster.
"""

import os
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cells
import numpy as np

ROUNDS, IMAGES = 5, 6_400
PLAIN = [
    ('"silu"', '"relu"'),
    ('            layers.Dense(256, activation="relu"),\n', ""),
    ("Transpose(32, 4,", "Transpose(64, 3,"),
    ("Transpose(8, 4,", "Transpose(32, 3,"),
    ("(32, 4,", "(32, 3,"),
    ("(64, 4,", "(64, 3,"),
]


def loop(nb, model, batches, step=None):
    """Run one epoch of the notebook's loop; `step` replaces its compiled step."""
    for images in batches:
        (step or nb.train_step)(model, images)


def fitter(nb, name, batches):
    """Return a function that runs one epoch of Keras' `fit` on the same model."""
    model_class = getattr(nb, name)

    class Fit(model_class):
        def train_step(self, images):
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(sum(self.loss_terms(images).values()))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return {"loss": loss}

    model = nb.build(Fit, 1000)
    return lambda: model.fit(batches, verbose=0)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(nb, plain, name, images):
    """Return images per second of the loop, and the medians of its ratios to the others."""
    batches = nb.make_pipeline(images, nb.BATCH_SIZE, shuffle=True, seed=0)
    few = batches.take(len(batches) // 5)  # an eager step is slow: a fifth is enough
    model, plain_model = nb.build(getattr(nb, name), 1000), plain.build(getattr(plain, name), 1000)
    eager = nb.train_step.python_function
    contestants = {
        "the notebook's loop": lambda: loop(nb, model, batches),
        "Keras' `fit`": fitter(nb, name, batches),
        "eager loop": lambda: [loop(nb, model, few, eager) for _ in range(5)],
        "plain 32–64 net": lambda: loop(plain, plain_model, batches),
    }
    times = {key: [] for key in contestants}
    for _ in range(ROUNDS + 1):
        for key, function in contestants.items():
            times[key].append(seconds(function))
    times = {key: values[1:] for key, values in times.items()}  # the first round traces
    own = times["the notebook's loop"]
    ratios = {key: statistics.median(b / a for a, b in zip(own, v)) for key, v in times.items()}
    return len(images) / statistics.median(own), ratios


def growth(nb, images):
    """Yield the training images, microseconds per image and peak memory (MiB) of an epoch."""
    model = nb.build(nb.Autoencoder, 10_000)
    for count in (6_000, 20_000, 60_000):
        batches = nb.make_pipeline(images[:count], nb.BATCH_SIZE, shuffle=True, seed=0)
        loop(nb, model, batches.take(3))
        passed = seconds(lambda batches=batches: loop(nb, model, batches))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield count, 1e6 * passed / count, peak


def main():
    nb, plain = cells.define(), cells.define(PLAIN)
    images = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    print("| model | images/s | loop / `fit` | loop / eager | loop / plain 32–64 net |")
    print("|---|---|---|---|---|")
    for name in ("Autoencoder", "VAE"):
        speed, ratios = compare(nb, plain, name, images[:IMAGES])
        shown = [f"{ratios[key]:.2f}" for key in ("Keras' `fit`", "eager loop", "plain 32–64 net")]
        print(f"| {name} | {speed:.0f} | {' | '.join(shown)} |", flush=True)
    print("\n| training images | µs per image | peak memory, MiB |\n|---|---|---|")
    for count, cost, peak in growth(nb, images):
        print(f"| {count:,} | {cost:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
