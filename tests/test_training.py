"""The loop learns, stops, goes on, and measures and draws what it says."""

import ast
import sys

import cells
import keras
import numpy as np
import pytest
from conftest import create, weights
from jupyter_client.manager import start_new_kernel

EPOCHS, EPOCH_STEPS = 3, 13  # of 200 images: 12 batches of 16, and a rest of 8
STEPS = EPOCHS * EPOCH_STEPS
REPORT_STEPS = [0, 10, 13, 26, 30, 39]


def small_encoder(latent_dim, heads=1):
    """The loop is the same with encoders and decoders of few layers."""
    images = keras.Input((28, 28, 1))
    flat = keras.layers.Flatten()(images)
    codes = [keras.layers.Dense(latent_dim)(flat) for _ in range(heads)]
    return keras.Model(images, codes if heads > 1 else codes[0])


def small_decoder(latent_dim):
    dense = keras.layers.Dense(784, "sigmoid")
    shape = keras.layers.Reshape((28, 28, 1))
    return keras.Sequential([keras.Input((latent_dim,)), dense, shape])


@pytest.fixture
def nb(nb):
    """The notebook's names with small models; what would be drawn goes to nb.drawn."""
    nb.Encoder, nb.Decoder = small_encoder, small_decoder
    nb.GaussianEncoder = lambda latent_dim: small_encoder(latent_dim, 2)
    nb.BATCH_SIZE, nb.drawn = 16, []
    nb.image_grid = lambda *arguments: nb.drawn.append(arguments)
    nb.show_figure = lambda *_: None
    return nb


def train(nb, training):
    nb.train(training, nb.train_set, nb.test_set)


def record_batches(nb):
    """Return a dict that collects the batches of all steps, by class of the model."""
    step, seen = nb.train_step, {}

    def recorded(model, optimizer, images):
        step(model, optimizer, images)
        seen.setdefault(type(model), []).append(images.numpy())

    nb.train_step = recorded
    return seen


def equal(batches, others):
    return len(batches) == len(others) and all(map(np.array_equal, batches, others))


def test_the_history_tells_falling_losses_and_accuracy_at_all_report_steps(nb):
    nb.test_set = nb.test_set.head(100)
    train(nb, training := create(nb, epochs=EPOCHS))
    assert list(training.history) == list(training.snapshots) == REPORT_STEPS
    model, first, last = training.model, training.history[0], training.history[39]
    assert all(last[x] < 0.98 * first[x] for x in ("training loss", "loss"))
    expected = {"training loss": nb.evaluate(model, nb.train_set.images)["loss"]}
    expected |= nb.evaluate(model, nb.test_set.images)
    expected |= nb.analyze(model, nb.train_set, nb.test_set).scores
    assert expected == {key: pytest.approx(last[key]) for key in expected}
    assert {"loss", "from the code", "mse", "knn"} <= set(last)


def test_the_filmstrip_shows_the_examples_as_the_model_of_each_step_sees_them(nb):
    # one class is missing
    nb.test_set = nb.ImageSet(*(x[nb.test_set.labels != 3] for x in nb.test_set))
    names = [name for name in nb.CLASS_NAMES if name != "3"]
    examples = [nb.test_set.images[nb.test_set.labels == int(x)][0] for x in names]
    other, expected = create(nb, epochs=EPOCHS), {}
    for step in other.steps(STEPS):
        expected[step] = other.model(np.stack(examples))
    train(nb, training := create(nb, epochs=EPOCHS))
    # measuring does not change the course of a training
    np.testing.assert_allclose(weights(training.model), weights(other.model), atol=1e-6)
    assert len(nb.drawn) == len(REPORT_STEPS)
    for now, (rows, row_names, column_names) in zip(REPORT_STEPS, nb.drawn):
        early = [step for step in (0, 10, 13) if step < now]
        assert len(rows) == len(row_names) == 1 + len([*early, now])
        np.testing.assert_array_equal(rows[0], examples)
        for step, row, name in zip([*early, now], rows[1:], row_names[1:]):
            np.testing.assert_allclose(row, expected[step], atol=1e-5)
            assert str(step) in name
        assert list(column_names) == names


def test_the_learning_rate_falls_to_zero_over_the_epochs(nb):
    training = create(nb, epochs=EPOCHS)
    rates = [float(training.optimizer.learning_rate) for _ in training.steps(STEPS)]
    assert training.total_steps == STEPS == len(rates) - 1
    assert rates[0] == pytest.approx(nb.LEARNING_RATE) and np.all(np.diff(rates) < 0)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_all_models_see_equal_batches_anew_in_each_epoch(nb):
    seen = record_batches(nb)
    keras.utils.set_random_seed(nb.SEED + 1)  # whatever came before
    train(nb, create(nb, epochs=EPOCHS))
    for name in "Autoencoder", "LogVarianceAsSigmaVAE":
        list(create(nb, name, EPOCHS).steps(STEPS))
    first, *others = seen.values()
    assert len(others) == 2 and len(first) == STEPS
    assert not np.array_equal(first[0], first[EPOCH_STEPS])
    assert all(equal(first, batches) for batches in others)


def test_a_training_interrupted_at_any_line_goes_on_where_it_was(nb):
    loop = {nb.train.__code__, nb.report.__code__, nb.Training.steps.__code__}
    before, lines, first, finished, kept = sys.gettrace(), 0, 0, False, {}

    def trace(frame, event, _):
        nonlocal lines
        lines += event == "line" and frame.f_code in loop
        if lines == first:
            raise KeyboardInterrupt  # which ends the tracing, too
        return trace if frame.f_code in loop else None

    seen, expected = record_batches(nb), create(nb, epochs=EPOCHS)
    train(nb, expected)
    batches, training = seen.pop(nb.VAE), create(nb, epochs=EPOCHS)
    while not finished:
        lines, first = 0, first + 1  # one line later each time
        sys.settrace(trace)
        try:
            train(nb, training)
            finished = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert list(training.history) == list(training.snapshots)
        kept = training.history | kept
    assert first > 30 and list(training.history) == REPORT_STEPS
    # no step was measured twice
    assert all(training.history[step] is row for step, row in kept.items())
    assert equal(seen[nb.VAE], batches)
    ours, theirs = weights(training.model), weights(expected.model)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


SMALL_RUN = """
sets = [ImageSet(x, normalize(x).numpy(), y) for x, y in load_from_sklearn()]
CLASS_NAMES, FIGURES = list("0123456789"), Path("figures")
training = Training(VAE, sets[0].pixels, 4, LATENT_DIM)
"""
STATE = """(int(training.optimizer.iterations), list(training.snapshots),
    {step: id(row) for step, row in training.history.items()})"""


def test_jupyter_interrupts_a_training_and_its_cell_goes_on(tmp_path):
    notebook, displayed = cells.read(), []
    manager, client = start_new_kernel(cwd=str(tmp_path))

    def hook(message):
        displayed.append(message["msg_type"] == "display_data")
        if displayed[-1] and sum(displayed) == 4:  # the second picture and its caption
            manager.interrupt_kernel()

    def run(source):
        """Return the name of the error, or the steps taken, shown and measured."""
        options = {"user_expressions": {"state": STATE}, "output_hook": hook}
        reply = client.execute_interactive(source, **options, timeout=200)["content"]
        if reply["status"] == "error":
            return reply["ename"]
        state = reply["user_expressions"]["state"]["data"]["text/plain"]
        return ast.literal_eval(state)

    try:
        parts = [cells.code_cells(notebook, x) for x in ("parameters", "definitions")]
        assert run("\n".join([*parts[0], *parts[1], SMALL_RUN])) == (0, [], {})
        assert run("train(training, *sets)") == "KeyboardInterrupt"
        steps, snapshots, measured = run("")
        assert 10 <= steps < 88 and snapshots == list(measured)
        steps, snapshots, rows = run("train(training, *sets)")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert steps == 88 and snapshots == list(rows) == [0, 10, 22, 30, 44, 66, 88]
    # no step was measured twice
    assert rows.items() >= measured.items()
