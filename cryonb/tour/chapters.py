"""What the report says and shows: numbers against the truth, figures, movies, and what cannot be checked."""

import sys
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from .. import __version__, manifold, plot, rotations
from ..types import EnergyLandscape
from .report import Row, Section, embed_figure, embed_file, write_report

__all__ = ["compare_classes", "summarise", "write"]


def compare_classes(label, truth):
    """Names classes by the species they hold most of, so that the sum of agreements is largest.

    Parameters
    ----------
    label : ndarray (n,) int
        Class of each particle, from 0.
    truth : ndarray (n,) int
        Species of each particle, from 0.

    Returns
    -------
    accuracy : float
        Fraction of particles in the class named after their species; classes beyond the species are named after
        their majority.
    confusion : ndarray (s, K) int
        Particles of each species in each class, classes in their own order.

    Examples
    --------
    >>> accuracy, confusion = compare_classes(np.array([1, 1, 0, 0, 0]), np.array([0, 0, 1, 1, 0]))
    >>> accuracy, confusion.tolist()
    (0.8, [[1, 2], [2, 0]])
    """
    n_species, n_classes = truth.max() + 1, label.max() + 1
    confusion = np.zeros((n_species, n_classes), dtype=int)
    np.add.at(confusion, (truth, label), 1)
    name = confusion.argmax(axis=0)
    species, classes = linear_sum_assignment(-confusion)
    name[classes] = species
    accuracy = confusion[name, np.arange(n_classes)].sum() / len(label)
    return float(accuracy), confusion


def summarise(story):
    """The numbers of ``summary.json``, apart from time and memory.

    Parameters
    ----------
    story : Story

    Returns
    -------
    dict of numbers and strings; those that need the truth are absent without it.
    """
    particles, found = story.particles, story.conformations
    summary = {
        "particles": len(particles),
        "box_px": particles.size_px,
        "pixel_size_angstrom": round(particles.pixel_size, 4),
        "class_sizes": np.bincount(story.classification.label, minlength=len(story.curves)).tolist(),
        "class_resolution_angstrom": [None if curve is None else _number(curve.at(0.143)) for curve in story.curves],
        "landscape_verdict": found.landscape.verdict,
        "landscape_range_kt": _number(np.nanmax(found.landscape.energy_kt)),
        "gauge": found.landscape.gauge[0],
        "checks": {answer.doubt: [answer.light, answer.figure] for answer in story.checks.answers},
    }
    if story.refinement is not None:
        summary["refined_resolution_angstrom"] = _number(story.refinement.resolution)
    return summary | (_against_truth(story) if story.source.truth is not None else {})


def _against_truth(story):
    truth, found, particles = story.source.truth, story.conformations, story.particles
    angle = rotations.angular_distance(particles.poses.rotation, truth.poses.rotation)
    shift = particles.poses.shift - truth.poses.shift
    accuracy, _ = compare_classes(story.classification.label, truth.label)
    from scipy.stats import spearmanr

    on_same_bins = truth_on(found.landscape, truth.landscape)
    return {
        "median_angular_error_degrees": _number(np.median(angle)),
        "stuck_over_30_degrees": _number(np.mean(angle > 30)),
        "shift_error_rms_angstrom": _number(np.sqrt((shift**2).sum(1).mean())),
        "class_accuracy": _number(accuracy),
        "class_accuracy_chance": _number(np.bincount(truth.label).max() / len(truth.label)),
        "class_accuracy_oracle": _number(oracle_accuracy(particles, truth)),
        "coordinate_spearman": _number(abs(spearmanr(found.coordinate, truth.state).statistic)),
        "landscape_rms_kt": _number(manifold.landscape_rms(found.landscape, on_same_bins)),
        "landscape_band_coverage": _number(manifold.band_coverage(found.landscape, on_same_bins)),
        "counting_rms_kt": _number(manifold.landscape_rms(found.counting, truth_on(found.counting, truth.landscape))),
    }


def oracle_accuracy(particles, truth):
    """Share of particles whose species is right when the true densities of all states and the true poses are known.

    Parameters
    ----------
    particles : Particles
    truth : Truth
    """
    labels, shares, volumes = (list(column) for column in zip(*truth.states))
    log_likelihood = manifold.image_log_likelihood(replace(particles, poses=truth.poses), volumes) + np.log(shares)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    each = np.stack([likelihood[:, np.equal(labels, k)].sum(axis=1) for k in range(len(truth.label_names))], axis=1)
    return float((each.argmax(axis=1) == truth.label).mean())


def truth_on(landscape, truth):
    """The true landscape on the bins of another one over the same coordinate; NaN outside its range.

    Parameters
    ----------
    landscape, truth : EnergyLandscape
        One coordinate each.
    """
    (edges,), (fine,) = landscape.edges, truth.edges
    below = np.interp(edges, fine, np.concatenate([[0], np.cumsum(truth.probability)]))
    mass = np.diff(below)
    covered = np.clip(edges, fine[0], fine[-1])
    width = np.diff(covered)
    inside = width > 0.5 * np.diff(edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        energy = np.where(inside, -np.log(mass / width), np.nan)
    return EnergyLandscape(energy, (edges,), gauge=truth.gauge, credibility=1.0)


def write(story, plan, stages):
    """Figures, movies and ``report.html`` in ``plan.out``.

    Parameters
    ----------
    story : Story
    plan : Plan
    stages : Stages
    """
    folder = plan.out / "figures"
    folder.mkdir(exist_ok=True)
    chapters = [_particles, _classes, _landscape, _movies]
    if story.refinement is not None:
        chapters.insert(1, _orientations)
    sections = [chapter(story, folder) for chapter in chapters]
    with_truth = story.source.truth is not None
    write_report(
        plan.out / "report.html",
        title=story.source.title,
        lead=story.source.lead,
        reference_heading="Truth, or what to compare with" if with_truth else "What to compare with",
        rows=_rows(story),
        unchecked=_unchecked(story),
        sections=sections,
        timings=[(name, f"{seconds:.1f}") for name, seconds in stages.seconds.items()],
        command=_command(plan),
        versions=f"cryonb {__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}; "
        f"peak memory {story.summary['peak_memory_gb']:.2f} GB",
    )


def _rows(story):
    s, found = story.summary, story.conformations
    rows = []
    if "median_angular_error_degrees" in s:
        rows += [
            Row("Median angular error", f"{s['median_angular_error_degrees']:.2f}°", "0° is perfect; a pixel at the "
                f"particle's rim spans {np.degrees(2 * story.particles.pixel_size / story.source.mask_diameter):.1f}°"),
            Row("Particles over 30° off", f"{s['stuck_over_30_degrees']:.1%}", "0 %"),
        ]  # fmt: skip
    if story.refinement is not None:
        nyquist = 2 * story.particles.pixel_size
        rows.append(Row("Resolution of all particles (FSC 0.143)", f"{s['refined_resolution_angstrom']:.1f} Å",
                        f"Nyquist is {nyquist:.1f} Å"))  # fmt: skip
    sizes = " / ".join(f"{size:,}" for size in s["class_sizes"])
    limits = " / ".join("–" if value is None else f"{value:.1f}" for value in s["class_resolution_angstrom"])
    rows += [Row("Particles per class", sizes), Row("Resolution per class (FSC 0.143)", f"{limits} Å",
             f"Nyquist, {2 * story.particles.pixel_size:.1f} Å, is the finest that these images can show")]  # fmt: skip
    if "class_accuracy" in s:
        rows.append(Row("Class assignment right", f"{s['class_accuracy']:.1%}",
                        f"largest class alone {s['class_accuracy_chance']:.1%}; true states and poses give "
                        f"{s['class_accuracy_oracle']:.1%}",
                        "good" if s["class_accuracy"] > s["class_accuracy_chance"] + 0.1 else "warn"))  # fmt: skip
    if "coordinate_spearman" in s:
        rows.append(Row("Coordinate against the true angle (Spearman)", f"{s['coordinate_spearman']:.3f}", "1"))
    if "landscape_rms_kt" in s:
        rows.append(Row("Free-energy landscape, rms error", f"{s['landscape_rms_kt']:.2f} kT",
                        f"counting particles gives {s['counting_rms_kt']:.2f} kT",
                        "good" if s["landscape_rms_kt"] < s["counting_rms_kt"] else "warn"))  # fmt: skip
    if "landscape_band_coverage" in s:
        rows.append(Row("Truth inside the 90 % band", f"{s['landscape_band_coverage']:.0%} of the bins",
                        "90 % if sampling were the only error: the band knows nothing of errors that particles share",
                        "good" if s["landscape_band_coverage"] > 0.8 else "warn"))  # fmt: skip
    rows.append(Row("Landscape", found.landscape.verdict, f"over {found.landscape.gauge[0]}",
                    "good" if found.landscape.verdict == "resolved" else "warn"))  # fmt: skip
    return rows


def _unchecked(story):
    lines = list(story.conformations.warnings)
    if story.source.truth is None:
        lines += [
            "Whether the orientations are right: there is no truth. Look at the FSC and at the spread of views.",
            "Whether the classes are kinds of molecules or parts of one continuous motion: run it with another --seed "
            "and with another --classes.",
            "Whether the landscape is that of the sample: particles lost in picking or selection, and a preparation "
            "out of equilibrium, do not show. The band is of sampling only; errors that particles share "
            "(poses, volumes) come on top.",
            "What the coordinate measures: it is arclength between volumes, scaled to 1, not degrees or Å.",
        ]
        if story.refinement is None:
            lines.append("How independent the half maps are: the orientations came with the file, perhaps from one "
                         "refinement of all particles; the FSC can then be too good.")  # fmt: skip
    return lines


def _particles(story, folder):
    import matplotlib.pyplot as plt

    with plt.style.context(plot.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.0), width_ratios=[1.6, 1], layout="constrained")
        plot.projection_montage(story.particles, ax=axes[0], count=16)
        plot.contrast_transfer(story.particles.ctf[0], pixel_size=story.particles.pixel_size, ax=axes[1])
    caption = "The first particles, and the contrast transfer function of the first one."
    return Section(
        "Particles", "What the microscope gives: each image is one molecule, seen once, mostly noise.",
        (embed_figure(figure, caption, folder / "particles.png"),),
    )  # fmt: skip


def _orientations(story, folder):
    import matplotlib.pyplot as plt

    refinement, truth = story.refinement, story.source.truth
    with plt.style.context(plot.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.2), width_ratios=[1.3, 1], layout="constrained")
        plot.iterations(refinement.iterations, ax=axes[0])
        if truth is not None:
            angle = rotations.angular_distance(story.particles.poses.rotation, truth.poses.rotation)
            plot.angular_error(angle, ax=axes[1])
        else:
            axes[1].hist(refinement.pmax, bins=np.linspace(0, 1, 41))
            axes[1].set(xlabel="probability of the best pose", ylabel="particles")
    right = "the error of every orientation against the truth" if truth is not None else "how sure each pose is"
    caption = f"Left: resolution and certainty over the iterations. Right: {right}."
    return Section(
        "Orientations", "Two independent halves of the particles are refined from a start volume that is low-passed to "
        "60 Å, so that no detail of it can survive.", (embed_figure(figure, caption, folder / "orientations.png"),),
    )  # fmt: skip


def _classes(story, folder):
    import matplotlib.pyplot as plt

    classification, truth = story.classification, story.source.truth
    pictures = []
    with plt.style.context(plot.STYLE):
        count = len(classification.volumes)
        figure, axes = plt.subplots(1, count, figsize=(3.1 * count, 3.1), squeeze=False)
        for k, (volume, ax) in enumerate(zip(classification.volumes, axes[0])):
            plot.surface(volume, ax=ax)
            ax.set_title(f"class {k + 1}: {classification.occupancy[k]:.0%}")
    pictures.append(embed_figure(figure, "The classes, from one side.", folder / "classes.png"))
    with plt.style.context(plot.STYLE):
        columns = 2 if truth is not None else 1
        figure, axes = plt.subplots(1, columns, figsize=(4.8 * columns, 3.2), squeeze=False, layout="constrained")
        curves = {f"class {k + 1}": curve for k, curve in enumerate(story.curves) if curve is not None}
        plot.fourier_shell_correlation(list(curves.values()), ax=axes[0, 0], labels=list(curves))
        if truth is not None:
            accuracy, confusion = compare_classes(classification.label, truth.label)
            plot.confusion(confusion, ax=axes[0, 1], true_names=truth.label_names)
            axes[0, 1].set_title(f"{accuracy:.1%} right")
    caption = "FSC between halves of each class" + (
        "; and where the particles of each species went." if truth is not None else "."
    )
    pictures.append(embed_figure(figure, caption, folder / "classes_fsc.png"))
    text = (
        "Bayesian 3D classification (Scheres 2012) around the orientations found; each particle is scored against "
        "volumes made from the other half of the particles, so that its own noise cannot keep it in a class."
    )
    empty = [str(k + 1) for k, curve in enumerate(story.curves) if curve is None]
    if empty:
        text += (
            f" Class {' and '.join(empty)} ended without particles in at least one of the halves: no volume is made "
            "of it, and the data were not told apart."
        )
    return Section("Classes", text, tuple(pictures))


def _landscape(story, folder):
    import matplotlib.pyplot as plt

    found, truth = story.conformations, story.source.truth
    with plt.style.context(plot.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), width_ratios=[1.4, 1], layout="constrained")
        known = None if truth is None else truth_on(found.landscape, truth.landscape)
        plot.landscape(found, ax=axes[0], truth=known, label="deconvolved")
        axes[0].plot(found.counting.centers[0], found.counting.energy_kt, color="#D55E00", lw=1, label="by counting")
        axes[0].legend(fontsize=8)
        axes[0].set_ylim(-0.2, 1.5 * np.nanmax(found.landscape.energy_kt) + 1)  # a band without end hides the curve
        if found.path is not None:
            plot.path(found.path, ax=axes[1])
        else:
            axes[1].set_axis_off()
    main = embed_figure(figure, "Free energy with its credible band (sampling)"
                        + ("" if truth is None else ", over the truth")
                        + "; and the path between its deepest wells, with the particles in each.",
                        folder / "landscape.png")  # fmt: skip
    with plt.style.context(plot.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
        plot.embedding(found.diffusion, ax=axes[0], color=found.coordinate, label=found.landscape.gauge[0])
        if truth is None:
            plot.eigenvalues(found.diffusion, ax=axes[1])
        else:
            plot.recovered(truth.state, found.coordinate, ax=axes[1], gauge=found.landscape.gauge[0])
    right = "their eigenvalues" if truth is None else "the coordinate of each particle against the truth"
    cloud = embed_figure(figure, f"The particles in diffusion coordinates; {right}.", folder / "embedding.png")
    with plt.style.context(plot.STYLE):
        card = embed_figure(plot.checks(story.checks).figure, "What people doubt about such a landscape, each put as "
                            "a test.", folder / "checks.png")  # fmt: skip
    text = (
        "Each particle is compared with the volumes along the coordinate; the landscape is the one that explains those "
        "likelihoods (deconvolution), because counting particles blurs it with every particle's own error."
    )
    return Section("Free-energy landscape", text, (main, card, cloud))


def _movies(story, folder):
    found, particles = story.conformations, story.particles
    frames = manifold.frame_sequence(found.landscape, "closeness")
    positions = np.unique(frames.positions[:, 0])
    evidence, says = None, ""
    if len(positions) > 1:  # a landscape may have a single observed bin
        evidence = manifold.frame_evidence(particles, found, rng=0, positions=positions)
        says = f" ({(~evidence.observed).sum()} of {len(evidence)})"
    shown = {"sequence": frames, "evidence": evidence}
    turning = plot.write_surface_movie(found, folder / "movie_3d.gif", **shown)
    flat = plot.write_projection_movie(found, particles, folder / "movie_2d.gif", **shown)
    import matplotlib.pyplot as plt

    with plt.style.context(plot.STYLE):
        chosen = np.linspace(0, len(found.volumes) - 1, 6).round().astype(int)
        titles = [f"{found.nodes[m]:.3g}" for m in chosen]
        axes = plot.surface_strip([found.volumes[m] for m in chosen], titles=titles)
    unit = found.landscape.gauge[0]
    return Section(
        "The motion",
        "Frames are spaced evenly along the coordinate: closeness, not time. The strip under each says what stands "
        "behind it: particles by their posterior of being there (bars, pale where they are too few and the frame is "
        f"interpolated from its neighbours{says}), how finely half maps weighted likewise agree (dots), and how much "
        "of the sphere they were seen from.",
        (
            embed_file(turning, f"The volume along {unit}."),
            embed_file(flat, "The commonest view: the volume's projection, and the average of the particles near it."),
            embed_figure(axes.figure, f"The same on paper: {unit}.", folder / "strip.png"),
        ),
    )


def _command(plan):
    words = ["python -m cryonb tour", f"--out {plan.out}", f"--seed {plan.seed}", f"--classes {plan.n_classes}"]
    if plan.particles is None:
        words += [f"--n {plan.n_particles}", f"--snr {plan.snr:g}"]
    else:
        words.append(f"--particles {plan.particles.name}")
        if plan.reference is not None:
            words.append(f"--reference {plan.reference.name}")
    if plan.mask_diameter is not None:
        words.append(f"--mask-diameter {plan.mask_diameter:g}")
    return " ".join([*words, f"--size {plan.size_px}"])


def _number(value):
    return None if not np.isfinite(value) else round(float(value), 4)
