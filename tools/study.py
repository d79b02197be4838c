"""Longer measurements for the notebook: other seeds, and other losses, all in full.

python tools/study.py seeds 7 8 9         # the whole notebook, once per seed
python tools/study.py seeds --from figures/results.json  # a run made before
python tools/study.py ablation 7 8 9      # one half of the KL at a time
python tools/study.py standardised 7 8    # codes of a fixed scale, with fixed noise
python tools/study.py beta 7              # weights of the KL other than 1

All take their code from the notebook and need Fashion-MNIST. Each adds its numbers to
tools/study.json after every training or run, so that an interrupted one is not lost.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cells
import numpy as np
from run_notebook import execute, find_results

STORE = Path(__file__).with_name("study.json")
# what a training depends on: pipeline, models, loss, step and recipe
RECIPE = """normalize make_dataset Encoder Decoder binary_cross_entropy Autoencoder
    train_step Training kl_mean_term kl_variance_term kl_divergence Sampling
    GaussianEncoder VAE VAEWithoutMeanTerm AutoencoderWithMeanTerm""".split()
BETAS = 0.25, 0.5, 2, 4, 8
NOISES = 0, 0.2


def read_store():
    """Return all that was measured so far."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def store(study, name, numbers, code_sha256):
    """Add the numbers of a run to its part of the study; other code's are dropped."""
    stored = read_store()
    part = stored.get(study, {})
    if part.get("code_sha256") != code_sha256:
        part = {"code_sha256": code_sha256, "runs": {}}
    part["runs"] = dict(sorted((part["runs"] | {name: numbers}).items()))
    stored[study] = part
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    STORE.write_text(text + "\n", encoding="utf-8")
    print(study, name, numbers, flush=True)


# --- the models


def with_weight(nb, beta):
    """Return a VAE whose KL has the weight `beta`."""

    class WeightedVAE(nb.VAE):
        def loss_terms(self, images, noise=None):
            terms = super().loss_terms(images, noise)
            return terms | {"kl": beta * terms["kl"]}

    return WeightedVAE


def with_fixed_noise(nb, scale):
    """Return an autoencoder with codes of variance 1 and noise of a fixed `scale`.

    Since the codes are standardised, it cannot evade the noise by a change of scale.
    """

    class StandardisedAutoencoder(nb.Autoencoder):
        def __init__(self, latent_dim):
            super().__init__(latent_dim)
            self.standardise = nb.layers.BatchNormalization(center=False, scale=False)
            self.seed_generator = nb.keras.random.SeedGenerator()

        def encode(self, images, training=False):
            return self.standardise(self.encoder(images), training=training)

        def loss_terms(self, images, noise=None):
            codes = self.encode(images, training=noise is None)
            if noise is None:
                shape = nb.ops.shape(codes)
                noise = nb.keras.random.normal(shape, seed=self.seed_generator)
            guess = self.decoder(codes + scale * noise)
            return {"reconstruction": nb.binary_cross_entropy(images, guess)}

    return StandardisedAutoencoder


# --- the measurements


def measure(nb, model, train_set, test_set):
    """Return what the studies compare, {measure: number}, on the test images."""
    analysis = nb.analyze(model, train_set, test_set)
    images = nb.normalize(test_set.images).numpy()
    row, codes = dict(analysis.scores), analysis.test_codes
    row["reconstruction"] = nb.evaluate(model, images)["reconstruction"]
    row["code_std"] = float(np.sqrt(codes.var(axis=0).mean()))
    row["mean_term"] = float(np.sum(nb.kl_mean_term(codes), axis=1).mean())
    if isinstance(model, nb.VAE):
        log_variance = nb.in_batches(lambda x: model.encoder(x)[1], images)
        row["sigma"] = float(np.exp(log_variance / 2).mean())
        terms = np.sum(nb.kl_variance_term(log_variance), axis=1)
        row["variance_term"] = float(terms.mean())
        row["kl"] = row["mean_term"] + row["variance_term"]
        row["active_dimensions"] = int((codes.var(axis=0) > 0.01).sum())
    row["gmm_gain"] = nb.gmm_gain(analysis.train_codes, codes)
    return row


def train_in_full(model_class, nb, sets):
    """Return a model trained like the notebook's, without measuring meanwhile."""
    training = nb.Training(model_class, sets[0].images, nb.EPOCHS)
    for _ in range(training.total_steps):
        training.step()
    return training.model


def run_variants(study, seeds, **parameters):
    """Train and measure the variants of a study with each of the seeds."""
    for seed in seeds:
        nb = cells.define(**{"SEED": seed} | parameters)
        *sets, _, source = nb.load_data()
        if source == "sklearn.load_digits":
            sys.exit("Fashion-MNIST could not be loaded, and digits would not tell.")
        variants = {
            "ablation": {
                "VAE without mean term": nb.VAEWithoutMeanTerm,
                "Autoencoder with mean term": nb.AutoencoderWithMeanTerm,
            },
            "standardised": {f"noise {s}": with_fixed_noise(nb, s) for s in NOISES},
            "beta": {f"beta {b}": with_weight(nb, b) for b in BETAS},
        }
        sets = sets[0].head(nb.TRAIN_IMAGES), sets[1].head(nb.TEST_IMAGES)
        code_sha256 = cells.hash_definitions(RECIPE)
        for name, model_class in variants[study].items():
            model = train_in_full(model_class, nb, sets)
            numbers = measure(nb, model, *sets)
            store(study, f"{name}, seed {seed}", numbers, code_sha256)


def run_seed(seed, parameters=""):
    """Run the notebook with `seed` in a temporary folder; return its results."""
    notebook = cells.read()
    code_sha256 = cells.hash_code(cells.code_cells(notebook))
    with TemporaryDirectory() as folder:
        execute(notebook, folder, f"SEED = {seed}\n{parameters}", verbose=True)
        (path,) = find_results(folder)
        results = json.loads(path.read_text(encoding="utf-8"))
    return results | {"code_sha256": code_sha256}


def store_seed(results):
    """Add the results of a run of the whole notebook, without its histories."""
    kept = {k: v for k, v in results.items() if k not in ("history", "code_sha256")}
    name = f"seed {results['parameters']['SEED']}"
    store("seeds", name, kept, results["code_sha256"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    studies = "seeds", "ablation", "standardised", "beta"
    parser.add_argument("study", choices=studies)
    parser.add_argument("seeds", nargs="*", type=int, help="seeds to run with")
    about = "a results.json of a run that was already made, for seeds"
    parser.add_argument("--from", dest="path", type=Path, help=about)
    chosen = parser.parse_intermixed_args()
    if chosen.path:
        store_seed(json.loads(chosen.path.read_text(encoding="utf-8")))
    elif chosen.study == "seeds":
        for seed in chosen.seeds:
            store_seed(run_seed(seed))
    else:
        run_variants(chosen.study, chosen.seeds)


if __name__ == "__main__":
    main()
