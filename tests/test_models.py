"""First weights, losses and sampling of the models."""

import cells
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import create, run_cell, weights

BOTH = ["Autoencoder", "VAE"]


@pytest.fixture
def vae(nb):
    return create(nb).model


mean_term = lambda mean, _: mean**2 / 2
variance_term = lambda _, log_variance: (np.exp(log_variance) - 1 - log_variance) / 2
PARTS_OF_THE_KL = {
    "Autoencoder": [],
    "VAE": [mean_term, variance_term],
    "MeanOverPixelsVAE": [mean_term, variance_term],
    "LogVarianceAsSigmaVAE": [mean_term, variance_term],
    "VAEWithoutMeanTerm": [variance_term],
    "AutoencoderWithMeanTerm": [mean_term],
}


def test_all_models_start_from_equal_weights(nb):
    models = [create(nb, name).model for name in PARTS_OF_THE_KL]
    parts = [(x.encoder.network, x.encoder.code, x.decoder) for x in models]
    first, *others = ([weights(part) for part in own] for own in parts)
    assert all(all(map(np.array_equal, first, other)) for other in others)


@pytest.mark.parametrize("name", BOTH)
def test_an_image_is_reconstructed_from_its_code_without_noise(nb, images, name):
    model = create(nb, name).model
    codes, encoded = model.encode(images), model.encoder(images)
    mean = encoded[0] if isinstance(encoded, tuple) else encoded
    np.testing.assert_allclose(codes, mean, atol=1e-6)
    np.testing.assert_allclose(model.decoder(codes), model(images), atol=1e-5)
    assert np.min(codes) < 0 < np.max(codes)


@pytest.mark.parametrize("name", BOTH)
def test_an_edited_encoder_is_the_one_that_trains(nb, images, name):
    run_cell(nb, r"^class Encoder\(", "Dense(256", "Dense(5")
    if name == "VAE":  # whose encoder is a subclass
        run_cell(nb, r"^class VAE\(")
    training = create(nb, name)
    kernel = training.model.encoder.network.layers[-1].kernel
    before = kernel.numpy()
    assert list(training.steps(1)) == [0, 1]
    assert before.shape[1] == 5 and np.any(kernel != before)
    assert training.model.encode(images).shape == (200, 10)


def test_a_readers_own_settings_of_keras_change_nothing(images):
    settings = {"image_data_format": "channels_first", "floatx": "float64"}
    settings |= {"dtype_policy": "mixed_float16"}
    before = {name: getattr(keras.config, name)() for name in settings}
    try:
        for name, value in settings.items():
            getattr(keras.config, f"set_{name}")(value)
        losses = cells.define().VAE(4).loss_terms(images[:3])["from a draw"]
    finally:
        for name, value in before.items():
            getattr(keras.config, f"set_{name}")(value)
    assert losses.shape == (3,) and losses.dtype == "float32"


def test_cross_entropy_is_summed_over_pixels(nb, images):
    guess = np.random.default_rng(0).uniform(0.01, 0.99, images.shape).astype("float32")
    surprise = images * np.log(guess) + (1 - images) * np.log(1 - guess)
    losses = nb.binary_cross_entropy(images, guess)
    np.testing.assert_allclose(losses, -surprise.sum(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(("name", "paid"), PARTS_OF_THE_KL.items())
def test_each_model_pays_its_reconstructions_and_its_part_of_the_kl(
    nb, images, name, paid
):
    model, noise = create(nb, name).model, np.full((200, 10), 0.5, "float32")
    mean, log_variance, sigma = model.encode(images).numpy(), None, 0.0
    if "VAE" in name:
        log_variance = model.encoder(images)[1].numpy()
        mistaken = name == "LogVarianceAsSigmaVAE"
        sigma = log_variance if mistaken else np.exp(log_variance / 2)
    terms = model.loss_terms(images, noise)
    expected = sum(term(mean, log_variance).sum(axis=1) for term in paid)
    np.testing.assert_allclose(terms.pop("kl", 0), expected, rtol=1e-3, atol=1e-5)
    ((term, losses),) = terms.items()  # there is one more
    assert term == ("from a draw" if "VAE" in name else "from the code")
    reconstructions = model.decoder(mean + sigma * noise)
    expected = np.array(nb.binary_cross_entropy(images, reconstructions))
    expected /= 784 if name == "MeanOverPixelsVAE" else 1
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_a_step_follows_the_gradient_of_both_terms(nb, vae, images):
    head, output = vae.encoder.log_variance, vae.decoder.network.layers[-1]
    head.bias.assign(np.full(10, -40, "float32"))  # σ is tiny: a draw is the mean
    errors = (images - vae(images)).numpy().sum(axis=(1, 2, 3)).mean()
    before = [layer.bias.numpy() for layer in (head, output)]
    nb.train_step.python_function(vae, keras.optimizers.SGD(1.0), images)
    # reconstruction: x − x̂, summed over the pixels; KL: ½ (1 − σ²) per dimension
    np.testing.assert_allclose(head.bias - before[0], 0.5, atol=1e-3)
    np.testing.assert_allclose(output.bias - before[1], errors, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "deviation"), [("Sampling", 2), ("LogVarianceAsSigma", np.log(4))]
)
def test_draws_have_their_moments_and_new_noise_each_time(nb, name, deviation):
    mean, log_variance = np.float32([3, np.log(4)])[:, None, None].repeat(50_000, 1)
    sampling = getattr(nb, name)()
    first, second = (sampling(mean, log_variance).numpy()[:, 0] for _ in range(2))
    assert first.mean() == pytest.approx(3, abs=0.05)
    assert first.std() == pytest.approx(deviation, abs=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_the_reconstruction_loss_reaches_mean_and_log_variance(vae, images):
    with tf.GradientTape() as tape:  # without the KL's help
        loss = tf.reduce_mean(vae.loss_terms(images)["from a draw"])
    heads = [vae.encoder.code.kernel, vae.encoder.log_variance.kernel]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, heads))


def test_the_evaluation_draws_codes_but_always_the_same(nb, vae, images):
    vae.encoder.log_variance.bias.assign(np.full(10, 4, "float32"))  # σ is large
    state = vae.sampling.seed_generator.state.numpy()
    first, second = (nb.evaluate(vae, images) for _ in range(2))
    assert first == second
    assert first["loss"] == pytest.approx(first["from a draw"] + first["kl"])
    at_mean = np.mean(nb.binary_cross_entropy(images, vae(images)))
    assert abs(first["from a draw"] - at_mean) > 0.1
    # training's random numbers are left alone
    np.testing.assert_array_equal(vae.sampling.seed_generator.state, state)
