"""Kinetics in closed form, scores against planted truth, two conditions, and checks that must fire and must not."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cryonb import manifold, plot, simulate
from cryonb.manifold import checks
from cryonb.manifold.checks import LIGHTS, Answer, Checks, _junk_mixture
from cryonb.manifold.dependence import score_test
from cryonb.manifold.heterogeneity import _agreement
from cryonb.manifold.observations import observe
from cryonb.samples import ribosome
from cryonb.types import EnergyLandscape

EDGES = np.linspace(0, 1, 31)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2


def wells(x, tilt=0.0):
    """Two wells at 0.25 and 0.75, 3 kT between them."""
    u = (np.asarray(x) - 0.5) / 0.25
    return 3 * (u**2 - 1) ** 2 + tilt * u


def placed(energy, n, seed, blur=0.08):
    """Coordinates from a landscape, and what a measurement with a known error says of them."""
    rng = np.random.default_rng(seed)
    fine = (np.arange(4000) + 0.5) / 4000
    weight = np.exp(-energy(fine))
    truth = rng.choice(fine, n, p=weight / weight.sum())
    seen = truth + blur * rng.standard_normal(n)
    return truth, -0.5 * ((seen[:, None] - CENTERS) / blur) ** 2


def found_from(log_likelihood, seed=0):
    """The parts of a `ConformationalLandscape` that scores and comparisons read."""
    flat = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    flat /= flat.sum(1, keepdims=True)
    landscape = manifold.deconvolve_landscape(log_likelihood, EDGES, rng=seed, gauge="x (1)")
    posterior = flat * landscape.probability
    posterior /= posterior.sum(1, keepdims=True)
    return SimpleNamespace(
        coordinate=posterior @ CENTERS, flat_coordinate=flat @ CENTERS, nodes=CENTERS, landscape=landscape,
        counting=manifold.counting_landscape(flat @ CENTERS, EDGES), log_likelihood=log_likelihood,
        effective_particles=posterior.sum(0), volumes=[],
    )  # fmt: skip


def exact_passage(energy, start, end, n=4000):
    """Mean first-passage time on the unit interval, reflecting at 0: ∫ e^F ∫ e^−F (Gardiner, eq. 5.5.23)."""
    x = (np.arange(n) + 0.5) / n
    inner = np.cumsum(np.exp(-energy(x))) / n
    between = (x >= start) & (x < end)
    return float((np.exp(energy(x)) * inner)[between].sum() / n)


def test_passage_times_are_those_of_the_double_integral():
    edges = np.linspace(0, 1, 161)
    landscape = EnergyLandscape(wells((edges[1:] + edges[:-1]) / 2, tilt=0.5), [edges])
    times = manifold.passage_times(landscape)
    left, right = np.argsort([basin.position[0] for basin in times.basins])
    start, end = (times.basins[k].position[0] for k in (left, right))
    forward = exact_passage(lambda x: wells(x, 0.5), start, end)
    backward = exact_passage(lambda x: wells(1 - x, 0.5), 1 - end, 1 - start)
    assert times.times[left, right] == pytest.approx(forward, rel=0.02)
    assert times.times[right, left] == pytest.approx(backward, rel=0.02)
    assert times.times[left, right] > times.times[right, left]  # out of the deeper well it takes longer
    assert times.times[left, left] == 0


def test_rates_keep_the_landscape():
    """Detailed balance, in two dimensions, around a hole that nothing was seen in."""
    energy = np.random.default_rng(0).random((6, 7))
    energy[2:4, 3] = np.nan
    rates, cells = manifold.rate_matrix(EnergyLandscape(energy, [np.arange(7.0), np.arange(8.0)], gauge=("a", "b")))
    weight = np.exp(-energy.ravel()[cells])
    flow = weight[:, None] * rates.toarray()
    assert len(cells) == 40 and np.allclose(flow, flow.T) and np.allclose(flow.sum(1), 0)


def test_what_cannot_be_reached_takes_for_ever():
    energy = wells(CENTERS)
    energy[14:16] = np.nan
    parted = EnergyLandscape(energy, [EDGES])
    times = manifold.passage_times(parted).times
    assert np.isinf(times[0, 1]) and np.isinf(times[1, 0])
    start, end = np.arange(30) == 3, np.arange(30) == 8
    found = manifold.committor(parted, start, end)
    assert np.isnan(found[20:]).all() and found[3] == 0 and found[8] == 1
    with pytest.raises(ValueError, match="must be apart"):
        manifold.committor(parted, start, start)
    with pytest.raises(ValueError, match="bins of equal width"):
        manifold.rate_matrix(EnergyLandscape(np.zeros(3), [np.array([0, 1.0, 2.0, 4.0])]))


def test_the_transition_state_is_the_top_of_the_barrier():
    landscape = EnergyLandscape(wells(CENTERS), [EDGES])
    basins = manifold.find_basins(landscape)
    ends = [np.arange(30) == int(np.argmin(np.abs(CENTERS - basin.position[0]))) for basin in basins]
    found = manifold.committor(landscape, *sorted(ends, key=np.argmax))
    assert found[14:16].mean() == pytest.approx(0.5) and (np.diff(found)[7:23] > -1e-12).all()


def test_scores_of_a_landscape_that_is_right_and_of_one_that_is_not():
    truth, log_likelihood = placed(wells, 4000, 0)
    found = found_from(log_likelihood)
    good = manifold.score(found, truth, wells, oracle=found.coordinate)
    assert good.spearman_fraction_of_oracle == 1 and good.spearman > 0.85
    assert good.landscape_rms_kt < 0.4 < good.counting_rms_kt + 0.2 and good.landscape_rms_kt < good.counting_rms_kt
    assert good.population_error < 0.03 and abs(good.barrier_error_kt) < 0.5 and good.wasserstein < 0.02
    assert good.amplitude_ratio == pytest.approx(1, abs=0.1) and good.coverage > 0.6
    assert np.isnan(good.fsc_auc) and good.information_imbalance[0] < 0.5
    shuffled = np.random.default_rng(1).permutation(truth)
    bad = manifold.score(found, shuffled, lambda x: wells(x, tilt=1.5))
    assert bad.spearman < 0.1 and bad.population_error > 0.2 and bad.landscape_rms_kt > 2 * good.landscape_rms_kt
    assert bad.neighbourhood_similarity == pytest.approx(0.05, abs=0.02) and bad.information_imbalance[0] > 0.9
    assert good.as_dict()["spearman"] == round(good.spearman, 4)
    with pytest.raises(ValueError, match=r"finite numbers of shape \(4000,\), a row per particle, got \(3999,\)"):
        manifold.score(found, truth[:-1])


def test_two_conditions_are_told_apart_only_where_they_differ():
    one, other = (placed(lambda x, t=t: wells(x, t), 800, k)[1] for k, t in enumerate((-0.5, 0.5)))
    both, label = found_from(np.concatenate([one, other])), np.repeat(["apo", "bound"], 800)
    changed = manifold.compare_conditions(both, label, rng=0, n_permutations=199)
    assert changed.names == ("apo", "bound") and changed.counts == (800, 800) and changed.p_value == 1 / 200
    left, right = (np.abs(CENTERS - place).argmin() for place in (0.25, 0.75))
    step = changed.difference_kt[right] - changed.difference_kt[left]
    assert step == pytest.approx(2.0, abs=0.5)  # ΔF between the wells goes from −1 to +1 kT
    assert (changed.lower_kt < changed.difference_kt)[[left, right]].all()
    alike = manifold.compare_conditions(both, np.arange(1600) % 2, rng=0, n_permutations=199)
    assert alike.p_value > 0.05
    with pytest.raises(ValueError, match="two different labels, got 3"):
        manifold.compare_conditions(both, np.arange(1600) % 3, rng=0)
    with pytest.raises(ValueError, match="at least 100 particles"):
        manifold.compare_conditions(both, np.arange(1600) < 50, rng=0)


def test_p_values_of_nothing_are_even():
    log_likelihood, rng = placed(wells, 300, 3)[1], np.random.default_rng(0)
    p = [score_test(log_likelihood, EDGES, rng.random((300, 2)), rng=k, n_permutations=39)[1] for k in range(40)]
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) <= 0.05) <= 0.15
    with pytest.raises(ValueError, match="row for each of 300 particles"):
        score_test(log_likelihood, EDGES, np.zeros((299, 1)), rng=0)


def test_junk_is_told_by_its_contrast():
    rng = np.random.default_rng(0)
    variance = np.full(1000, 0.04)
    is_junk = np.arange(1000) < 200
    contrast = np.where(is_junk, 0, 1) + 0.1 * rng.standard_normal(1000) + 0.2 * rng.standard_normal(1000)
    junk = _junk_mixture(contrast, variance)
    assert ((junk > 0.5) == is_junk).mean() > 0.97
    clean = _junk_mixture(1 + 0.2 * rng.standard_normal(1000), variance)
    assert (clean > 0.5).mean() < 0.01


@pytest.fixture(scope="module")
def embedded():
    """300 ribosomes that ratchet, with true poses, and what `embed` makes of them."""
    sample, n = ribosome(), 300
    species = simulate.Species("free", landscape=simulate.double_well(barrier_kt=2.0), state={"factor": False})
    population = simulate.populate(sample, species, n, rng=[1, 0])
    particles, truth = simulate.particles(
        population, simulate.Imaging(32, 12.6, snr=2.0), rng=[1, 1], progress=False
    )  # fmt: skip
    gauge = manifold.RigidBodyGauge(
        lambda angle: sample.volume(32, 12.6, ratchet=angle, factor=False),
        np.linspace(-14.0, 14.0, 15),
        name="ratchet (°)",
    )
    particles = truth.with_poses(particles)
    return particles, manifold.embed(particles, rng=0, gauge=gauge, n_rounds=2, progress=False), gauge


def test_checks_of_particles_that_move(embedded):
    particles, found, _ = embedded
    answers = manifold.check(particles, found, rng=0)
    assert answers["Do the particles differ at all?"].light == "green"
    assert answers["Is there junk?"].value == 0 and answers.junk.shape == (300,)
    assert answers["Does the state depend on the view?"].value > 0.01
    assert answers.light in LIGHTS and "Checks(" in repr(answers)
    with pytest.raises(KeyError, match="no check is called 'taste'"):
        answers["taste"]
    with pytest.raises(ValueError, match="mode must be"):
        manifold.check(particles, found, rng=0, mode="thorough")
    with pytest.raises(ValueError, match="300 particles, got 299"):
        manifold.check(particles[:299], found, rng=0)


def test_one_structure_and_pure_noise_are_told_from_many(embedded):
    particles, found, _ = embedded
    moving = manifold.heterogeneity_test(particles, rng=0, resolution=28.0)
    assert moving.p_value < 1e-6 and min(moving.halves) > 5 and "standard deviations" in repr(moving)
    rng = np.random.default_rng(0)
    for kind in ("homogeneous", "noise", "exchanged residuals"):
        null = checks._null_particles(particles, found, kind, rng)
        assert null.images.shape == particles.images.shape
        assert abs(manifold.heterogeneity_test(null, rng=0, resolution=28.0).surplus) < 3, kind
    said = checks._heterogeneity(observe(null, resolution=28.0), rng, 1)
    assert said.light == "red" and "One structure explains them" in said.meaning


@pytest.mark.parametrize("what", ["contrast", "poses"])
def test_contrast_and_small_errors_of_poses_are_not_structure(embedded, what):
    particles, found, _ = embedded
    rng = np.random.default_rng(1)
    strength = 1 + (0.2 if what == "contrast" else 0) * rng.standard_normal(300)
    signal = strength[:, None, None] * checks._mean_images(particles, found)
    images = signal + 0.7 * signal.std() * rng.standard_normal(signal.shape)
    poses = particles.poses if what == "contrast" else simulate.disturb_poses(particles.poses, angle=1, shift=2, rng=2)
    varied = replace(particles, images=images.astype(np.float32), poses=poses)
    assert manifold.heterogeneity_test(varied, rng=0, resolution=28.0).surplus < 2


def test_agreement_is_in_units_of_random_signs():
    rng = np.random.default_rng(0)
    overlaps, strength = rng.standard_normal((50, 2, 4)), np.array([2.0, 1.0])

    def total(each):
        return ((each.sum(2) ** 2 - (each**2).sum(2)) @ strength).sum()

    turned = [total(overlaps * rng.choice([-1, 1], (50, 1, 4))) for _ in range(4000)]
    assert np.mean(turned) == pytest.approx(0, abs=0.05 * np.std(turned))
    assert _agreement(overlaps, strength) == pytest.approx(total(overlaps) / np.std(turned), rel=0.05)


def test_fewer_particles_than_a_chunk_can_be_tested(embedded):
    few = manifold.heterogeneity_test(embedded[0][:24], rng=0, resolution=28.0)
    assert 0 <= few.p_value <= 1 and np.isfinite(few.surplus)
    with pytest.raises(ValueError, match="at least 20 particles, got 10"):
        manifold.heterogeneity_test(embedded[0][:10], rng=0)


def test_checks_fire(embedded):
    particles, found, _ = embedded
    # a view that tells the state: likelihoods sorted along the views' axis
    axis = particles.poses.rotation.as_matrix()[:, 2, 2] ** 2
    order = np.argsort(found.log_likelihood.argmax(1), kind="stable")
    sorted_rows = np.empty_like(found.log_likelihood)
    sorted_rows[np.argsort(axis)] = found.log_likelihood[order]
    coordinate = np.empty(300)
    coordinate[np.argsort(axis)] = found.coordinate[order]
    tied = replace(found, log_likelihood=sorted_rows, coordinate=coordinate)
    assert manifold.check(particles, tied, rng=0)["Does the state depend on the view?"].light == "red"
    # a fifth of the images shows noise
    images = np.array(particles.images)
    images[:60] = np.random.default_rng(0).standard_normal(images[:60].shape) * images.std()
    junk = manifold.check(replace(particles, images=images), found, rng=0)
    assert junk["Is there junk?"].value == pytest.approx(20, abs=3) and junk["Is there junk?"].light != "green"
    assert ((junk.junk > 0.5) == (np.arange(300) < 60)).mean() > 0.95


def test_the_card_has_a_row_for_each_doubt():
    answers = tuple(Answer(f"Doubt {k}?", k / 10, "kT", light, "Because.") for k, light in enumerate(LIGHTS))
    ax = plot.checks(Checks(answers, np.zeros(3)))
    words = [text.get_text() for text in ax.texts]
    assert words.count("Because.") == 3 and "Doubt 2?" in words and "0.20 kT" in words
    assert len({line.get_color() for line in ax.lines}) == len({line.get_marker() for line in ax.lines}) == 3
    plt.close(ax.figure)


def test_a_difference_is_drawn_with_its_band():
    one, other = (placed(lambda x, t=t: wells(x, t), 300, k)[1] for k, t in enumerate((-0.5, 0.5)))
    both = found_from(np.concatenate([one, other]))
    changed = manifold.compare_conditions(both, np.repeat(["apo", "bound"], 300), rng=0, n_permutations=19)
    ax = plot.condition_difference(changed)
    assert ax.get_title(loc="left") == "p = 0.05, 300 and 300 particles" and ax.get_xlabel() == "x (1)"
    assert ax.get_ylim()[0] == -ax.get_ylim()[1] and len(ax.collections) == 1
    plt.close(ax.figure)


def test_an_answer_is_one_of_three_lights():
    assert (
        Answer("?", 0.004, "p", "red", "").figure == "p = 0.004" and Answer("?", 12.3, "%", "red", "").figure == "12 %"
    )
    with pytest.raises(ValueError, match="light must be one of"):
        Answer("?", 0.0, "p", "blue", "")
