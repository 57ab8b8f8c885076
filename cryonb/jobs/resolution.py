"""``python -m cryonb resolution``: take the mask's share off the FSC of half maps, and sharpen.

Writes fsc.star (the curves), sharpened_masked.mrc, mask.mrc and summary.json; with --local also local_resolution.mrc.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from .arguments import seed

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("half1", type=Path, metavar="HALF1.mrc", help="unfiltered half map")
    parser.add_argument("half2", type=Path, metavar="HALF2.mrc")
    parser.add_argument(
        "--mask", type=Path, metavar="MRC", help="soft mask (default: found from the mean of the halves)"
    )
    parser.add_argument("--model", type=Path, metavar="PDB", help="PDB or mmCIF: also the FSC of the map against it")
    parser.add_argument("--local", action="store_true", help="also a map of the local resolution")
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--seed", "--random_seed", type=seed, default=0, help="of the random phases (%(default)s)")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from .. import io, resolution
    from ..io.formats import replacing
    from .runs import summary_text

    halves = [_half_map(io.read_volume(path), path) for path in (options.half1, options.half2)]
    try:
        resolution.fourier_shell_correlation(*halves)
    except ValueError as error:
        raise ValueError(f"{options.half1} and {options.half2}: {error}") from error
    if np.array_equal(halves[0].data, halves[1].data):
        raise ValueError(f"{options.half1} and {options.half2} hold the same map; expected two independent halves")
    mean = halves[0].with_data((halves[0].data + halves[1].data) / 2)
    given = None if options.mask is None else io.read_volume(options.mask)
    curves = resolution.corrected_fsc(*halves, "auto" if given is None else given, rng=options.seed)
    mask = resolution.automatic_mask(mean) if given is None else given.data
    numbers = {
        "resolution_angstrom": round(curves.resolution, 2), "masked_angstrom": round(curves.masked.at(), 2),
        "unmasked_angstrom": round(curves.unmasked.at(), 2),
        "phases_random_from_angstrom": round(curves.randomise_from, 2),
    }  # fmt: skip
    if np.isfinite(curves.resolution) and not np.isfinite(curves.unmasked.at()):
        numbers["warning"] = "without the mask the halves do not correlate at any resolution: do not believe this one"
    sharp = mean
    try:
        fit = resolution.b_factor(resolution.guinier(mean, fsc=curves.corrected))
        numbers |= {"b_factor": round(float(fit), 1), "b_factor_error": round(float(fit.error), 1)}
        sharp = resolution.sharpen(mean, float(fit), fsc=curves.corrected, resolution=curves.resolution)
    except ValueError as error:
        print(f"no B factor: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    io.write_volume(sharp.with_data(sharp.data * mask), options.out / "sharpened_masked.mrc")
    io.write_volume(mean.with_data(mask), options.out / "mask.mrc")
    if options.local:
        local = resolution.local_resolution(*halves, mask=mask)
        numbers["local_median_angstrom"] = round(float(np.nanmedian(local.data)), 2)
        outside = np.isnan(local.data)  # other programs read no NaN
        io.write_volume(local.with_data(np.where(outside, 0, local.data)), options.out / "local_resolution.mrc")
    if options.model is not None:
        against = resolution.map_model_fsc(mean.with_data(mean.data * mask), io.read_model(options.model), mask=mask)
        numbers["map_model_angstrom"] = round(against.at(0.5), 2)
    io.write_star(_tables(curves, numbers), options.out / "fsc.star")
    with replacing(options.out / "summary.json") as beside:
        beside.write_text(summary_text(numbers), encoding="utf-8")
    return numbers


def _half_map(volume, path):
    if np.ptp(volume.data) == 0:
        raise ValueError(f"{path} is constant: there is no map in it")
    return volume


def _tables(curves, numbers):
    """As RELION's postprocess.star."""
    frequency = np.asarray(curves.corrected.frequency)
    angstrom = np.divide(1.0, frequency, out=np.full(len(frequency), 999.0), where=frequency > 0)
    columns = {
        "rlnResolution": frequency, "rlnAngstromResolution": angstrom,
        "rlnFourierShellCorrelationCorrected": curves.corrected.correlation,
        "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked.correlation,
        "rlnFourierShellCorrelationMaskedMaps": curves.masked.correlation,
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curves.randomised.correlation,
    }  # fmt: skip
    fsc = pd.DataFrame({name: [f"{value:.6f}" for value in column] for name, column in columns.items()})
    fsc.insert(0, "rlnSpectralIndex", [str(shell) for shell in range(len(frequency))])
    general = {"rlnFinalResolution": f"{numbers['resolution_angstrom']:.6f}"}
    if "b_factor" in numbers:
        general["rlnBfactorUsedForSharpening"] = f"{-numbers['b_factor']:.6f}"
    return {"general": pd.DataFrame([general]), "fsc": fsc}
