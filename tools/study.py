"""The measurements behind the notebook's design, and how its numbers vary by chance.

python tools/study.py seeds 7 8 9  # the whole notebook, once per seed
python tools/study.py seeds --from figures/results.json  # a run made before
python tools/study.py corners 7 8 9  # noise alone, leash alone (section 7), in full
python tools/study.py designs      # one change at a time, on held-out training images
python tools/study.py networks     # 32 against 64 channels at 7 × 7, in full
python tools/study.py tables       # prints the tables of tools/README.md

All take their code from the notebook and need Fashion-MNIST. Each writes its part of
tools/study.json after every training or run, so that an interrupted one is not lost.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import cells
import numpy as np
from run_notebook import execute, find_results, hash_code

STORE = Path(__file__).with_name("study.json")
DESIGN_EPOCHS, HELD_OUT = 3, 10_000
# only the second convolution is followed by Flatten
SECOND = 'layers.Conv2D({}, 4, strides=2, padding="same", activation="silu"),\n'
SECOND += "            layers.Flatten()"
WIDE = [(SECOND.format(32), SECOND.format(64)), ("7 * 7 * 32", "7 * 7 * 64")]
WIDE += [("(7, 7, 32)", "(7, 7, 64)")]
NO_HIDDEN = [('layers.Dense(256, activation="silu"),', "")]
RESHAPE = "layers.Reshape((7, 7, 32)),"
MORE = 'layers.Conv2D(32, 3, padding="same", activation="silu"),'
TRANSPOSE = "layers.Conv2DTranspose({}, 4, strides=2,"
UPSAMPLE = "layers.UpSampling2D(), layers.Conv2D({}, 3,"
SCHEDULE = "keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)"
DESIGNS = {  # name: (changes of the code, changes of the parameters)
    "as chosen": ([], {}),
    "64 channels at 7 × 7": (WIDE, {}),
    "output bias starts at 0": ([("Constant(-0.9)", "Constant(0.0)")], {}),
    "ReLU instead of SiLU": ([('"silu"', '"relu"')], {}),
    "no hidden dense layers": (NO_HIDDEN, {}),
    "hidden dense layers of 512": ([("Dense(256,", "Dense(512,")], {}),
    "kernel 3": ([("(32, 4,", "(32, 3,"), ("(8, 4,", "(8, 3,")], {}),
    "16 channels before the output": ([("Transpose(8, 4,", "Transpose(16, 4,")], {}),
    "one more convolution at 7 × 7": ([(RESHAPE, f"{RESHAPE} {MORE}")], {}),
    "upsampling and convolution": (
        [(TRANSPOSE.format(n), UPSAMPLE.format(n)) for n in (32, 8)],
        {},
    ),
    "Adam with β₂ = 0.999": ([(", beta_2=0.99", "")], {}),
    "learning rate from 1e-3": ([], {"LEARNING_RATE": 1e-3}),
    "learning rate from 8e-3": ([], {"LEARNING_RATE": 8e-3}),
    "constant learning rate of 1e-3": ([(SCHEDULE, "1e-3")], {}),
    "batches of 128": ([], {"BATCH_SIZE": 128}),
}
MODELS = "Autoencoder", "VAE"


def read_store():
    """Return all that was measured so far."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def load(nb):
    """Give the module `nb` what the notebook's cells load and fill, and return it."""
    nb.data = nb.load_data()
    if nb.data.source == "load_digits":
        sys.exit("Fashion-MNIST could not be loaded, and digits would not tell.")
    nb.train_images = nb.normalise(nb.data.train_images[: nb.TRAIN_IMAGES]).numpy()
    nb.test_images = nb.normalise(nb.data.test_images[: nb.TEST_IMAGES]).numpy()
    nb.train_labels = nb.data.train_labels[: nb.TRAIN_IMAGES]
    nb.test_labels = nb.data.test_labels[: nb.TEST_IMAGES]
    nb.measured, nb.codes = defaultdict(dict), {}
    return nb


def train(nb, model_class, images, epochs):
    """Return a new model trained on uint8 `images`."""
    model, batches = nb.prepare(model_class, images, epochs)
    for batch in batches.repeat(epochs):
        nb.train_step(model, batch)
    return model


# --- seeds


def run_seed(seed, parameters=""):
    """Run the notebook with `seed` in a temporary folder; return its results."""
    notebook = cells.read()
    code = hash_code(notebook)
    with TemporaryDirectory() as folder:
        execute(notebook, folder, f"SEED = {seed}\n{parameters}", verbose=True)
        (path,) = find_results(folder)
        results = json.loads(path.read_text(encoding="utf-8"))
    return results | {"code_sha256": code}


def without_history(results):
    """Return nested `results` without the courses of the trainings."""
    if not isinstance(results, dict):
        return results
    return {k: without_history(v) for k, v in results.items() if k != "history"}


def leaves(value, path=()):
    """Yield (path, number) for all numbers in nested results, and what claims hold."""
    if path == ("claims",):  # by their text, as their order may change
        kept = "effect", "holds"
        value = {row["claim"]: {k: row[k] for k in kept if k in row} for row in value}
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from leaves(part, (*path, str(key)))
    elif path[-1] == "holds" or isinstance(value, (int, float)):
        yield "/".join(path), value


def spread(runs):
    """Return values, mean and standard deviation of each number that all `runs` have.

    Of what a claim holds (true, false, or null within the noise) only the values.
    """
    tables, result = [dict(leaves(run)) for run in runs], {}
    for path in (p for p in tables[0] if all(p in table for table in tables)):
        values = [table[path] for table in tables]
        result[path] = {"values": values}
        if not path.endswith("/holds"):
            deviation = statistics.stdev(values) if len(values) > 1 else None
            result[path] |= {"mean": statistics.fmean(values), "std": deviation}
    return result


def comparable(runs, name):
    """Return those of `runs` that differ from run `name` in nothing but the seed."""

    def setting(run):
        return run["source"], run["parameters"] | {"SEED": None}

    alike = [run for run in runs.values() if setting(run) == setting(runs[name])]
    if len(alike) < len(runs):
        print("Runs with other parameters or data are left out of the spread.")
    if len({run.get("code_sha256") for run in alike}) > 1:
        print("Caution: these runs are not known to be of the same code.")
    return alike


def seeds(numbers, paths=(), parameters=""):
    """Add runs from results.json files, and new ones; yield all and their spread."""
    runs = read_store().get("seeds", {})
    found = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    for results in (*found, *numbers):
        if isinstance(results, int):
            results = run_seed(results, parameters)
        name = str(results["parameters"]["SEED"])
        runs[name] = without_history(results)
        runs = {key: runs[key] for key in sorted(runs, key=int)}
        yield {"seeds": runs, "spread": spread(comparable(runs, name))}


# --- corners


def describe(nb, name, model):
    """Return how the codes of a corner are spread, and if its walks jump."""
    nb.codes[name] = model.embed(nb.train_images), model.embed(nb.test_images)
    nb.measure_jumps(name, model, nb.draw_pairs(within=False))
    # what that measured: the switches, and how often the largest step is one
    row = {key: values[name] for key, values in nb.measured.items()}
    row |= nb.describe_corner(model, nb.test_images)
    row["mixture_gain"] = nb.mixture_gains(*nb.codes[name])
    return {key: float(np.mean(values)) for key, values in row.items()}


def corners(numbers, **parameters):
    """Train the corners that the notebook trains for a short time only, in full.

    Described on all test images; yield all, of these seeds and of others before.
    """
    results = read_store().get("corners_full", {})
    for seed in numbers:
        nb = load(cells.define(SEED=seed, **parameters))
        nb.judge = nb.train_judge(nb.train_images, nb.train_labels)
        images = nb.data.train_images[: nb.TRAIN_IMAGES]
        for name in ("noise", "leash"):
            model = train(nb, nb.CORNERS[name], images, nb.EPOCHS)
            results[f"{name}, seed {seed}"] = describe(nb, name, model)
            print(name, seed, results[f"{name}, seed {seed}"], flush=True)
            yield {"corners_full": results}


# --- designs and networks


def measure(nb, model, train_set, test_set):
    """Return the loss and its terms, squared error and 10-NN accuracy on `test_set`."""
    images, labels = test_set
    codes = model.embed(images)
    votes = nb.knn_votes(model.embed(train_set[0]), train_set[1], codes)
    errors = nb.squared_error(images, nb.in_batches(model.decoder, codes))
    terms = {k: float(np.mean(v)) for k, v in nb.evaluate(model, images).items()}
    return terms | {
        "loss": sum(terms.values()),
        "mse": float(np.mean(errors)),
        "knn_accuracy": float(np.mean(votes == labels)),
    }


def hold_out(nb, name, epochs):
    """Measure a model on the last training images, trained on the others."""
    start = time.perf_counter()
    seen, unseen = slice(0, -HELD_OUT), slice(-HELD_OUT, None)
    sets = [(nb.train_images[part], nb.train_labels[part]) for part in (seen, unseen)]
    images = nb.data.train_images[: nb.TRAIN_IMAGES][seen]
    measured = measure(nb, train(nb, getattr(nb, name), images, epochs), *sets)
    return measured | {"seconds": time.perf_counter() - start}


def step_seconds(nb, model, batch, steps):
    start = time.perf_counter()
    for _ in range(steps):
        nb.train_step(model, batch)
    return (time.perf_counter() - start) / (steps * len(batch))


def relative_time(ours, theirs, name, rounds=5, steps=30):
    """Return how long a step takes in one module over another, per image: the median.

    They alternate, as other work on the machine comes and goes.
    """
    sides = []
    for nb in (ours, theirs):
        images = nb.data.train_images[: nb.BATCH_SIZE]
        model, batches = nb.prepare(getattr(nb, name), images, 1000)
        sides.append((nb, model, next(iter(batches)), steps))
        step_seconds(*sides[-1])  # the first step traces
    times = [[step_seconds(*side) for side in sides] for _ in range(rounds)]
    return statistics.median(a / b for a, b in times)


def designs(epochs=DESIGN_EPOCHS, **parameters):
    """Measure an autoencoder of each design; yield all so far."""
    chosen, results = load(cells.define(**parameters)), {}
    for name, (patches, changes) in DESIGNS.items():
        nb = load(cells.define(patches, **parameters | changes))
        results[name] = hold_out(nb, "Autoencoder", epochs)
        results[name]["time"] = relative_time(nb, chosen, "Autoencoder")
        print(name, results[name], flush=True)
        yield {"designs": results}


def networks(**parameters):
    """Measure both models with 32 and with 64 channels at 7 × 7; yield all so far."""
    patches, results = {"32": [], "64": WIDE}, {}
    sizes = {k: load(cells.define(p, **parameters)) for k, p in patches.items()}
    for name in MODELS:
        ratio = relative_time(sizes["32"], sizes["64"], name, rounds=7)
        results[f"time 32:64 {name}"] = ratio
    for size, nb in sizes.items():
        for name in MODELS:
            results[f"{size} {name}"] = hold_out(nb, name, nb.EPOCHS)
            print(size, name, results[f"{size} {name}"], flush=True)
            yield {"networks": results}


# --- tables

FORMATS = {  # of the numbers: the heading, and how to write them
    "mse": ("MSE", ".5f"),
    "loss": ("loss, nats", ".2f"),
    "knn_accuracy": ("10-NN accuracy", ".3f"),
    "time": ("time", ".2f"),
    "spread": ("spread of the codes", ".2f"),
    "σ": ("mean σ", ".2f"),
    "leash_paid": ("leash, nats", ".2f"),
    "price_paid": ("price, nats", ".4f"),
    "picture": ("reconstruction, nats", ".1f"),
    "mixture_gain": ("mixture gain", ".3f"),
    "step_at_switch": ("largest step at the switch", ".3f"),
    "step_at_switch_chance": ("by chance", ".3f"),
}


def table(rows, first):
    """Return {name: {measure: number}} as Markdown, – where there is none."""
    keys = [key for key in FORMATS if any(key in row for row in rows.values())]
    lines = [[first, *(FORMATS[key][0] for key in keys)], ["---"] * (1 + len(keys))]
    for name, row in rows.items():
        numbers = [format(row[k], FORMATS[k][1]) if k in row else "–" for k in keys]
        lines.append([name, *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def network_rows(stored):
    """Return the rows of the networks, with their time over that of 64 channels."""
    rows = {}
    for name in MODELS:
        for size, time_ratio in ("32", stored[f"time 32:64 {name}"]), ("64", 1.0):
            row = stored[f"{size} {name}"] | {"time": time_ratio}
            rows[f"{name}, {size} channels"] = row
    return rows


def tables():
    """Return the tables of what has been measured, by the name of its part."""
    firsts = {"designs": "design", "corners_full": "corner"}
    firsts |= {f"first_edition_{k}": "design" for k in ("designs", "finalists")}
    stored = read_store()
    made = {key: table(stored[key], firsts[key]) for key in firsts if key in stored}
    if "networks" in stored:
        made["networks"] = table(network_rows(stored["networks"]), "network")
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    studies = "seeds", "corners", "designs", "networks"
    parser.add_argument("study", choices=[*studies, "tables"])
    about = "seeds to run, for seeds and corners"
    parser.add_argument("seeds", nargs="*", type=int, help=about)
    about = "a results.json of a run that was already made, for seeds"
    parser.add_argument(
        "--from", dest="paths", action="append", default=[], type=Path, help=about
    )
    chosen = parser.parse_intermixed_args()
    if chosen.study == "tables":
        print(*tables().values(), sep="\n\n")
        return
    if (chosen.study in studies[:2]) != bool(chosen.seeds or chosen.paths):
        parser.error("seeds and corners, and only these, need numbers (or --from)")
    tasks = {"designs": designs, "networks": networks}
    tasks["seeds"] = lambda: seeds(chosen.seeds, chosen.paths)
    tasks["corners"] = lambda: corners(chosen.seeds)
    for parts in tasks[chosen.study]():
        text = json.dumps(read_store() | parts, indent=1, ensure_ascii=False)
        STORE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
