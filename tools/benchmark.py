"""How fast the notebook's training step is, and how its cost grows with the data.

python tools/benchmark.py

Uses random images, so it needs no data. Compared within one process and alternating:
the notebook's loop, Keras' `fit` on the same model, and the same step without
`tf.function`. Ratios are medians over rounds; above 1 the notebook's loop is faster.
"""

import argparse
import resource
import statistics
import time

import cells
import numpy as np

ROUNDS, EPOCHS = 5, 1000  # so many epochs that the learning rate hardly falls


def loop(training, count):
    """Take `count` more steps of a training, as the notebook does."""
    for _ in training.steps(int(training.optimizer.iterations) + count):
        pass


def loop_by(step, training, count):
    """Take `count` more steps by the function `step`."""
    for _ in range(count):
        step(training.model, training.optimizer, next(training.batches))


def prepare_fit(nb, model_class, pixels):
    """Return a function that trains a model of the same kind by Keras' `fit`."""

    class Fit(model_class):
        def train_step(self, images):
            nb.train_step.python_function(self, self.optimizer, images)
            return {"loss": nb.tf.zeros(())}  # `fit` wants a number

    training = nb.Training(Fit, pixels, EPOCHS, nb.LATENT_DIM)
    training.model.compile(training.optimizer, jit_compile=False)
    dataset = nb.make_dataset(pixels)
    return lambda: training.model.fit(dataset, shuffle=False, verbose=0)


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare(nb, model_class, pixels):
    """Return images per second of the loop, and its median ratios to the others."""
    training = nb.Training(model_class, pixels, EPOCHS, nb.LATENT_DIM)
    steps, fit = training.epoch_steps, prepare_fit(nb, model_class, pixels)
    few, eager = max(1, steps // 5), nb.train_step.python_function  # which is slow
    rounds = []
    for _ in range(ROUNDS + 1):
        own = seconds(loop, training, steps)
        slow = seconds(loop_by, eager, training, few) * steps / few
        rounds.append((own, seconds(fit), slow))
    del rounds[0]  # it traced the step
    own = statistics.median(row[0] for row in rounds)
    ratios = [statistics.median(row[i] / row[0] for row in rounds) for i in (1, 2)]
    return len(pixels) / own, *ratios


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=60_000, help="at most")
    nb, most = cells.define(), parser.parse_args().images
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (most, 28, 28), dtype=np.uint8)
    print("| model | images/s | loop / `fit` | loop / eager |\n|---|---|---|---|")
    for model_class in (nb.Autoencoder, nb.VAE):
        speed, *ratios = compare(nb, model_class, pixels[:6_400])
        print(f"| {model_class.__name__} | {speed:.0f} |", end="")
        print("".join(f" {ratio:.2f} |" for ratio in ratios), flush=True)
    print("\n| training images | µs per image | peak memory, MiB |\n|---|---|---|")
    for count in (most // 10, most // 3, most):
        training = nb.Training(nb.Autoencoder, pixels[:count], EPOCHS, nb.LATENT_DIM)
        loop(training, training.epoch_steps)  # traces the step
        passed = seconds(loop, training, training.epoch_steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {count:,} | {1e6 * passed / count:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
