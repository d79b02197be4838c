"""Longer measurements for the notebook: other seeds, and other losses, all in full.

python tools/study.py seeds 7 8 9         # the whole notebook, once per seed
python tools/study.py seeds --from figures/results.json  # a run made before
python tools/study.py ablation 7 8 9      # one half of the KL at a time
python tools/study.py beta 7              # weights of the KL other than 1
python tools/study.py fingerprint         # how the code trains, in 15 seconds

All take their code from the notebook; all but the last need Fashion-MNIST. Each adds
its numbers to tools/study.json after every training or run, so that an interrupted one
is not lost. What was measured with other parameters goes then. If the code trains in
another way than before, take its fingerprint first; then all stored runs go.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cells
from run_notebook import execute

STORE = Path(__file__).with_name("study.json")
STAND_IN = "Fashion-MNIST could not be loaded, and digits would not tell."
BETAS = 0.25, 0.5, 2, 4, 8
MODELS = """Autoencoder VAE VAEWithoutMeanTerm AutoencoderWithMeanTerm
    MeanOverPixelsVAE LogVarianceAsSigmaVAE""".split()
# what a training depends on, besides its seed
OF_TRAINING = """LATENT_DIM EPOCHS BATCH_SIZE LEARNING_RATE TRAIN_IMAGES
    TEST_IMAGES""".split()


def read_store():
    """Return all that was measured so far."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def read_fingerprint():
    """Return how the code trained that the stored runs were made with."""
    return read_store().get("fingerprint", {}).get("losses", {})


def write_store(stored):
    """Replace all that was measured so far; the file is whole at any time."""
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    new = STORE.with_name(STORE.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, STORE)


def add_run(study, seed, numbers, parameters, variant=""):
    """Add a run to its part of the studies; runs with other parameters are dropped."""
    parameters = {name: parameters[name] for name in parameters if name != "SEED"}
    stored, name = read_store(), f"{variant}, seed {seed}".removeprefix(", ")
    part = stored.get(study, {})
    if part.get("parameters") != parameters:
        part = {"parameters": parameters, "runs": {}}
    part["runs"] = dict(sorted((part["runs"] | {name: numbers}).items()))
    write_store(stored | {study: part})
    print(study, name, flush=True)


# --- the fingerprint


def take_fingerprint(nb):
    """Return the loss of each kind of model after ten steps, {class: nats}.

    Versions of the code that train alike have the same. The digits are so few that ten
    steps are two epochs: the order of the second and the smaller last batch count, too.
    """
    (pixels, _), (test_pixels, _) = nb.load_from_sklearn()
    images, losses = nb.normalize(test_pixels).numpy(), {}
    for name in MODELS:
        model_class = getattr(nb, name)
        training = nb.Training(model_class, pixels[:300], nb.EPOCHS, nb.LATENT_DIM)
        for _ in training.steps(10):
            pass
        losses[name] = nb.evaluate(training.model, images)["loss"]
    return losses


def is_same(fingerprint, other):
    """Whether two fingerprints differ by no more than processors and versions do."""
    close = lambda name: math.isclose(fingerprint[name], other[name], rel_tol=1e-4)
    return set(fingerprint) == set(other) and all(map(close, fingerprint))


def store_fingerprint():
    """Store how the code trains; if it trained in another way, all runs go."""
    losses = take_fingerprint(cells.define())
    stored = read_store() if is_same(losses, read_fingerprint()) else {}
    parameters = cells.read_parameters(cells.read())
    used = "LATENT_DIM", "EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "SEED"
    part = {"parameters": {name: parameters[name] for name in used}, "losses": losses}
    write_store({"fingerprint": part} | stored | {"fingerprint": part})
    print(losses)


# --- full trainings


def with_weight(nb, beta):
    """Return a VAE whose KL has the weight `beta`."""

    class WeightedVAE(nb.VAE):
        def loss_terms(self, images, noise=None):
            terms = super().loss_terms(images, noise)
            return terms | {"kl": beta * terms["kl"]}

    return WeightedVAE


def train_in_full(nb, model_class, pixels):
    """Return a model trained like the notebook's, without measuring meanwhile."""
    training = nb.Training(model_class, pixels, nb.EPOCHS, nb.LATENT_DIM)
    for _ in training.steps(training.total_steps):
        pass
    return training.model


def measure(nb, model, train_set, test_set):
    """Return what the studies compare, {measure: number}, on the test images."""
    analysis = nb.analyze(model, train_set, test_set)
    row = nb.describe_codes(model, test_set.images) | analysis.scores
    # the whole KL, whatever part or multiple of it was in the loss
    row = {name: float(row[name]) for name in row if name not in ("kl", "loss")}
    if isinstance(model, nb.VAE):
        row["kl"] = row["mean_term"] + row["variance_term"]
        row["active_dimensions"] = int((analysis.test_codes.var(axis=0) > 0.01).sum())
    return row


def run_variants(study, seeds, **parameters):
    """Train and measure the variants of a study with each of the seeds."""
    for seed in seeds:
        nb = cells.define(**parameters | {"SEED": seed})
        train_set, test_set, names, _ = nb.load_data()
        if names != nb.GARMENTS:
            sys.exit(STAND_IN)
        variants = {
            "ablation": {
                "VAE without mean term": nb.VAEWithoutMeanTerm,
                "Autoencoder with mean term": nb.AutoencoderWithMeanTerm,
            },
            "beta": {f"beta {b}": with_weight(nb, b) for b in BETAS},
        }
        train_set = train_set.head(nb.TRAIN_IMAGES)
        test_set = test_set.head(nb.TEST_IMAGES)
        used = {name: getattr(nb, name) for name in OF_TRAINING}
        for name, model_class in variants[study].items():
            model = train_in_full(nb, model_class, train_set.pixels)
            numbers = measure(nb, model, train_set, test_set)
            add_run(study, seed, numbers, used, name)


# --- the whole notebook


def run_seed(seed, parameters=""):
    """Run the notebook with `seed` in a temporary folder; return its results."""
    with TemporaryDirectory() as folder:
        code = f"SEED = {seed}\n{parameters}"
        return execute(cells.read(), folder, code, verbose=True)


def store_seed(results):
    """Add the results of a run of the whole notebook, without its histories."""
    if results["source"] == "sklearn":
        sys.exit(STAND_IN)
    names = "source", "parameters", "versions", "seconds", "results"
    kept, parameters = {name: results[name] for name in names}, results["parameters"]
    add_run("seeds", parameters["SEED"], kept, parameters)


def read_results(path):
    """Return the content of a results.json; raise ValueError if it does not fit."""
    results = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or "code_sha256" not in results:
        raise ValueError("not the results of a run")
    if results["code_sha256"] != cells.hash_code(cells.code_cells(cells.read())):
        raise ValueError("made by other code")
    return results


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("study", choices=("seeds", "ablation", "beta", "fingerprint"))
    parser.add_argument("seeds", nargs="*", type=int, help="seeds to run with")
    about = "a results.json of a run that was already made, for seeds"
    parser.add_argument("--from", dest="path", type=Path, help=about)
    chosen = parser.parse_intermixed_args()
    study, seeds, path = chosen.study, chosen.seeds, chosen.path
    if path and (study != "seeds" or seeds):
        parser.error("--from goes with seeds, and without a seed")
    if study == "fingerprint" and seeds:
        parser.error("the fingerprint has the notebook's own seed")
    if not (seeds or path or study == "fingerprint"):
        parser.error(f"{study} needs a seed, or more: 7 8 9")
    if min(seeds, default=0) < 0:
        parser.error("a seed is not negative")
    if path:
        try:
            store_seed(read_results(path))
        except (OSError, ValueError) as error:
            parser.error(f"{path}: {error}")
    elif study == "fingerprint":
        store_fingerprint()
    elif not is_same(take_fingerprint(cells.define()), read_fingerprint()):
        sys.exit("The code trains in another way than before: see --help.")
    elif study == "seeds":
        for seed in seeds:
            store_seed(run_seed(seed))
    else:
        run_variants(study, seeds)


if __name__ == "__main__":
    main()
