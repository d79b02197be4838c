"""Shapes, first weights, losses, sampling and saving of the models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

BOTH = ["Autoencoder", "VAE"]
CORNERS = [*BOTH, "NoiseAlone", "LeashAlone"]


def prepare(nb, name, epochs=2):
    """Return a new model with its optimizer, and its batches (3 and a rest)."""
    return nb.prepare(getattr(nb, name), nb.data.train_images[:200], epochs)


def weights(model):
    return [weight.numpy() for weight in model.trainable_variables]


@pytest.fixture(params=BOTH)
def model(request, nb):
    return prepare(nb, request.param)[0]


@pytest.fixture
def vae(nb):
    return prepare(nb, "VAE")[0]


def test_encoder_and_decoder_stand_alone(nb, images):
    codes = nb.Encoder(6)(images[:3])
    assert codes.shape == (3, 6)
    decoded = nb.Decoder(6)(codes)
    assert decoded.shape == (3, 28, 28, 1)
    assert 0 <= np.min(decoded) and np.max(decoded) <= 1
    mean, log_variance = nb.GaussianEncoder(6)(images[:3])
    assert mean.shape == log_variance.shape == (3, 6)


def test_codes_may_have_either_sign(nb, images):
    codes = nb.Encoder(10)(images).numpy()
    assert codes.min() < 0 < codes.max()


def test_the_models_differ_in_the_bottleneck_alone(nb):
    shapes = {
        name: [weight.shape for weight in weights(prepare(nb, name)[0])]
        for name in BOTH
    }
    for shape in shapes["Autoencoder"]:
        shapes["VAE"].remove(shape)
    assert shapes["VAE"] == [(256, nb.LATENT_DIM), (nb.LATENT_DIM,)]


@pytest.mark.parametrize("name", CORNERS[1:])
def test_all_models_start_from_equal_weights(nb, name):
    start, other = prepare(nb, "Autoencoder")[0], prepare(nb, name)[0]
    for part in ("encoder.trunk", "encoder.code", "decoder"):
        ours, theirs = start, other
        for attribute in part.split("."):
            ours, theirs = getattr(ours, attribute), getattr(theirs, attribute)
        assert len(weights(ours)) == len(weights(theirs)) > 0
        for a, b in zip(weights(ours), weights(theirs)):
            np.testing.assert_array_equal(a, b, err_msg=part)


@pytest.mark.parametrize("name", BOTH)
def test_a_saved_model_is_loaded_and_goes_on_as_if_nothing_had_been(
    nb, images, tmp_path, name
):
    model, batches = prepare(nb, name)
    for batch in batches:
        nb.train_step(model, batch)
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    np.testing.assert_array_equal(loaded.embed(images), model.embed(images))
    assert type(loaded) is type(model)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    if isinstance(model, nb.VAE):  # Keras does not save the state of a generator
        state = model.sampling.seed_generator.state
        loaded.sampling.seed_generator.state.assign(state)
    for one in (model, loaded):  # the optimizer's averages and steps were kept
        nb.train_step(one, images[:64])
    assert int(loaded.optimizer.iterations) == len(batches) + 1
    for a, b in zip(weights(model), weights(loaded)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_embed_gives_what_the_reconstruction_is_decoded_from(model, images):
    codes = model.embed(images)
    assert codes.shape == (len(images), 10)
    np.testing.assert_allclose(model.decoder(codes), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x * 255, r"in \[0, 1\], got values from 0.0 to 255.0"),
        (lambda x: x - 1, r"in \[0, 1\]"),
        (lambda x: x * np.nan, r"in \[0, 1\]"),
        (lambda x: x[..., 0], r"\(n, 28, 28, 1\).*got float32 \(200, 28, 28\)"),
        (lambda x: (x * 255).astype("uint8"), "float images"),
        (lambda x: x[:0], "float images"),
    ],
    ids=["0…255", "negative", "NaN", "no channel", "uint8", "none"],
)
def test_embed_refuses_other_images(model, images, change, expected):
    with pytest.raises(ValueError, match=expected):
        model.embed(change(images))


def test_a_code_of_another_width_is_refused(model):
    with pytest.raises(ValueError, match="10.*7"):
        model.decoder(np.zeros((2, 7), "float32"))


# --- loss


def cross_entropy(images, guess):
    """What NumPy makes of it: nats, (n,)."""
    images, guess = np.float64(images), np.float64(guess)
    surprise = images * np.log(guess) + (1 - images) * np.log(1 - guess)
    return -surprise.sum(axis=(1, 2, 3))


def divergence(mean, log_variance):
    """The KL divergence from N(0, 1), nats per dimension (n, d)."""
    mean, log_variance = np.float64(mean), np.float64(log_variance)
    return 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)


def test_cross_entropy_is_summed_over_pixels(nb, images, rng):
    guess = rng.uniform(0.01, 0.99, images.shape).astype("float32")
    expected = cross_entropy(images, guess)
    np.testing.assert_allclose(
        nb.binary_cross_entropy(images, guess), expected, rtol=1e-4
    )
    assert (nb.binary_cross_entropy(images, images).numpy() < expected).all()


def test_squared_error_is_a_mean_over_pixels(nb, images):
    error = nb.squared_error(images, np.float32(images) + 0.5)
    np.testing.assert_allclose(error, 0.25, rtol=1e-5)


def test_untrained_models_say_the_same_grey_everywhere(model, nb, images):
    expected = cross_entropy(images, np.full_like(images, 1 / (1 + np.exp(0.9))))
    loss = np.mean(model.loss_terms(images)["reconstruction"])
    assert loss == pytest.approx(expected.mean(), rel=0.02)
    assert loss < 784 * np.log(2)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere(nb, rng):
    zeros = np.zeros((1, 10), "float32")
    assert float(nb.kl_divergence(zeros, zeros)[0]) == 0
    assert (nb.kl_divergence(*rng.normal(size=(2, 100, 10))).numpy() > 0).all()


def test_kl_agrees_with_an_average_over_draws(nb, rng):
    mean, log_variance = rng.normal(size=(2, 10))
    sigma = np.exp(log_variance / 2)
    z = mean + sigma * rng.normal(size=(100_000, 10))
    log_q = -0.5 * ((z - mean) / sigma) ** 2 - np.log(sigma)
    ratios = (log_q + 0.5 * z**2).sum(axis=1)
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(float(nb.kl_divergence(mean, log_variance)) - ratios.mean()) < 3 * error


def test_leash_and_price_add_up_to_the_kl(nb, rng):
    mean, log_variance = rng.normal(size=(2, 100, 10))
    np.testing.assert_allclose(nb.leash(mean), mean**2 / 2)
    assert float(nb.price(np.float32(0))) == 0
    both = nb.leash(mean) + nb.price(log_variance)
    np.testing.assert_allclose(both, divergence(mean, log_variance), atol=1e-6)


def test_the_vae_pays_the_whole_kl(nb, vae, images):
    expected = divergence(*vae.encoder(images)).sum(axis=1)
    assert expected.min() > 0
    np.testing.assert_allclose(vae.loss_terms(images)["kl"], expected, rtol=1e-4)
    np.testing.assert_allclose(nb.evaluate(vae, images)["kl"], expected, rtol=1e-4)


def test_the_corners_pay_one_half_of_the_kl_each(nb, images):
    noise, leash = (prepare(nb, name)[0] for name in CORNERS[2:])
    mean, log_variance = noise.encoder(images)
    expected = divergence(mean, log_variance).sum(axis=1) - (mean.numpy() ** 2 / 2).sum(
        axis=1
    )
    np.testing.assert_allclose(
        noise.loss_terms(images)["kl"], expected, rtol=1e-3, atol=1e-5
    )
    codes = leash.embed(images)
    np.testing.assert_allclose(
        leash.loss_terms(images)["kl"], (codes**2 / 2).sum(axis=1), rtol=1e-4
    )
    paid = leash.loss_terms(images)["reconstruction"]
    np.testing.assert_allclose(
        paid, nb.binary_cross_entropy(images, leash(images)), rtol=1e-4
    )


def without_noise(vae):
    """Make the clouds of `vae` tiny, so that a draw is the mean."""
    vae.encoder.log_variance.bias.assign(np.full(10, -40, "float32"))
    return vae


def test_a_training_step_takes_all_terms_and_says_what_they_were(nb, vae, images):
    without_noise(vae)
    expected = cross_entropy(images, vae(images))
    expected += divergence(*vae.encoder(images)).sum(axis=1)
    losses = nb.train_step(vae, images)
    assert losses.shape == (200,)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_the_gradient_of_the_kl_arrives_in_full(nb, vae, images):
    without_noise(vae)
    vae.compile(keras.optimizers.SGD(1.0))
    vae.optimizer.build(vae.trainable_variables)
    before = vae.encoder.log_variance.bias.numpy()
    nb.train_step(vae, images)
    # without noise only the price depends on it: ½ (σ² − 1) per dimension
    moved = vae.encoder.log_variance.bias.numpy() - before
    np.testing.assert_allclose(moved, 0.5, atol=1e-3)


def test_loss_terms_have_the_right_names(model, nb, images):
    terms = nb.evaluate(model, images)
    assert set(terms) == {"reconstruction"} | (
        {"kl"} if isinstance(model, nb.VAE) else set()
    )
    assert all(values.shape == (200,) for values in terms.values())


def test_the_slip_divides_the_reconstruction_by_784(nb, vae, images, rng):
    slip, noise = prepare(nb, "MeanOverPixelsVAE")[0], rng.normal(size=(200, 10))
    right, wrong = (
        model.loss_terms(images, noise.astype("float32")) for model in (vae, slip)
    )
    np.testing.assert_allclose(
        wrong["reconstruction"] * 784, right["reconstruction"], rtol=1e-5
    )
    np.testing.assert_allclose(wrong["kl"], right["kl"], rtol=1e-5)


# --- sampling


def test_sampling_has_the_right_moments_and_new_noise(nb):
    mean = tf.fill((50_000, 2), 3.0)
    log_variance = tf.fill((50_000, 2), np.float32(np.log(4.0)))
    sampling = nb.Sampling()
    first, second = (sampling(mean, log_variance).numpy() for _ in range(2))
    assert first.mean() == pytest.approx(3, abs=0.05)
    assert first.std() == pytest.approx(2, abs=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_noise_of_ones_own_is_taken_as_it_is(nb):
    mean, log_variance, noise = np.float32([[1, 2], [np.log(4), 0], [3, -1]])[:, None]
    drawn = nb.Sampling()(mean, log_variance, noise)
    np.testing.assert_allclose(drawn, [[1 + 2 * 3, 2 - 1]], rtol=1e-6)


def test_the_same_seed_gives_the_same_noise(nb, images):
    runs = [prepare(nb, "VAE")[0].loss_terms(images) for _ in range(2)]
    np.testing.assert_array_equal(*(terms["reconstruction"] for terms in runs))


def test_gradients_reach_mean_and_log_variance(vae, images):
    with tf.GradientTape() as tape:  # without the KL's help
        loss = tf.reduce_mean(vae.loss_terms(images)["reconstruction"])
    heads = [vae.encoder.code.kernel, vae.encoder.log_variance.kernel]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, heads))


def test_the_vae_samples_in_training_only(vae, images):
    np.testing.assert_array_equal(vae(images), vae(images))
    assert np.abs(vae(images, training=True) - vae(images, training=True)).max() > 0
    first, second = (vae.loss_terms(images)["reconstruction"] for _ in range(2))
    assert np.abs(first - second).max() > 0


def test_evaluating_does_not_change_the_course_of_a_training(nb, images):
    courses = []
    for look in (False, True):
        model, batches = prepare(nb, "VAE")
        for batch in batches:
            nb.train_step(model, batch)
            if look:
                nb.evaluate(model, images)
                model.embed(model(images).numpy())
        generator = model.sampling.seed_generator.state.numpy()
        courses.append([generator, *weights(model)])
    for a, b in zip(*courses):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(courses[0][0], courses[1][0])


def test_evaluating_twice_gives_the_same(model, nb, images):
    first, second = (nb.evaluate(model, images) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_the_evaluation_of_the_vae_draws_codes(nb, vae, images):
    with_noise = nb.evaluate(vae, images)["reconstruction"]
    assert np.abs(with_noise - cross_entropy(images, vae(images))).max() > 0.01
