"""How fast the notebook's training step is, and how its cost grows with the data.

python tools/benchmark.py

Uses random images, so it needs no data. Compared within one process and alternating:
the notebook's loop, `fit` on the same model, the same step without `tf.function`, and
the loop with the plain 32–64 network (ReLU, kernel 3, no hidden dense layers). Ratios
are medians over rounds; above 1 the notebook's loop is faster.
"""

import resource
import statistics
import time

import cells
import numpy as np
from study import NO_HIDDEN, WIDE

ROUNDS, IMAGES = 5, 6_400
GROWTH = 6_000, 20_000, 60_000
PLAIN = [
    *WIDE,
    *NO_HIDDEN,
    ("Transpose(32, 4,", "Transpose(64, 3,"),
    ("Transpose(8, 4,", "Transpose(32, 3,"),
    ("Conv2D(32, 4,", "Conv2D(32, 3,"),
    ("Conv2D(64, 4,", "Conv2D(64, 3,"),
    ('"silu"', '"relu"'),
]
OTHERS = "Keras' `fit`", "eager loop", "plain 32–64 net"


def loop(nb, model, batches, step=None):
    """Run one epoch of the notebook's loop; `step` replaces its compiled step."""
    for images in batches:
        (step or nb.train_step)(model, images)


def fitter(nb, name, images):
    """Return a function that runs one epoch of Keras' `fit` on the same model."""
    tf = nb.tf

    class Fit(getattr(nb, name)):
        def train_step(self, images):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(sum(self.loss_terms(images).values()))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return {"loss": loss}

    model, batches = nb.prepare(Fit, images, 1000)
    return lambda: model.fit(batches, verbose=0)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(nb, plain, name, images):
    """Return images per second of the loop, and its median ratios to the others."""
    # so many epochs that the learning rate hardly falls
    model, batches = nb.prepare(getattr(nb, name), images, 1000)
    plain_model, plain_batches = plain.prepare(getattr(plain, name), images, 1000)
    few = batches.take(max(1, len(batches) // 5))  # an eager step is slow
    portion, eager = len(few) / len(batches), nb.train_step.python_function
    fit = fitter(nb, name, images)
    contestants = {
        "the notebook's loop": lambda: seconds(lambda: loop(nb, model, batches)),
        OTHERS[0]: lambda: seconds(fit),
        OTHERS[1]: lambda: seconds(lambda: loop(nb, model, few, eager)) / portion,
        OTHERS[2]: lambda: seconds(lambda: loop(plain, plain_model, plain_batches)),
    }
    times = {key: [] for key in contestants}
    for _ in range(ROUNDS + 1):
        for key, function in contestants.items():
            times[key].append(function())
    times = {key: values[1:] for key, values in times.items()}  # the first round traces
    own = times["the notebook's loop"]
    ratios = {
        key: statistics.median(b / a for a, b in zip(own, times[key])) for key in OTHERS
    }
    return len(images) / statistics.median(own), ratios


def growth(nb, images):
    """Yield training images, µs per image and peak memory (MiB) of an epoch."""
    for count in GROWTH:
        model, batches = nb.prepare(nb.Autoencoder, images[:count], 1000)
        # traces the step, for the smaller last batch, too
        loop(nb, model, batches.take(1).concatenate(batches.skip(len(batches) - 1)))
        passed = seconds(lambda: loop(nb, model, batches))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield count, 1e6 * passed / count, peak


def main():
    nb, plain = cells.define(), cells.define(PLAIN)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(GROWTH), 28, 28), dtype=np.uint8)
    print("| model | images/s | loop / `fit` | loop / eager | loop / plain 32–64 net |")
    print("|---|---|---|---|---|")
    for name in ("Autoencoder", "VAE"):
        speed, ratios = compare(nb, plain, name, images[:IMAGES])
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios.values())
        print(f"| {name} | {speed:.0f} | {shown} |", flush=True)
    print("\n| training images | µs per image | peak memory, MiB |\n|---|---|---|")
    for count, cost, peak in growth(nb, images):
        print(f"| {count:,} | {cost:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
