"""The loop learns, stops, goes on, and measures what it says."""

import functools

import keras
import numpy as np
import pytest
from conftest import weights

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
EPOCHS, EPOCH_STEPS = 3, 4  # of 200 images: three batches of 64, and a rest of 8
MOMENTS = [0, 4, 8, 10, 12]


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
def nb(nb, monkeypatch, eager):
    """The notebook's names with small models; nothing is compiled or drawn."""
    nb.Decoder = small_decoder
    for model_class, heads in ((nb.Autoencoder, 1), (nb.VAE, 2)):
        encoder = functools.partial(small_encoder, heads=heads)
        monkeypatch.setattr(model_class, "encoder_class", encoder)
    nb.image_grid = nb.show_figure = lambda *_: None
    return nb


@pytest.fixture
def train(nb):
    """A function that begins or goes on with a training of the VAE."""
    return lambda: nb.train(nb.VAE, nb.train_set, nb.test_set, EPOCHS)


def only(nb):
    """Return the one training that has begun."""
    (training,) = nb.trainings.values()
    return training


def moments(history):
    return [row["step"] for row in history]


def record_batches(nb):
    """Return a dict that collects the batches of all steps, by class of the model."""
    step, seen = nb.train_step, {}

    def recorded(model, optimizer, images):
        seen.setdefault(type(model), []).append(images.numpy())
        step(model, optimizer, images)

    nb.train_step = recorded
    return seen


def interrupt(nb, name, counts):
    """Let those calls of nb.`name`, counted from 1, end in a KeyboardInterrupt."""
    function, calls = getattr(nb, name), []

    def interrupted(*arguments, **options):
        result = function(*arguments, **options)
        calls.append(1)
        if len(calls) in counts:
            raise KeyboardInterrupt
        return result

    setattr(nb, name, interrupted)


@pytest.mark.parametrize("name", ["Autoencoder", "VAE"])
def test_training_lowers_the_losses(nb, name):
    _, history = nb.train(getattr(nb, name), nb.train_set, nb.test_set, EPOCHS)
    for measure in "train", "test":
        assert history[-1][measure] < 0.98 * history[0][measure]


def test_the_history_tells_losses_and_accuracy_at_all_moments(nb, train):
    model, history = train()
    assert moments(history) == MOMENTS
    few_train, few_test = nb.train_set.head(100), nb.test_set.head(100)
    of_train, of_test = (
        nb.evaluate(model, nb.normalize(part.images)) for part in (few_train, few_test)
    )
    scores = nb.analyze(model, few_train, few_test).scores
    expected = {"train": sum(of_train.values()), "test": sum(of_test.values())}
    expected |= of_test | scores
    assert expected == {key: pytest.approx(history[-1][key]) for key in expected}


def test_the_learning_rate_falls_to_zero_over_the_epochs(nb):
    training = nb.Training(nb.Autoencoder, nb.train_set.images, EPOCHS)
    assert float(training.optimizer.learning_rate) == pytest.approx(nb.LEARNING_RATE)
    for _ in range(EPOCHS * EPOCH_STEPS):
        training.step()
    assert float(training.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_a_class_may_be_missing_among_the_images(nb, train):
    nb.test_set = nb.ImageSet(*(x[nb.test_set.labels != 3] for x in nb.test_set))
    assert moments(train()[1]) == MOMENTS


# --- interrupted, finished, changed


def test_an_interrupted_training_says_so_and_goes_on_where_it_was(nb, train, capsys):
    seen = record_batches(nb)
    expected, _ = train()
    batches, stops, said = seen.pop(nb.VAE), (1, 4, 6, 12), []
    nb.trainings = {}
    interrupt(nb, "train_step", stops)
    capsys.readouterr()
    for count in stops:
        with pytest.raises(KeyboardInterrupt):  # so that Run All stops, too
            train()
        assert list(only(nb).history) == [step for step in MOMENTS if step < count]
        assert only(nb).steps_done() == count
        said.append(capsys.readouterr().out.splitlines()[0])
    model, history = train()
    assert all(str(stop) in line for stop, line in zip(stops, said[1:]))
    assert model is only(nb).model and moments(history) == MOMENTS
    np.testing.assert_allclose(weights(model), weights(expected), atol=1e-6)
    assert len(seen[nb.VAE]) == len(batches)
    assert all(map(np.array_equal, seen[nb.VAE], batches))


@pytest.mark.parametrize("name", ["evaluate", "analyze", "image_grid", "show_figure"])
def test_an_interrupted_measurement_is_made_up_for(nb, train, name):
    interrupt(nb, name, [1, 4])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train()
    _, history = train()
    assert moments(history) == MOMENTS == list(only(nb).snapshots)
    assert only(nb).steps_done() == EPOCHS * EPOCH_STEPS


def test_a_finished_training_says_so_and_changes_nothing(nb, train, capsys):
    model, history = train()
    before, printed = weights(model), capsys.readouterr().out.splitlines()
    again, history_again = train()
    assert again is model and history_again == history
    np.testing.assert_array_equal(weights(model), before)
    # a step at learning rate 0 would not show in the weights
    assert only(nb).steps_done() == EPOCHS * EPOCH_STEPS
    line, *table = capsys.readouterr().out.splitlines()
    assert line not in printed and table == printed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LATENT_DIM", 3),
        ("BATCH_SIZE", 32),
        ("LEARNING_RATE", 1e-3),
        ("SEED", 8),
        ("EPOCHS", 2),
        ("VAE", lambda nb: type("VAE", (nb.VAE,), {})),  # its cell was run again
        ("train_set", lambda nb: nb.train_set.head(150)),
    ],
)
def test_another_class_or_parameter_begins_anew(nb, name, value):
    nb.EPOCHS, nb.measure = 1, lambda *_: {"train": 1.0, "test": 1.0, "knn": 1.0}
    train = lambda: nb.train(nb.VAE, nb.train_set, nb.test_set, nb.EPOCHS)
    before, _ = train()
    setattr(nb, name, value(nb) if callable(value) else value)
    after, history = train()
    assert after is not before and moments(history)[0] == 0


# --- trainings compared


def test_all_models_see_equal_batches_anew_in_each_epoch(nb, train):
    seen, steps = record_batches(nb), EPOCHS * EPOCH_STEPS
    keras.utils.set_random_seed(nb.SEED + 1)  # whatever came before
    train()
    variants = {nb.MeanOverPixelsVAE, *nb.ABLATION.values()} - {nb.VAE}
    for model_class in variants:
        nb.train_briefly(model_class, nb.train_set.images, steps, EPOCHS)
    first, *others = seen.values()
    assert len(others) == 4 and len(first) == steps
    assert not np.array_equal(first[0], first[EPOCH_STEPS])
    for batches in others:
        assert all(map(np.array_equal, first, batches))


def test_measuring_does_not_change_the_course_of_a_training(nb, train):
    measured, _ = train()
    steps = EPOCHS * EPOCH_STEPS
    plain = nb.train_briefly(nb.VAE, nb.train_set.images, steps, EPOCHS)
    np.testing.assert_allclose(weights(measured), weights(plain), atol=1e-6)


def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(nb, train):
    interrupt(nb, "train_step", [6])
    with pytest.raises(KeyboardInterrupt):
        train()
    only(nb).model.decoder.layers[0].bias.assign([np.nan] * 784)
    for _ in range(2):  # nor does the cell, run again, hand the model over
        with pytest.raises(FloatingPointError, match="epoch 2"):
            train()
