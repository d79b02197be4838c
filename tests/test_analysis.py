"""What figures, tables and verdicts are computed with, where the answer is known."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image


class Blank:
    """Code (n, d) → images whose first pixels are the code; the rest is 0."""

    def embed(self, images):
        return np.reshape(images, (len(images), 784))[:, : self.width]

    def decoder(self, codes):
        images = np.zeros((len(codes), 784), "float32")
        images[:, : self.width] = codes
        return images.reshape(-1, 28, 28, 1)

    def __init__(self, width=2):
        self.width = width


def normal(x, mean=0.0, variance=1.0):
    """Return the log-density of N(mean, variance)."""
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


# --- the pieces


def test_interpolation_is_linear_and_meets_its_ends(nb, rng):
    start, end = rng.normal(size=(2, 4, 10)).astype("float32")
    line = nb.interpolate(start, end, 5)
    assert line.shape == (4, 5, 10)
    np.testing.assert_allclose(line[:, 0], start)
    np.testing.assert_allclose(line[:, -1], end)
    np.testing.assert_allclose(line[:, 2], (start + end) / 2, rtol=1e-5)


def test_a_walk_starts_and_ends_at_the_reconstructions(nb, images):
    model = nb.PrincipalComponents(images, 5)
    line = nb.walk(model, images[:3], images[3:6])
    assert line.shape == (3, 11, 28, 28, 1)
    ends = model.decoder(model.embed(images[:6]))
    np.testing.assert_allclose(line[:, 0], ends[:3], atol=1e-5)
    np.testing.assert_allclose(line[:, -1], ends[3:], atol=1e-5)


def test_example_pairs_follow_their_rule(nb):
    labels = np.array([1, 0, 2, 1, 0])
    images = np.array([0.5, 0.4, 1.0, 0.5, 0.4])[:, None, None, None]
    images = images * np.ones((1, 28, 28, 1))
    assert nb.example_pairs(images, labels).tolist() == [[0, 3], [1, 0], [1, 2]]


def test_random_pairs_are_of_one_class_or_of_two_and_never_the_same_image(nb):
    nb.test_labels = np.arange(200) % 7
    for within in (True, False):
        pairs = nb.draw_pairs(within)
        assert pairs.shape == (nb.PAIRS, 2)
        labels = nb.test_labels[pairs]
        assert ((labels[:, 0] == labels[:, 1]) == within).all()
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert len(np.unique(pairs, axis=0)) > 1


def test_large_arrays_go_in_portions_and_in_order(nb):
    sizes = []
    double = lambda part: sizes.append(len(part)) or 2 * part
    np.testing.assert_array_equal(
        nb.in_batches(double, np.arange(25), size=10), 2 * np.arange(25)
    )
    assert sizes == [10, 10, 5]


def test_nearer_neighbours_have_more_to_say(nb):
    codes = np.concatenate([np.zeros((6, 2)), np.ones((4, 2)), np.full((9, 2), 50.0)])
    labels = np.array([3] * 6 + [4] * 4 + [5] * 9)
    # six votes from .9 · √2 away against four from .1 · √2
    assert nb.knn_votes(codes, labels, np.full((1, 2), 0.9)).tolist() == [4]
    assert nb.knn_votes(codes, labels, np.full((1, 2), 0.5)).tolist() == [3]


def test_an_eleventh_neighbour_has_no_vote(nb):
    codes = np.array([[1.0]] * 4 + [[-1.0]] * 6 + [[1.1]] * 9)
    labels = np.array([0] * 4 + [1] * 6 + [0] * 9)
    assert nb.knn_votes(codes, labels, np.zeros((1, 1))).tolist() == [1]


def test_votes_without_queries_leave_the_point_itself_out(nb):
    points = np.repeat([[0.0, 0], [0.01, 0], [9, 9]], [11, 1, 11], axis=0)
    points += np.arange(len(points))[:, None] * 1e-6
    labels = np.array([0] * 11 + [5] + [1] * 11)
    votes = nb.knn_votes(points, labels)
    assert votes.tolist() == [0] * 12 + [1] * 11  # not 5, which is its own label


# --- models beside the networks


def test_pixels_are_an_embedding_that_keeps_everything(nb, images):
    pixels = nb.Pixels()
    assert pixels.embed(images).shape == (200, 784)
    np.testing.assert_array_equal(pixels.decoder(pixels.embed(images)), images)


def test_principal_components_are_the_best_linear_code(nb, images):
    model = nb.PrincipalComponents(images, 7)
    codes = model.embed(images)
    assert codes.shape == (200, 7)
    flat = images.reshape(200, 784)
    *_, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    best = (flat - flat.mean(axis=0)) @ directions[:7].T @ directions[:7]
    best = (best + flat.mean(axis=0)).reshape(images.shape)
    np.testing.assert_allclose(model.decoder(codes), best, atol=1e-3)


def test_an_analysis_keeps_codes_reconstructions_votes_and_measures(nb):
    model = nb.PrincipalComponents(nb.train_images, 5)
    nb.analyse("PCA-5", model)
    seen, unseen = nb.codes["PCA-5"]
    np.testing.assert_array_equal(seen, model.embed(nb.train_images))
    np.testing.assert_array_equal(unseen, model.embed(nb.test_images))
    error = (nb.test_images - nb.reconstructions["PCA-5"]) ** 2
    np.testing.assert_allclose(
        nb.measured["mse"]["PCA-5"], error.mean(axis=(1, 2, 3)), rtol=1e-4
    )
    right = nb.knn_votes(seen, nb.train_labels, unseen) == nb.test_labels
    np.testing.assert_array_equal(nb.measured["knn"]["PCA-5"], right)
    np.testing.assert_array_equal(nb.votes["PCA-5"] == nb.test_labels, right)
    assert 0.3 < right.mean() < 1


def test_of_networks_the_loss_terms_are_kept_too_and_no_yardstick_changes_them(nb):
    vae = nb.VAE(nb.LATENT_DIM)
    nb.analyse("VAE", vae)
    terms = nb.evaluate(vae, nb.test_images)
    for name, values in terms.items():
        np.testing.assert_array_equal(nb.measured[name]["VAE"], values)
    nb.analyse("pixels", nb.Pixels())
    np.testing.assert_array_equal(nb.measured["loss"]["VAE"], sum(terms.values()))
    # beside it what the picture decoded from the mean costs
    at_mean = nb.binary_cross_entropy(nb.test_images, vae(nb.test_images))
    kept = nb.measured["cross_entropy"]["VAE"]
    np.testing.assert_allclose(kept, at_mean, rtol=1e-4)
    assert np.abs(kept - terms["reconstruction"]).max() > 0.01


def test_a_table_shows_means_and_a_dash_for_what_was_not_measured(nb, capsys):
    nb.measured["mse"] = {"a": np.array([0.1, 0.2]), "b": np.array([0.5])}
    nb.measured["knn"] = {"a": np.array([1.0, 0.0])}
    nb.print_table(["mse", "knn"], ["a", "b"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["mse", "knn"]
    assert [row.split() for row in rows] == [
        ["a", "0.1500", "0.5000"],
        ["b", "0.5000", "–"],
    ]


# --- walks


class Bent:
    """Codes (n, 1) → evenly grey images, of the square of the code."""

    def decoder(self, codes):
        return np.tile(np.square(codes)[:, :, None, None], (1, 28, 28, 1))


def test_halfway_between_images_that_fade_is_the_middle(nb, images):
    pixels, starts, ends = nb.Pixels(), images[:20], images[20:40]
    middle = nb.halfway(pixels, pixels.embed(starts), pixels.embed(ends))
    np.testing.assert_allclose(middle, (starts + ends) / 2, atol=1e-5)


def test_halfway_is_as_far_from_either_end_also_where_the_code_is_not(nb):
    starts, ends = np.zeros((1, 1), "float32"), np.ones((1, 1), "float32")
    middle = nb.halfway(Bent(), starts, ends)
    np.testing.assert_allclose(middle, 0.5, atol=0.03)  # at t = .71
    back = nb.halfway(Bent(), ends, starts)
    np.testing.assert_allclose(back, 0.5, atol=0.03)


def test_halfway_of_a_walk_that_goes_nowhere_is_there(nb):
    same = np.full((3, 1), 0.5, "float32")
    np.testing.assert_allclose(nb.halfway(Bent(), same, same), 0.25, atol=1e-5)


class Half:
    """Decodes half of what it was given."""

    def embed(self, images):
        return np.reshape(images, (-1, 784))

    def decoder(self, codes):
        return np.reshape(codes, (-1, 28, 28, 1)) / 2


def nearest(images, pictures):
    """Return how far each of `pictures` is from the nearest of `images`, (n,).

    As the correlation r of their pixels tells it: √(2 − 2 r).
    """
    images, pictures = (np.float64(x).reshape(len(x), 784) for x in (images, pictures))
    r = np.corrcoef(pictures, images)[: len(pictures), len(pictures) :]
    return np.sqrt(np.maximum(2 - 2 * r, 0).min(axis=1))


def test_neither_a_pale_nor_a_blank_nor_a_random_picture_is_near(nb, rng):
    unseen = nb.test_images[:20]
    usual = nb.distance_to_images(unseen)
    np.testing.assert_allclose(usual, nearest(nb.train_images, unseen), rtol=1e-3)
    np.testing.assert_allclose(nb.distance_to_images(unseen / 4), usual, rtol=1e-3)
    noise = rng.uniform(size=(5, 28, 28, 1)).astype("float32")
    assert nb.distance_to_images(noise).min() > usual.max()
    assert nb.distance_to_images(0 * unseen).min() > usual.max()


def test_walks_and_fades_of_the_models_own_pictures_are_measured(nb, rng):
    nb.codes["Half"] = None, Half().embed(nb.test_images)
    pairs = rng.integers(200, size=(15, 2))
    starts, ends = nb.test_images[pairs.T]
    fade = (starts + ends) / 4  # of the reconstructions, not of the images
    blurred = [nb.gaussian_filter(x, (1, 1)) for x in fade[..., 0]]
    expected = {"walk": fade, "own_fade": fade, "fade_blurred": np.stack(blurred)}
    expected["fade_through_model"] = fade / 2
    nb.measure_walks("Half", Half(), pairs)
    for name, pictures in expected.items():
        measured = nb.measured[f"distance_{name}"]["Half"]
        np.testing.assert_allclose(measured, nearest(nb.train_images, pictures), 1e-3)


def jumping_codes(rng, count, bump_at_switch):
    """Return codes (position, threshold, place of a bump) of `count` pairs, and pairs.

    Along each walk the position goes from 0 to 1 and passes the threshold once.
    """
    thresholds = (rng.integers(10, size=count) + 0.5) / 10
    places = thresholds if bump_at_switch else (rng.integers(10, size=count) + 0.5) / 10
    ends = [
        np.stack([np.full(count, x), thresholds, places], axis=1) for x in (0.0, 1.0)
    ]
    pairs = np.arange(2 * count).reshape(2, count).T
    return np.concatenate(ends).astype("float32"), pairs


class Jumper:
    """One pixel tells the class; the others change evenly, but for one large step."""

    def decoder(self, codes):
        images = np.zeros((len(codes), 28, 28, 1), "float32")
        images[:, 0, 0, 0] = codes[:, 0] > codes[:, 1]
        images[:, 1, :, 0] = codes[:, :1] / 10
        images[:, 2:, :, 0] = (codes[:, 0] > codes[:, 2])[:, None, None]
        return images


def measure_jumps(nb, codes, pairs):
    nb.codes["Jumper"] = None, codes
    nb.judged_classes = lambda images: (images[:, 0, 0, 0] > 0.5).astype(int)
    nb.measure_jumps("Jumper", Jumper(), pairs)
    names = "step_at_switch", "step_at_switch_chance"
    return [nb.measured[name]["Jumper"] for name in names]


def test_a_model_that_jumps_where_the_class_switches_is_seen_to(nb, rng):
    at_switch, chance = measure_jumps(nb, *jumping_codes(rng, 300, True))
    assert at_switch.mean() == 1 and len(at_switch) == 300
    assert chance.mean() == pytest.approx(0.1, abs=0.03)


def test_a_model_that_jumps_anywhere_does_so_by_chance(nb, rng):
    at_switch, chance = measure_jumps(nb, *jumping_codes(rng, 1000, False))
    assert at_switch.mean() == pytest.approx(0.1, abs=0.04)
    assert chance.mean() == pytest.approx(0.1, abs=0.02)


def test_walks_of_one_class_or_with_two_switches_do_not_count(nb, rng):
    codes, pairs = jumping_codes(rng, 30, True)
    codes[[0, 1, 30, 31], 1] = 2  # never switched
    at_switch, chance = measure_jumps(nb, codes, pairs)
    assert len(at_switch) == len(chance) == 28


# --- deserts


def test_whitened_codes_have_covariance_one_and_no_idle_dimension(nb, rng):
    mixing = np.diag([3.0, 1.0, 0.5, 1e-3]) @ np.eye(4)
    mixing[0, 1] = 2
    seen, other = rng.normal(size=(500, 4)) @ mixing + 7, rng.normal(size=(5, 4))
    white, other_white = nb.whiten(seen, other)
    assert white.shape == (500, 3) and other_white.shape == (5, 3)
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-6)
    # the same turn for all: lines stay lines
    both = nb.whiten(seen, np.stack([seen[:5], seen[5:10]]).mean(axis=0))[1]
    np.testing.assert_allclose(both, (white[:5] + white[5:10]) / 2, atol=1e-6)


def test_emptiness_is_the_distance_to_the_nearest_code_over_the_usual_one(nb):
    seen = np.array([[0.0, 0], [10, 0]])
    unseen = np.array([[0.0, 2], [10, 2], [0, 2]])
    pairs = np.array([[0, 1], [0, 0], [2, 2]])
    ends = np.array([[0.0, 0], [10, 0], [0, 1]])
    np.testing.assert_allclose(nb.emptiness(seen, unseen, ends, pairs), [2.5, 0, 0.5])


def measure_deserts(nb, seen, unseen, labels):
    """Return the medians halfway between classes and within one, of 300 lines each."""
    nb.test_labels, nb.PAIRS = labels, 300
    nb.pairs_between, nb.pairs_within = nb.draw_pairs(False), nb.draw_pairs(True)
    nb.measure_deserts("these", seen, unseen, unseen)
    values = [nb.measured["emptiness"][key] for key in ("these", "these, within")]
    assert [len(x) for x in values] == [300, 300]
    return np.median(values, axis=1)


def test_a_gaussian_cloud_has_no_desert(nb, rng):
    seen, unseen = rng.normal(size=(3000, 4)) * 5, rng.normal(size=(1000, 4)) * 5
    lines = measure_deserts(nb, seen, unseen, rng.integers(10, size=1000))
    np.testing.assert_allclose(lines, 1, atol=0.15)


def test_between_far_clusters_there_is_a_desert_and_within_there_is_none(nb, rng):
    labels, of_unseen = rng.integers(2, size=3000), rng.integers(2, size=1000)
    seen, unseen = (rng.normal(size=(len(x), 4)) for x in (labels, of_unseen))
    seen[:, 0], unseen[:, 0] = seen[:, 0] + 40 * labels, unseen[:, 0] + 40 * of_unseen
    between, within = measure_deserts(nb, seen, unseen, of_unseen)
    assert between > 2 and within < between / 2


def test_codes_of_clouds_are_draws_and_of_others_the_codes(nb, rng):
    mean, log_variance = np.full((4000, 2), 3.0), np.full((4000, 2), np.log(4.0))
    nb.models = {"PCA": nb.PrincipalComponents(nb.train_images, 3)}
    nb.encode_clouds = lambda images: (mean, log_variance)
    drawn = nb.draw_codes("VAE", None)
    np.testing.assert_allclose(drawn.mean(axis=0), 3, atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), 2, atol=0.15)
    exact = nb.draw_codes("PCA", nb.test_images)
    np.testing.assert_array_equal(exact, nb.models["PCA"].embed(nb.test_images))


# --- clouds


def kl(mean, log_variance):
    """The closed form, averaged over clouds: nats."""
    per_dimension = mean**2 + np.exp(log_variance) - 1 - log_variance
    return 0.5 * per_dimension.sum(axis=1).mean()


def split_kl(nb, mean, log_variance, draws=2000):
    """Return the notebook's parts at random draws by name, and what was drawn from."""
    rng = np.random.default_rng(0)
    own = rng.integers(len(mean), size=draws)
    split = lambda part: nb.split_kl(part, mean, log_variance, rng)
    names = "own_share", "information", "mismatch", "densest_other"
    parts = dict(zip(names, nb.in_batches(split, own, size=100).T))
    return parts | {"own": own, "densest_other": parts["densest_other"].astype(int)}


def test_one_cloud_for_all_images_says_nothing_about_any(nb):
    mean, log_variance = np.full((50, 3), 0.7), np.full((50, 3), -1.0)
    split = split_kl(nb, mean, log_variance)
    np.testing.assert_allclose(split["information"], 0, atol=1e-9)
    np.testing.assert_allclose(split["own_share"], 1 / 50)
    error = split["mismatch"].std() / np.sqrt(len(split["mismatch"]))
    assert abs(split["mismatch"].mean() - kl(mean, log_variance)) < 4 * error


def test_clouds_far_apart_are_told_apart(nb):
    mean, log_variance = np.zeros((50, 3)), np.zeros((50, 3))
    mean[:, 1] = 100 * np.arange(50)
    split = split_kl(nb, mean, log_variance)
    np.testing.assert_allclose(split["information"], np.log(50))
    np.testing.assert_allclose(split["own_share"], 1)
    assert (abs(split["own"] - split["densest_other"]) == 1).all()  # a next one
    assert set(split["own"]) == set(range(50))


def test_two_clouds_on_one_spot_share_it(nb):
    mean = np.repeat([[0.0, 0], [500, 0]], 2, axis=0)
    split = split_kl(nb, mean, np.zeros((4, 2)))
    np.testing.assert_allclose(split["information"], np.log(2))
    np.testing.assert_allclose(split["own_share"], 0.5)
    assert (split["own"] ^ 1 == split["densest_other"]).all()


def test_information_and_mismatch_add_up_to_the_kl(nb, rng):
    mean, log_variance = rng.normal(size=(2, 300, 4))
    split = split_kl(nb, mean, log_variance, draws=20_000)
    both = split["information"] + split["mismatch"]
    error = both.std() / np.sqrt(len(both))
    assert len(both) == 20_000 and error < 0.1
    assert abs(both.mean() - kl(mean, log_variance)) < 4 * error
    assert 0 < split["information"].mean() < np.log(300)


def test_log_densities_are_those_of_normal_distributions(nb, rng):
    z, mean, log_variance = rng.normal(size=(3, 6, 4))
    expected = normal(z[:, None], mean, np.exp(log_variance)).sum(axis=2)
    np.testing.assert_allclose(nb.log_densities(z, mean, log_variance), expected)


def test_a_borrowed_centre_costs_and_ones_own_does_not(nb, images):
    nb.vae, centres = nb.Pixels(), images.reshape(200, 784).clip(0.1, 0.9)
    own = np.arange(50)
    assert (nb.borrowed_cost(own, own, centres) == 0).all()
    guess = centres.reshape(200, 28, 28, 1)
    mine, theirs = (
        nb.binary_cross_entropy(images[:50], guess[i : i + 50]) for i in (0, 100)
    )
    expected = np.array(theirs - mine)
    assert expected.mean() > 1
    cost = nb.borrowed_cost(own, np.arange(100, 150), centres)
    np.testing.assert_allclose(cost, expected, rtol=1e-3, atol=1e-2)


# --- the bound


def bounds(nb, rng, shift=0.0, widen=1.0, noise=0.5):
    """Return bounds of log p(x) where x ~ N(z, noise²), z ~ N(0, 1), and log p(x).

    The clouds are the true posterior, shifted and widened.
    """
    x = rng.normal(size=(100, 1)) * np.sqrt(1 + noise**2)
    variance = noise**2 / (1 + noise**2)
    mean = x / (1 + noise**2) + shift
    log_variance = np.full((100, 1), np.log(variance * widen))
    log_likelihood = lambda z: normal(x[:, None], z, noise**2).sum(axis=2)
    elbo, tighter = nb.importance_bounds(log_likelihood, mean, log_variance, draws=2000)
    given_away = 0.5 * (shift**2 / variance + widen - 1 - np.log(widen))
    return elbo, tighter, normal(x[:, 0], 0, 1 + noise**2), given_away


def test_with_the_true_posterior_both_bounds_are_exact(nb, rng):
    elbo, tighter, exact, _ = bounds(nb, rng)
    np.testing.assert_allclose(elbo, exact, atol=1e-5)
    np.testing.assert_allclose(tighter, exact, atol=1e-5)


@pytest.mark.parametrize(("shift", "widen"), [(0.3, 1.0), (0.0, 0.5), (0.2, 2.0)])
def test_a_wrong_posterior_gives_some_away_and_weights_win_it_back(
    nb, rng, shift, widen
):
    elbo, tighter, exact, given_away = bounds(nb, rng, shift, widen)
    assert (exact - elbo).mean() == pytest.approx(given_away, rel=0.1)
    assert elbo.mean() < tighter.mean() < exact.mean() + 0.02
    assert tighter.mean() == pytest.approx(exact.mean(), abs=0.05)


def test_the_bound_of_the_vae_is_its_loss(nb, images):
    nb.vae = vae = nb.VAE(nb.LATENT_DIM)
    elbo, tighter = nb.measure_bound(images[:20]).T
    losses = [
        np.sum([np.array(x) for x in vae.loss_terms(images[:20]).values()], axis=0)
        for _ in range(100)
    ]
    np.testing.assert_allclose(-elbo, np.mean(losses, axis=0), rtol=2e-3)
    assert (tighter >= elbo).all()


# --- generation


def test_frechet_distance_of_known_gaussians(nb, rng):
    a = rng.normal(size=(200_000, 3))
    assert nb.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shifted = 2 * rng.normal(size=(200_000, 3)) + [3, 0, 0]  # 3² + 3 · (1 + 4 − 2 · 2)
    assert nb.frechet_distance(a, shifted) == pytest.approx(12, rel=0.02)


def test_draws_have_the_width_of_the_codes_and_no_order(nb, rng):
    codes = np.concatenate([rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + 50])
    nb.SAMPLES = 2000
    draws = nb.sample_codes(codes, 2, 1)
    assert draws.shape == (2000, 2)
    near = draws[:, 0] < 25
    assert 0.4 < near[:1000].mean() < 0.6  # both components from the start
    assert not np.array_equal(draws, nb.sample_codes(codes, 2, 2))
    one = nb.sample_codes(codes, 1, 1)
    np.testing.assert_allclose(one.mean(axis=0), codes.mean(axis=0), atol=2)
    np.testing.assert_allclose(np.cov(one.T), np.cov(codes.T), rtol=0.1)


def test_draws_from_the_prior_do_not_look_at_the_codes(nb):
    nb.SAMPLES = 5000
    draws = nb.sample_codes(np.full((10, 4), 9.0), 0, 1)
    assert draws.shape == (5000, 4)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(4), atol=0.08)


def test_generation_compares_draws_with_own_reconstructions_and_with_real(nb, rng):
    nb.SAMPLES = 3000
    nb.test_images = nb.train_images = np.tile(nb.test_images, (10, 1, 1, 1))
    # codes of one Gaussian, which a decoder shifts by 3
    codes = rng.normal(size=(2000, 2))
    nb.draw_codes = lambda name, images: codes

    class Shifted(Blank):
        def decoder(self, z):
            return super().decoder(z + 3)

    real = rng.normal(size=(2000, 2))
    nb.describe = lambda x: (
        real if x is nb.test_images else x.reshape(len(x), 784)[:, :2]
    )
    pictures = nb.measure_generation("M", Shifted())
    assert len(pictures) == 3
    assert all(x.shape == (2, 10, 28, 28) for x in pictures.values())
    assert nb.measured["to_real"]["M"] == pytest.approx(18, rel=0.1)
    for source in pictures:  # the codes are right, whatever the source; the rest is not
        own = nb.measured["to_own"][source]
        assert len(own) == 3 and np.mean(own) < 0.05
        assert np.mean(nb.measured["to_real"][source]) == pytest.approx(18, rel=0.1)


def test_ten_gaussians_describe_one_no_better_but_clusters_do(nb, rng):
    seen, unseen = rng.normal(size=(4000, 3)), rng.normal(size=(1000, 3))
    gains = nb.mixture_gains(seen, unseen)
    assert gains.shape == (1000,) and abs(gains.mean()) < 0.03
    places = rng.normal(size=(5, 3)) * 20
    seen, unseen = (x + places[rng.integers(5, size=len(x))] for x in (seen, unseen))
    assert nb.mixture_gains(seen, unseen).mean() > 0.5


# --- clouds of the VAE, and the corners


def test_clouds_are_what_the_encoder_says(nb, images):
    nb.vae = nb.VAE(nb.LATENT_DIM)
    for ours, theirs in zip(nb.encode_clouds(images), nb.vae.encoder(images)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_corners_are_described_by_spread_noise_leash_and_price(nb, images):
    vae = nb.VAE(nb.LATENT_DIM)
    row = nb.describe_corner(vae, images)
    mean, log_variance = (np.float64(x) for x in vae.encoder(images))
    assert row["spread"] == pytest.approx(np.sqrt(mean.var(axis=0).mean()), 1e-3)
    assert row["σ"] == pytest.approx(np.exp(log_variance / 2).mean(), rel=1e-3)
    assert row["leash_paid"].mean() == pytest.approx(
        (mean**2 / 2).sum(axis=1).mean(), 1e-3
    )
    both = np.mean(row["leash_paid"] + row["price_paid"])
    assert both == pytest.approx(kl(mean, log_variance), rel=1e-3)


def test_exact_codes_have_no_noise_and_pay_no_price(nb, images):
    model = nb.Autoencoder(nb.LATENT_DIM)
    row = nb.describe_corner(model, images)
    assert row["σ"] == 0 and row["price_paid"].mean() == pytest.approx(0, abs=1e-6)
    leash = (model.embed(images) ** 2 / 2).sum(axis=1).mean()
    assert row["leash_paid"].mean() == pytest.approx(leash, rel=1e-3)
    loss = np.mean(model.loss_terms(images)["reconstruction"])
    assert row["picture"].mean() == pytest.approx(loss, rel=1e-4)


# --- verdicts


def said(displayed):
    return " ".join(thing.data for thing, _ in displayed if hasattr(thing, "data"))


@pytest.mark.parametrize(
    ("shift", "holds", "words"),
    [
        (1.0, True, "**holds**"),
        (-1.0, False, "**does not hold**"),
        (0.0, None, "**is within the noise**"),
    ],
)
def test_a_verdict_holds_fails_or_is_noise(nb, displayed, rng, shift, holds, words):
    noise = rng.normal(size=400)
    noise -= noise.mean()
    theirs = 5 + rng.normal(size=400)
    nb.verdict("ours are larger", theirs + noise + shift, theirs, expected=holds)
    (row,) = nb.verdicts.values()
    assert (row["claim"], row["holds"], row["expected"]) == (
        "ours are larger",
        holds,
        holds,
    )
    assert row["effect"] == pytest.approx(shift, abs=1e-9)
    width = 1.966 * noise.std(ddof=1) / 20  # Student's t, paired
    np.testing.assert_allclose(row["interval"], [shift - width, shift + width], 1e-2)
    text = said(displayed)
    assert words in text and "ours are larger" in text and "n = 400" in text
    assert "text says" not in text


@pytest.mark.parametrize("expected", [True, None])
def test_a_verdict_against_the_text_says_so(nb, displayed, rng, expected):
    nb.verdict("larger", rng.normal(size=50) - 9, 0, expected=expected)
    words = {True: "holds", None: "is within the noise"}[expected]
    assert f"**does not hold** (the text says: {words})" in said(displayed)


def test_a_verdict_given_again_takes_the_place_of_the_last(nb, displayed, rng):
    for shift in (9, -9):
        nb.verdict("larger", rng.normal(size=50) + shift)
    assert [row["holds"] for row in nb.verdicts.values()] == [False]


def test_of_too_few_values_no_verdict_is_given(nb, displayed):
    nb.verdict("larger", np.array([1.0]), np.array([0.0]))
    assert not nb.verdicts and "too few" in said(displayed)


# --- figures


def picture(nb):
    return nb.plot_grid(np.zeros((2, 3, 28, 28)))


@pytest.mark.parametrize("update", [False, True])
def test_figures_have_number_caption_and_description(nb, displayed, update):
    nb.show(picture(nb), "some_name", "A caption.", "What is seen.", update=update)
    nb.show(picture(nb), "other", "Another.", "Seen.", update=update)
    (content, options), (caption, _), *_ = displayed
    assert options["metadata"] == {"image/png": {"alt": "What is seen."}}
    assert content["text/plain"] == "What is seen." and options["raw"]
    assert caption.data == "**Figure 2.** A caption."
    assert displayed[3][0].data == "**Figure 3.** Another."
    with Image.open(f"{nb.FIGURES}-stand-in/some_name.png") as saved:
        assert 600 < saved.width < 1000
    shown = Image.open(io.BytesIO(base64.b64decode(content["image/png"])))
    assert shown.size == saved.size
    places = [options["display_id"] for _, options in displayed]
    assert len(set(places)) == 4  # each its own, so that it can be replaced
    assert all(bool(o.get("update")) == update for _, o in displayed)


def test_a_figure_shown_again_keeps_its_number(nb, displayed):
    for name in ("one", "two", "one"):
        nb.show(picture(nb), name, "Caption.", "Seen.")
    numbers = re.findall(r"Figure (\d+)", said(displayed))
    assert numbers == ["2", "3", "2"]


def test_an_unwritable_folder_costs_the_file_not_the_figure(
    nb, displayed, capsys, tmp_path
):
    nb.FIGURES = str(tmp_path / "file")
    (tmp_path / "file-stand-in").write_text("in the way")
    nb.show(picture(nb), "name", "Caption.", "Seen.")
    assert len(displayed) == 2 and "could not be saved" in capsys.readouterr().out


def test_grids_put_images_in_rows_and_columns(nb):
    images = np.zeros((2, 3, 28, 28, 1))
    images[1, 2] = 1
    figure = nb.plot_grid(images, ["a", "b"], ["x", "y", "z"])
    (axes,) = figure.axes
    drawn = axes.images[0].get_array()
    assert drawn.shape == (60, 90)
    assert drawn[31:59, 61:89].min() == 1 and drawn.sum() == 28 * 28
    assert axes.images[0].get_clim() == (0, 1)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["x", "y", "z"]
    nb.plt.close(figure)


# --- parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LATENT_DIM", 0),
        ("LATENT_DIM", 1),
        ("EPOCHS", 0),
        ("EPOCHS", 1.5),
        ("BATCH_SIZE", 0),
        ("LEARNING_RATE", -1),
        ("SEED", -1),
        ("SEED", 0.5),
        ("TRAIN_IMAGES", 100),
        ("TEST_IMAGES", 10),
        ("CURVE_IMAGES", 5),
        ("MAP_IMAGES", 5),
        ("PAIRS", 0),
        ("SAMPLES", 10),
        ("JUDGE_EPOCHS", 0),
        ("CORNER_IMAGES", 10),
        ("CORNER_EPOCHS", 0),
    ],
)
def test_parameters_out_of_range_are_named(nb, name, value):
    setattr(nb, name, value)
    with pytest.raises(ValueError, match=rf"{name} = {value} has to be a"):
        nb.check_parameters()


def test_changed_parameters_are_named(nb):
    nb.TRAIN_IMAGES, nb.TEST_IMAGES = 60_000, 10_000
    nb.CURVE_IMAGES, nb.PAIRS = 2_000, 500
    assert nb.check_parameters() == []
    nb.EPOCHS, nb.LEARNING_RATE = 3, 0.001
    assert nb.check_parameters() == ["EPOCHS", "LEARNING_RATE"]


def test_the_worked_examples_come_out_as_the_text_says(nb, capsys):
    paid = nb.kl_divergence(np.ones((1, 1)), np.full((1, 1), 2 * np.log(0.5)))
    assert f"{float(paid[0]):.3f}" == "0.818"
    nb.try_gradients()
    trick, _, outside, remaining = capsys.readouterr().out.splitlines()
    assert "None" not in trick + remaining
    assert outside.count("None") == 2  # a draw made outside the graph
    assert re.findall(r"-?\d\.\d+", remaining) == ["1.0", "-0.316"]  # μ, ½ (σ² − 1)
