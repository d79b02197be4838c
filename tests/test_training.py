"""The loop learns, stops, goes on, and measures what it says."""

import cells
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import source
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
EPOCHS, PER_EPOCH = 2, 4  # of 200 images: three batches of 64, and a rest of 8
MOMENTS = [0, 4, 8]


def small(nb):
    """Return encoders and a decoder of few layers: the loop is the same."""

    class Encoder(keras.Model):
        def __init__(self, latent_dim, **kwargs):
            super().__init__(**kwargs)
            self.trunk = keras.layers.Flatten()
            self.code = keras.layers.Dense(latent_dim)

        call = nb.Encoder.call

    class GaussianEncoder(Encoder):
        def __init__(self, latent_dim, **kwargs):
            super().__init__(latent_dim, **kwargs)
            self.log_variance = keras.layers.Dense(latent_dim)

        call = nb.GaussianEncoder.call

    class Decoder(keras.Model):
        def __init__(self, latent_dim, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(784, "sigmoid")

        def call(self, codes, training=False):
            return keras.ops.reshape(self.dense(codes), (-1, 28, 28, 1))

    return Encoder, GaussianEncoder, Decoder


@pytest.fixture
def nb(nb, monkeypatch):
    """The notebook's names with small models; nothing is compiled or drawn."""
    encoder, gaussian_encoder, nb.Decoder = small(nb)
    monkeypatch.setattr(nb.Autoencoder, "encoder_class", encoder)
    monkeypatch.setattr(nb.VAE, "encoder_class", gaussian_encoder)
    nb.GaussianEncoder = gaussian_encoder
    nb.render = lambda figure: nb.plt.close(figure) or b"a picture"
    tf.config.run_functions_eagerly(True)
    yield nb
    tf.config.run_functions_eagerly(False)


@pytest.fixture(params=["Autoencoder", "VAE"])
def training(request, nb):
    """A function that begins or goes on with a training, and returns it."""

    def go_on(images=nb.data.train_images[:200], epochs=EPOCHS):
        return nb.train(getattr(nb, request.param), images, epochs)

    return go_on


def weights(model):
    return [weight.numpy() for weight in model.trainable_variables]


def equal(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs))


def steps(training):
    return int(training.model.optimizer.iterations)


def moments(training):
    return [row["step"] for row in training.history]


def only(nb):
    """Return the one training that has begun."""
    ((_, training),) = nb.trainings.values()
    return training


def interrupt(nb, name, count):
    """Make nb.`name` raise KeyboardInterrupt when called the `count`-th time."""
    function, calls = getattr(nb, name), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*arguments)

    setattr(nb, name, interrupted)


def test_training_lowers_the_test_loss(training):
    done = training()
    assert moments(done) == MOMENTS
    assert done.history[-1]["test"] < 0.98 * done.history[0]["test"]
    assert done.history[-1]["train"] < 0.98 * done.history[0]["train"]
    assert len(done.film) == 1 + 3  # the images, and three states of the model


def test_the_history_tells_losses_and_accuracy(nb, training):
    done, few = training(), slice(nb.CURVE_IMAGES)
    row = done.history[-1]
    terms = nb.evaluate(done.model, nb.test_images[few])
    assert row["terms"] == {k: pytest.approx(v.mean()) for k, v in terms.items()}
    assert row["test"] == pytest.approx(sum(row["terms"].values()))
    seen = nb.evaluate(done.model, nb.train_images[few])
    assert row["train"] == pytest.approx(sum(v.mean() for v in seen.values()))
    voters, codes = (
        done.model.embed(x[few]) for x in (nb.train_images, nb.test_images)
    )
    votes = nb.knn_votes(voters, nb.train_labels[few], codes)
    assert row["knn"] == (votes == nb.test_labels[few]).mean()


def test_the_learning_rate_falls_to_zero_over_the_epochs(nb, training):
    optimizer = training().model.optimizer
    rate = optimizer._learning_rate
    assert float(rate(0)) == pytest.approx(nb.LEARNING_RATE)
    assert float(rate(EPOCHS * PER_EPOCH)) == pytest.approx(0, abs=1e-9)


def test_running_again_when_finished_changes_nothing(training):
    done = training()
    before, history = weights(done.model), list(done.history)
    again = training()
    assert again.model is done.model and equal(before, weights(again.model))
    assert again.history == history
    # a step at learning rate 0 would not show in weights
    assert steps(again) == EPOCHS * PER_EPOCH


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_an_interrupted_training_goes_on_where_it_was(nb, training, capsys, count):
    interrupt(nb, "train_step", count)
    with pytest.raises(KeyboardInterrupt):  # so that Run All stops, too
        training()
    begun = only(nb)
    assert "Run this cell again" in capsys.readouterr().out
    assert steps(begun) == count - 1
    assert moments(begun) == [step for step in MOMENTS if step < count]
    history, kept = list(begun.history), weights(begun.model)
    interrupt(nb, "train_step", 1)
    with pytest.raises(KeyboardInterrupt):
        training()
    assert equal(kept, weights(begun.model))
    done = training()
    assert done.model is begun.model and done.history[: len(history)] == history
    assert steps(done) == EPOCHS * PER_EPOCH and moments(done) == MOMENTS
    assert len(done.film) == 1 + 3


@pytest.mark.parametrize("name", ["evaluate", "knn_votes", "render"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupted_measurement_is_made_up_for(nb, training, capsys, name, count):
    interrupt(nb, name, count)
    with pytest.raises(KeyboardInterrupt):
        training()
    assert "Run this cell again" in capsys.readouterr().out
    done = training()
    assert moments(done) == MOMENTS and steps(done) == EPOCHS * PER_EPOCH
    assert len(done.film) == 1 + 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("LATENT_DIM", 3), ("BATCH_SIZE", 32), ("LEARNING_RATE", 1e-3), ("SEED", 8)],
)
def test_another_parameter_starts_anew(nb, name, value):
    images = nb.data.train_images[:200]
    before = nb.train(nb.Autoencoder, images, 1)
    assert nb.train(nb.Autoencoder, images, 1).model is before.model
    setattr(nb, name, value)
    after = nb.train(nb.Autoencoder, images, 1)
    assert after.model is not before.model
    assert steps(after) == len(after.batches) == after.history[-1]["step"]
    assert [row["step"] for row in after.history] == moments(after)
    assert after.history[0]["step"] == 0


def test_other_epochs_or_images_start_anew(training, nb):
    before = training()
    more = training(epochs=EPOCHS + 1)
    assert more.model is not before.model and steps(more) == 3 * PER_EPOCH
    fewer = training(images=nb.data.train_images[:64], epochs=EPOCHS + 1)
    assert fewer.model is not more.model and steps(fewer) == 3


@pytest.mark.parametrize("part", ["model", "encoder", "decoder"])
def test_a_changed_class_starts_anew(nb, monkeypatch, part):
    images = nb.data.train_images[:200]
    again = lambda old: type(old.__name__, (old,), {})  # as if its cell had been run
    vae, before = nb.VAE, nb.train(nb.VAE, images, 1)
    if part == "model":
        vae = again(nb.VAE)
    elif part == "encoder":
        monkeypatch.setattr(vae, "encoder_class", again(nb.GaussianEncoder))
    else:
        nb.Decoder = again(nb.Decoder)
    after = nb.train(vae, images, 1)
    assert after.model is not before.model and moments(after) == [0, 4]


# --- trainings compared


def test_all_trainings_see_equal_batches(nb):
    """The real sequence: autoencoder, the slip, the VAE, and the four corners."""
    step, seen = nb.train_step, {}  # by model: what its batches were

    def recorded(model, images):
        of_model = seen.setdefault(id(model), (model, []))[1]
        of_model.append(images.numpy())
        return step(model, images)

    nb.train_step = recorded
    images = nb.data.train_images[:200]
    keras.utils.set_random_seed(nb.SEED + 1)  # whatever came before
    nb.train(nb.Autoencoder, images, 2)
    nb.EPOCHS = 2
    nb.show_slip(steps=6)
    np.random.normal(), tf.random.normal((3,))  # noqa: NPY002
    nb.train(nb.VAE, images, 2)
    for model_class in nb.CORNERS.values():
        nb.train_corner(model_class, images, 2)
    assert [len(of_model) for _, of_model in seen.values()] == [8, 6, 6] + 5 * [8]
    (_, first), *others = seen.values()
    assert not np.array_equal(first[0], first[4])  # shuffled anew for each epoch
    for model, of_model in others:
        for ours, theirs in zip(first, of_model):
            np.testing.assert_array_equal(ours, theirs, err_msg=type(model).__name__)


def test_the_same_seed_trains_the_same_model(nb, training):
    first = training()
    nb.trainings.clear()
    second = training()
    assert first.model is not second.model
    for a, b in zip(weights(first.model), weights(second.model)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_measuring_does_not_change_the_course_of_a_training(nb):
    images = nb.data.train_images[:200]
    measured = nb.train(nb.VAE, images, EPOCHS).model
    plain, batches = nb.prepare(nb.VAE, images, EPOCHS)
    for batch in batches.repeat(EPOCHS):
        nb.train_step(plain, batch)
    for a, b in zip(weights(measured), weights(plain)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_corner_is_described_from_its_first_to_its_last_step(nb):
    course = nb.train_corner(nb.NoiseAlone, nb.data.train_images[:200], 2)
    assert min(course) == 0 and max(course) == 8
    assert course[8]["picture"].mean() < course[0]["picture"].mean()


# --- what is refused


def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(nb, training):
    interrupt(nb, "train_step", 6)
    with pytest.raises(KeyboardInterrupt):
        training()
    only(nb).model.decoder.dense.bias.assign([np.nan] * 784)
    with pytest.raises(FloatingPointError, match="epoch 2"):
        training()


def test_training_refuses_float_images(nb, training):
    with pytest.raises(ValueError, match=r"uint8 images \(n, 28, 28\)"):
        training(images=nb.data.train_images[:200] / 255)
    assert not nb.trainings


# --- how it is measured


def test_one_trace_per_model_and_batch_shape(nb, training):
    tf.config.run_functions_eagerly(False)
    before = nb.train_step.experimental_get_tracing_count()
    training()
    after = nb.train_step.experimental_get_tracing_count()
    assert after - before == 2  # batches of 64 and of 8


def test_the_evaluation_weighs_every_image_alike(nb, images):
    model = nb.prepare(nb.Autoencoder, nb.data.train_images[:200], 1)[0]
    many = np.concatenate([*[images] * 5, np.zeros((31, 28, 28, 1), "float32")])
    per_image = model.loss_terms(many)["reconstruction"].numpy()
    measured = nb.evaluate(model, many)["reconstruction"]  # portions of 1000 and 31
    np.testing.assert_allclose(measured, per_image, rtol=1e-5)
    training = nb.Training(nb.Autoencoder, nb.data.train_images[:200], 1)
    training.open()
    training.note(0)
    row, model = training.history[0]["terms"]["reconstruction"], training.model
    few = model.loss_terms(nb.test_images[: nb.CURVE_IMAGES])["reconstruction"]
    assert row == pytest.approx(np.mean(few), rel=1e-5)


# --- a real kernel


SETUP = """
names = [str(i) for i in range(10)]
train_set, test_set = from_digits()
data = Data(*train_set, *test_set, names, "load_digits")
CURVE_IMAGES = 100
"""
TRAIN = "vae = train(VAE, data.train_images, 2).model"


def listen(client, request, until=lambda content: False):
    """Return what the cell `request` prints, and if one of its messages met `until`."""
    printed = ""
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        printed += content.get("text", "") + content.get("ename", "")
        if until(content):
            return printed, True
        if content.get("execution_state") == "idle":
            return printed, False


def reply(client, request):
    while True:
        message = client.get_shell_msg(timeout=120)
        if message["parent_header"].get("msg_id") == request:
            return message["content"]["status"]


def test_interrupting_the_kernel_stops_the_run_and_loses_nothing(tmp_path):
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    steps = "print(int(trainings['VAE'][1].model.optimizer.iterations))"
    try:
        notebook = cells.read()
        code = [cells.tagged(notebook, tag) for tag in ("parameters", "definitions")]
        code = "\n".join([*code[0], *code[1], SETUP, source("arrays")])
        assert "Error" not in listen(client, client.execute(code))[0]
        training = client.execute(TRAIN)
        below = client.execute("print('half-trained')")  # as Run All queues it
        one_epoch = lambda content: "    22 " in content.get("text", "")
        assert listen(client, training, until=one_epoch)[1]
        manager.interrupt_kernel()
        printed = listen(client, training)[0]
        assert "Run this cell again" in printed and "KeyboardInterrupt" in printed
        assert (reply(client, training), reply(client, below)) == ("error", "aborted")
        assert 22 <= int(listen(client, client.execute(steps))[0]) < 44
        assert "Error" not in listen(client, client.execute(TRAIN))[0]
        assert int(listen(client, client.execute(steps))[0]) == 44
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
