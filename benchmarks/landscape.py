"""How well `cryonb.manifold` recovers known landscapes, tier by tier, and what it costs.

    python benchmarks/landscape.py [--quick] [--tiers latents ratchet ...] [--seeds N] [--particles N] [--rows FILE]

Tiers: `latents`, one coordinate with a known Gaussian error of 0.06, 0.10 and 0.15 of its range, over a double well of
3.4 kT; `ratchet`, simulated ribosomes over two wells 10° apart, with their true poses; `factor`, the same with a factor
that binds the more often the further they have turned; `motions`, ratchet and swivel that go together, by a gauge of
both; `circle`, a rotor that turns all the way round; `entangled`, a ratchet whose states are seen from different sides;
`junk`, a ratchet with 20 % junk and poses that are 3° off; `null`, ribosomes that do not move, or noise alone;
`control`, as many that do; `differ`, the first check alone, on eleven kinds of particles. Per-particle figures stand
beside an oracle that knows the volume of every state. With --rows each result is appended to a file of JSON lines, and
what it holds is not computed again. --quick is one ratchet and one null. Prints one JSON object last.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.interpolate import RegularGridInterpolator  # noqa: E402
from scipy.stats import beta, rankdata, spearmanr  # noqa: E402

from cryonb import manifold, samples, simulate  # noqa: E402
from cryonb.types import Volume  # noqa: E402

SIZE, PIXEL = 64, 6.3
BLURS = (0.06, 0.10, 0.15)
RATCHET, SWIVEL = "ratchet (°)", "swivel (°)"
JUNK_SHARE, POSE_ERROR = 0.2, 3.0
NULL_SIZE, NULL_PIXEL = 32, 12.6
# particles, particles with --quick, SNR, seeds: those of the design; the null's size is the smallest at which a
# landscape may be called resolved at all, its SNR the ratchet's at the same dose a pixel of 12.6 Å, and its 80 seeds
# are 40 of each kind
TIERS = {
    "latents": (50_000, 10_000, None, 5),
    "ratchet": (10_000, 2000, 0.1, 5),
    "factor": (10_000, 2000, 0.1, 5),
    "motions": (50_000, 4000, 0.2, 5),
    "circle": (1500, 1500, 0.5, 10),
    "entangled": (10_000, 2000, 0.1, 5),
    "junk": (10_000, 2000, 0.1, 5),
    "null": (1000, 1000, 0.4, 80),
    "control": (1000, 1000, 0.4, 20),
    "differ": (1000, 1000, 0.4, 20),
}


def known_energy(x):
    """Two uneven wells on the unit interval, 3.4 kT from the lowest to the highest point."""
    u = 2 * x - 1
    return (1.6 * (1 - (u / 0.6) ** 2) ** 2 + 0.4 * u) * 4 / 5.9


def draw(energy, n, rng):
    """Values distributed as exp(−energy) on the unit interval."""
    grid = np.linspace(0, 1, 20001)
    cumulative = np.cumsum(np.exp(-energy(grid)))
    return np.interp(rng.random(n), cumulative / cumulative[-1], grid)


def latents(case):
    """One landscape from coordinates with known errors, for each blur."""
    edges = np.linspace(0, 1, 51)
    centres = (edges[1:] + edges[:-1]) / 2
    row = {}
    for blur in BLURS:
        rng = np.random.default_rng(case.seed)
        seen = draw(known_energy, case.particles, rng) + blur * rng.standard_normal(case.particles)
        found = manifold.deconvolve_landscape(-0.5 * ((seen[:, None] - centres) / blur) ** 2, edges, rng=case.seed)
        rms, counted = (
            manifold.landscape_rms(each, known_energy, energy_limit=9)
            for each in (found, manifold.counting_landscape(seen, edges))
        )
        coverage = manifold.band_coverage(found, known_energy, energy_limit=9)
        numbers = {"rms_kt": rms, "histogram_rms_kt": counted, "coverage": coverage}
        row |= {f"{name}_{blur:.2f}": value for name, value in numbers.items()}
    return row


class Ribosomes:
    """Simulated ribosomes over two wells of the ratchet, 10° apart: 20° from end to end, with the truth."""

    def __init__(self, case, *, size_px=SIZE, pixel_size=PIXEL, species=None, landscape=None, views=None):
        self.sample, self.grid = samples.ribosome(), (size_px, pixel_size)
        self.landscape = landscape or simulate.double_well(
            RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4
        )
        if species is None:
            species = simulate.bind(self.landscape, lambda ratchet, *_: 0.05 + 0.9 / (1 + np.exp(-ratchet)))
        population = simulate.populate(self.sample, species, case.particles, rng=[case.seed, 0])
        imaging = simulate.Imaging(size_px, pixel_size, snr=case.snr, views=views)
        particles, self.truth = simulate.particles(
            population, imaging, rng=[case.seed, 1], progress=False, workers=case.workers
        )
        self.particles, self.state, self.label = self.truth.with_poses(particles), population.state, population.label

    def model(self, **state):
        return self.sample.volume(*self.grid, factor=False, **state)

    @property
    def gauge(self):
        return manifold.RigidBodyGauge(lambda angle: self.model(ratchet=angle), np.linspace(-14, 14, 15), name=RATCHET)

    def energy(self, value):
        known = np.interp(value, self.landscape.centers[0], self.landscape.energy_kt)
        return np.where(np.abs(value) <= 10, known, np.nan)

    def oracle(self, case, particles=None):
        """Posterior mean of the ratchet of every particle, from the true volumes, poses and landscape."""
        values = np.arange(-10.5, 10.6, 0.5)
        known = [Volume(self.model(ratchet=value).data * self.truth.scale, self.grid[1]) for value in values]
        particles = self.particles if particles is None else particles
        likelihood = manifold.image_log_likelihood(particles, known, resolution=20.0, workers=case.workers)
        prior = np.exp(-np.nan_to_num(self.energy(values), nan=np.inf))
        return posterior_mean(likelihood, prior, values)


def posterior_mean(log_likelihood, prior, values):
    weights = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True)) * prior
    return weights @ values / weights.sum(axis=1).reshape((-1,) + (1,) * (np.ndim(values) - 1))


def embedded(case, ribosomes, particles):
    """What `embed` finds, its scores, and what it cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = manifold.embed(particles, rng=case.seed, gauge=ribosomes.gauge, workers=case.workers, progress=False)
    cost = {"embed_seconds": time.perf_counter() - wall, "embed_cpu_seconds": time.process_time() - cpu}
    return found, cost | {"verdict": found.landscape.verdict, "shape": found.shape}


def ratchet(case):
    """One motion, everything else as it should be; with --halves each half by itself too."""
    landscape = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    return one_motion(
        case, Ribosomes(case, species=simulate.Species("free", landscape=landscape, state={"factor": False}))
    )


def factor(case):
    """The ratchet, and a factor that binds the more often the further it has turned."""
    return one_motion(case, Ribosomes(case))


def one_motion(case, ribosomes):
    found, row = embedded(case, ribosomes, ribosomes.particles)
    angle = ribosomes.state[:, 0]
    scores = manifold.score(found, angle, ribosomes.energy, oracle=ribosomes.oracle(case))
    row |= as_row(scores)
    if case.halves:
        pair = [
            manifold.embed(
                ribosomes.particles[side::2], rng=case.seed, gauge=ribosomes.gauge, workers=case.workers, progress=False
            ).landscape
            for side in (0, 1)
        ]

        def other(x):
            return np.interp(x, pair[1].centers[0], pair[1].energy_kt, left=np.nan, right=np.nan)

        row["half_set_rms_kt"] = manifold.landscape_rms(pair[0], other, energy_limit=3.0)
    return row


def as_row(scores):
    return {
        "spearman": scores.spearman, "spearman_fraction_of_oracle": scores.spearman_fraction_of_oracle,
        "landscape_rms_kt": scores.landscape_rms_kt, "histogram_rms_kt": scores.counting_rms_kt,
        "coverage": scores.coverage, "barrier_error_kt": abs(scores.barrier_error_kt),
        "population_error": scores.population_error, "amplitude_ratio": scores.amplitude_ratio,
    }  # fmt: skip


def motions(case):
    """Two motions that go together, by a gauge of both; and whether the latents are called a surface without it."""
    both = simulate.coupled_wells(slope=0.5, spread=4.0)
    free = simulate.Species("free", landscape=both, state={"factor": False})
    ribosomes = Ribosomes(case, species=free, landscape=both)
    gauge = manifold.SurfaceGauge(
        lambda ratchet, swivel: ribosomes.model(ratchet=ratchet, swivel=swivel),
        (np.linspace(-14, 14, 9), np.linspace(-20, 20, 9)), (RATCHET, SWIVEL),
    )  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    found = manifold.embed_surface(
        ribosomes.particles, gauge=gauge, rng=case.seed, workers=case.workers, progress=False
    )
    row = {"embed_seconds": time.perf_counter() - wall, "embed_cpu_seconds": time.process_time() - cpu}
    values = [np.linspace(-12, 12, 9), np.linspace(-18, 18, 9)]
    pairs = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, 2)
    known = [
        Volume(ribosomes.model(ratchet=x, swivel=y).data * ribosomes.truth.scale, PIXEL) for x, y in pairs.tolist()
    ]
    likelihood = manifold.image_log_likelihood(ribosomes.particles, known, resolution=20.0, workers=case.workers)
    truth = ribosomes.landscape
    energy = RegularGridInterpolator(truth.centers, truth.energy_kt, bounds_error=False, fill_value=np.nan)
    prior = np.exp(-np.nan_to_num(energy(pairs), nan=np.inf))
    scores = manifold.score(
        found, ribosomes.state, lambda x, y: energy(np.stack([x, y], axis=-1)),
        oracle=posterior_mean(likelihood, prior, pairs),
    )  # fmt: skip
    chosen = manifold.choose_shape(found.principal.embedding, rng=case.seed).name
    fractions, slopes = scores.spearman_fraction_of_oracle.tolist(), scores.amplitude_ratio.tolist()
    return row | {
        "verdict": found.landscape.verdict, "ratchet_fraction_of_oracle": fractions[0],
        "swivel_fraction_of_oracle": fractions[1], "cross_talk": scores.cross_talk,
        "landscape_rms_kt": scores.landscape_rms_kt, "histogram_rms_kt": scores.counting_rms_kt,
        "coverage": scores.coverage, "population_error": scores.population_error, "ratchet_amplitude": slopes[0],
        "swivel_amplitude": slopes[1], "shape": chosen, "found": float(chosen == "surface"),
    }  # fmt: skip


def circle(case):
    """A rotor that turns all the way round: is it called a circle, and how well is its angle found?"""
    population = simulate.populate(
        samples.rotor(), simulate.circular("angle (°)", wells=2, barrier_kt=1.0), case.particles, rng=[case.seed, 0]
    )
    imaging = simulate.Imaging(24, 10.0, snr=case.snr)
    particles, truth = simulate.particles(population, imaging, rng=[case.seed, 1], progress=False, workers=case.workers)
    began = time.perf_counter()
    principal = manifold.principal_volumes(
        truth.with_poses(particles), rng=case.seed, n_components=8, workers=case.workers, progress=False
    )
    shape = manifold.choose_shape(principal.embedding, rng=case.seed)
    row = {"shape": shape.name, "found": float(shape.name == "circle"), "embed_seconds": time.perf_counter() - began}
    if shape.name == "circle":
        angle, true = np.radians(shape.coordinate[:, 0]), np.radians(truth.state[:, 0])
        row["circular_correlation"] = float(max(abs(np.mean(np.exp(1j * (true - s * angle)))) for s in (1, -1)))
    return row


def entangled(case):
    """States of negative ratchet are seen more from one side, those of positive ratchet from another."""

    def views(state, rng):
        several = simulate.VonMisesFisher([[1, 0, 0]], 3.0, 0.3), simulate.VonMisesFisher([[0, 1, 0]], 3.0, 0.3)
        both = [each.draw(len(state), rng) for each in several]
        return np.where(state[:, :1] < 0, *both)

    ribosomes = Ribosomes(case, views=views)
    found, row = embedded(case, ribosomes, ribosomes.particles)
    row |= as_row(manifold.score(found, ribosomes.state[:, 0], ribosomes.energy, oracle=ribosomes.oracle(case)))
    checks = manifold.check(ribosomes.particles, found, rng=case.seed, workers=case.workers, progress=False)
    p_value = checks["Does the state depend on the view?"].value
    return row | {"p_view": p_value, "fired": float(p_value < 0.01)}


def junk(case):
    """A fifth of the images is junk, and poses are off; the landscape is made of what is not called junk."""
    wells = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    species = (
        simulate.Species("ribosome", 1 - JUNK_SHARE, landscape=wells, state={"factor": False}),
        simulate.Species("junk", JUNK_SHARE, junk=True),
    )
    probe = Ribosomes(case, species=species)
    is_junk = probe.label == 1
    off = simulate.disturb_poses(probe.particles.poses, angle=POSE_ERROR, rng=[case.seed, 2])
    particles = replace(probe.particles, poses=off)
    consensus = manifold.principal_volumes(
        particles, rng=case.seed, n_components=1, workers=case.workers, progress=False
    ).mean
    chance = manifold.junk_probability(particles, consensus, workers=case.workers)
    kept = np.flatnonzero(chance < 0.5)
    found, row = embedded(case, probe, particles[kept])
    true = kept[~is_junk[kept]]
    inside = ~is_junk[kept]
    rank = rankdata(chance)
    n_junk, n_good = is_junk.sum(), (~is_junk).sum()
    auc = (rank[is_junk].sum() - n_junk * (n_junk + 1) / 2) / (n_junk * n_good)
    oracle = probe.oracle(case, particles[true])
    angle = probe.state[true, 0]
    ranks = abs(spearmanr(found.coordinate[inside], angle).statistic)
    return row | {
        "auc": float(auc), "junk_kept": float(is_junk[kept].mean()),
        "landscape_rms_kt": manifold.landscape_rms(found.landscape, probe.energy),
        "histogram_rms_kt": manifold.landscape_rms(found.counting, probe.energy),
        "coverage": manifold.band_coverage(found.landscape, probe.energy),
        "spearman_fraction_of_oracle": float(ranks / abs(spearmanr(oracle, angle).statistic)),
    }  # fmt: skip


def null(case):
    """Ribosomes that stand still (even seeds) or noise alone (odd seeds), and what is said of them."""
    kind = ("homogeneous", "noise")[case.seed % 2]
    still = simulate.Species("still", state={"factor": False, "ratchet": 0.0})
    ribosomes = Ribosomes(case, size_px=NULL_SIZE, pixel_size=NULL_PIXEL, species=still)
    particles = ribosomes.particles
    if kind == "noise":
        rng = np.random.default_rng([case.seed, 3])
        noise = rng.standard_normal(particles.images.shape, dtype=np.float32) * np.std(np.asarray(particles.images))
        particles = replace(particles, images=noise)
    return {"kind": kind} | said(case, ribosomes, particles)


def control(case):
    """As many ribosomes of the same size that do move: a program that never claims anything would pass the null."""
    ribosomes = Ribosomes(case, size_px=NULL_SIZE, pixel_size=NULL_PIXEL)
    return said(case, ribosomes, ribosomes.particles)


def said(case, ribosomes, particles):
    """What the program says of particles.

    ``resolved``: the landscape's verdict. ``moving``: the latents are not called a point. ``green``: the light of the
    first check, whether the particles differ at all. ``claimed``: resolved, moving and no other warning on the figure;
    where nothing moves this is a false positive. An embedding that is refused because nothing moves claims nothing.
    """
    began = time.perf_counter()
    gauge = ribosomes.gauge if case.gauge else None
    try:
        found = manifold.embed(particles, rng=case.seed, gauge=gauge, workers=case.workers, progress=False)
    except ValueError as error:
        return {"said": str(error), "resolved": 0.0, "moving": 0.0, "green": 0.0, "claimed": 0.0}
    row = {"embed_seconds": time.perf_counter() - began}
    checks = manifold.check(particles, found, rng=case.seed, workers=case.workers, progress=False)
    first = checks["Do the particles differ at all?"]
    resolved = found.landscape.verdict == "resolved"
    return {
        "said": found.landscape.verdict, "shape": found.shape, "light": first.light, "resolved": float(resolved),
        "moving": float(found.shape != "point"), "green": float(first.light == "green"),
        "claimed": float(resolved and not found.warnings), "p_differ": first.value,
        "range_kt": float(np.nanmax(found.landscape.energy_kt)),
    } | row  # fmt: skip


def differ(case):
    """p of `heterogeneity_test`: particles that stand still, imaged in many ways; junk among them; a ratchet."""
    still = (simulate.Species("still", state={"factor": False, "ratchet": 0.0}),)
    mixed = (replace(still[0], fraction=1 - JUNK_SHARE), simulate.Species("junk", JUNK_SHARE, junk=True))
    grid = {"size_px": NULL_SIZE, "pixel_size": NULL_PIXEL}
    plain, moving = Ribosomes(case, species=still, **grid).particles, Ribosomes(case, **grid).particles
    weak = Ribosomes(argparse.Namespace(**vars(case) | {"snr": case.snr / 2}), **grid).particles
    clean = Ribosomes(argparse.Namespace(**vars(case) | {"snr": 1e4}), species=still, **grid).particles
    rng = np.random.default_rng([case.seed, 3])
    white = rng.standard_normal(plain.images.shape, dtype=np.float32)
    strength = (1 + 0.2 * rng.standard_normal(len(plain))[:, None, None]) * np.sqrt(case.snr / 1e4)
    sets = {
        "still": plain, "noise": replace(plain, images=white * np.std(np.asarray(plain.images))),
        "still_contrast": replace(clean, images=(strength * np.asarray(clean.images) + white).astype(np.float32)),
        "still_views": Ribosomes(
            case, species=still, views=simulate.VonMisesFisher([[1, 0, 0]], 3.0, 0.3), **grid
        ).particles,
        "junk": Ribosomes(case, species=mixed, **grid).particles, "ratchet": moving, "ratchet_half_snr": weak,
    }  # fmt: skip
    for angle in (1, 2, 3):
        off = simulate.disturb_poses(plain.poses, angle=angle, shift=1.5 * angle, rng=[case.seed, 2])
        sets[f"still_poses_{angle}"] = replace(plain, poses=off)
    sets["ratchet_poses_2"] = replace(
        moving, poses=simulate.disturb_poses(moving.poses, angle=2, shift=3.0, rng=[case.seed, 2])
    )
    row = {}
    for name, particles in sets.items():
        p_value = manifold.heterogeneity_test(
            particles, rng=case.seed, resolution=2.2 * NULL_PIXEL, workers=case.workers
        ).p_value
        row |= {f"p_{name}": p_value, f"green_{name}": float(p_value < 0.01)}
    return row


FUNCTIONS = {
    function.__name__: function
    for function in (latents, ratchet, factor, motions, circle, entangled, junk, null, control, differ)
}


def cases(options):
    for tier in options.tiers:
        size, quick_size, snr, seeds = TIERS[tier]
        size = options.particles or (quick_size if options.quick else size)
        snr = snr if snr is None or options.snr is None else options.snr
        for seed in range(options.seeds or (1 if options.quick else seeds)):
            key = {"tier": tier, "seed": seed, "particles": size, "snr": snr, "gauge": not options.without_gauge}
            yield key, argparse.Namespace(**key, workers=options.workers, halves=options.halves)


def computed(options):
    """Rows of all cases, read where the file has them."""
    rows = options.rows.read_text().splitlines() if options.rows and options.rows.exists() else []
    names = ("tier", "seed", "particles", "snr", "gauge")
    known = {tuple(json.loads(row).get(name) for name in names): row for row in rows}
    for key, case in cases(options):
        if tuple(key.values()) in known:
            yield json.loads(known[tuple(key.values())])
            continue
        began = time.perf_counter()
        result = FUNCTIONS[key["tier"]](case)
        result = {name: round(value, 4) if isinstance(value, float) else value for name, value in result.items()}
        row = key | result | {"seconds": round(time.perf_counter() - began, 1), "commit": commit()}
        if options.rows:
            with open(options.rows, "a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(row, flush=True)
        yield row


def commit():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None


def interval(count, n):
    """Clopper–Pearson 95 % interval of a share."""
    low = beta.ppf(0.025, count, n - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return [round(float(low), 3), round(float(high), 3)]


def summary(rows):
    """Medians over seeds of what every tier measured; the shares and intervals of the null."""
    result = {}
    for tier in dict.fromkeys(row["tier"] for row in rows):
        mine = [row for row in rows if row["tier"] == tier]
        names = [name for name, value in mine[0].items() if isinstance(value, float) and name != "snr"]
        values = {name: [row[name] for row in mine if name in row] for name in names}
        result[tier] = {"seeds": len(mine), "particles": mine[0]["particles"], "snr": mine[0]["snr"]}
        # a share of seeds is a mean, everything else a median beside the worst
        shares = {"found", "fired", "resolved", "moving", "green", "claimed"}
        shares |= {name for name in values if name.startswith("green_")}
        result[tier] |= {
            name: round(float(np.mean(each) if name in shares else np.median(each)), 4) for name, each in values.items()
        }
        result[tier]["largest"] = {name: max(each) for name, each in values.items() if name not in shares}
        result[tier]["smallest"] = {name: min(each) for name, each in values.items() if name not in shares}
        for name in shares & set(values):
            result[tier][f"{name}_interval"] = interval(sum(map(int, values[name])), len(values[name]))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, help="all; ratchet and null with --quick")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, help="of each tier; those of the design, 1 with --quick")
    parser.add_argument("--particles", type=int, help="of each tier, instead of the design's")
    parser.add_argument("--snr", type=float, help="instead of the design's")
    parser.add_argument("--without-gauge", action="store_true", help="null and control: embed by arclength")
    parser.add_argument("--halves", action="store_true", help="ratchet: embed each half by itself too")
    parser.add_argument("--rows", type=Path, help="JSON lines; cases that it holds are not computed again")
    options = parser.parse_args()
    options.tiers = options.tiers or (["ratchet", "null"] if options.quick else list(TIERS))
    began = time.perf_counter()
    tiers = summary(list(computed(options)))
    main_tier = tiers.get("ratchet", {})
    names = ("spearman_fraction_of_oracle", "landscape_rms_kt", "histogram_rms_kt", "coverage")
    print(json.dumps({
        "tiers": tiers,
        "machine": platform.machine(), "cores": os.cpu_count(), "commit": commit(),
        **{name: main_tier.get(name) for name in names},
        "false_positive_rate": tiers.get("null", {}).get("claimed"),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }, ensure_ascii=False))  # fmt: skip


if __name__ == "__main__":
    main()
