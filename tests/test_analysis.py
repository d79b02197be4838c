"""What the figures and claims are computed with."""

import numpy as np
import pytest
from PIL import Image


def test_interpolation_is_linear_and_meets_its_ends(nb, rng):
    start, end = rng.normal(size=(2, 4, 10)).astype("float32")
    line = nb.interpolate(start, end, 5)
    assert line.shape == (4, 5, 10)
    np.testing.assert_allclose(line[:, 0], start)
    np.testing.assert_allclose(line[:, -1], end)
    np.testing.assert_allclose(line[:, 2], (start + end) / 2, rtol=1e-5)


def test_example_pairs_follow_their_rule(nb):
    labels = np.array([1, 0, 2, 1, 0])
    images = np.array([0.5, 0.4, 1.0, 0.5, 0.4])[:, None, None, None] * np.ones((1, 28, 28, 1))
    assert nb.example_pairs(images, labels).tolist() == [[0, 3], [1, 0], [1, 2]]


def test_neighbour_votes_leave_the_point_itself_out(nb):
    points = np.concatenate([np.zeros((11, 2)), np.full((1, 2), 0.01), np.full((11, 2), 9.0)])
    points += np.arange(len(points))[:, None] * 1e-6
    labels = np.array([0] * 11 + [5] + [1] * 11)
    votes = nb.neighbour_votes(points, labels)
    assert votes.shape == (23, 10) and (votes.sum(axis=1) == 10).all()
    assert votes[11].tolist() == [10] + [0] * 9  # its own label 5 is not among its votes


def test_knn_labels_take_the_majority_of_ten(nb):
    codes = np.concatenate([np.zeros((6, 2)), np.ones((4, 2)), np.full((9, 2), 50.0)])
    labels = np.array([3] * 6 + [4] * 4 + [5] * 9)
    assert nb.knn_labels(codes, labels, np.full((1, 2), 0.9)).tolist() == [3]


def test_frechet_distance_of_known_gaussians(nb, rng):
    a = rng.normal(size=(200_000, 3))
    assert nb.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shifted = 2 * rng.normal(size=(200_000, 3)) + [3, 0, 0]  # 3² + 3 · (1 + 4 − 2 · 2)
    assert nb.frechet_distance(a, shifted) == pytest.approx(12, rel=0.02)


def test_draws_have_the_width_of_the_codes_and_no_order(nb, rng):
    assert nb.sample_codes(None, 50, 0).shape == (50, nb.LATENT_DIM)
    codes = np.concatenate([rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + 50])
    mixture = nb.GaussianMixture(2, random_state=0).fit(codes)
    draws = nb.sample_codes(mixture, 200, 1)
    near = draws[:, 0] < 25
    assert 0.3 < near[:100].mean() < 0.7  # both components from the start
    assert not np.array_equal(draws, nb.sample_codes(mixture, 200, 2))


class Judge:
    """Sure of bright images, unsure of dark ones."""

    def __call__(self, images):
        bright = images.mean(axis=(1, 2, 3))
        return np.stack([bright, 1 - bright], axis=1)


def test_a_cross_fade_is_even_and_a_jump_is_not(nb, rng):
    real = rng.uniform(size=(30, 784)).astype("float32")
    fade = nb.interpolate(real[:5], real[5:10]).reshape(5, 11, 28, 28, 1)
    measured = nb.walk_statistics(fade, Judge(), real)
    np.testing.assert_allclose(measured["unevenness"], 0, atol=1e-4)
    assert all(len(values) == 5 for values in measured.values())
    jump = fade.copy()
    jump[:, :6], jump[:, 6:] = fade[:, :1], fade[:, -1:]
    assert (nb.walk_statistics(jump, Judge(), real)["unevenness"] > 2).all()


@pytest.mark.parametrize(("shift", "holds"), [(1.0, True), (-1.0, False), (0.0, None)])
def test_a_claim_holds_fails_or_is_noise(nb, rng, shift, holds):
    noise = rng.normal(size=400)
    noise -= noise.mean()
    theirs = rng.normal(size=400)
    values = {"more": theirs + noise + shift, "less": theirs - noise - shift, "theirs": theirs}
    nb.claim("larger", values, "more", "theirs")
    nb.claim("smaller", values, "less", "theirs", smaller=True)
    assert [row["holds"] for row in nb.claims] == [holds, holds]


def test_figures_have_number_caption_and_alternative_text(nb, monkeypatch):
    shown = []
    nb.display = lambda thing, **options: shown.append((thing, options))
    nb.show(nb.grid_figure(np.zeros((2, 3, 28, 28))), "some_name", "A caption.", "What is seen.")
    assert shown[0][1] == {"metadata": {"image/png": {"alt": "What is seen."}}}
    assert "A caption." in shown[1][0].data and "Figure" in shown[1][0].data
    with Image.open(f"{nb.FIGURES}/some_name.png") as picture:
        assert 600 < picture.width < 1000


def test_an_unwritable_folder_costs_the_file_not_the_figure(nb, capsys, tmp_path):
    shown = []
    nb.display = lambda thing, **options: shown.append(thing)
    nb.FIGURES = str(tmp_path / "file")
    (tmp_path / "file").write_text("in the way")
    nb.show(nb.grid_figure(np.zeros((1, 2, 28, 28))), "name", "Caption.", "Alt.")
    assert len(shown) == 2 and "could not be saved" in capsys.readouterr().out


def test_grids_put_images_in_rows_and_columns(nb):
    images = np.zeros((2, 3, 28, 28))
    images[1, 2] = 1
    figure = nb.grid_figure(images)
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape == (60, 90)
    assert picture[31:59, 61:89].min() == 1 and picture.sum() == 28 * 28


@pytest.mark.parametrize(
    ("name", "value"),
    [("LATENT_DIM", 0), ("EPOCHS", 0), ("BATCH_SIZE", 0), ("LEARNING_RATE", -1), ("EPOCHS", 1.5)],
)
def test_parameters_out_of_range_are_named(nb, name, value):
    setattr(nb, name, value)
    with pytest.raises(ValueError, match=f"{name} has to be"):
        nb.check_parameters()
