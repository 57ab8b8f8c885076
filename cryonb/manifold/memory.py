"""What `embed` computed, to a checkpoint file and back."""

import numpy as np

from cryonb.manifold.principal import PrincipalVolumes
from cryonb.manifold.volume_sets import VolumeSet
from cryonb.parallel import load_checkpoint, save_checkpoint
from cryonb.types import Embedding

__all__ = ["remember", "remembered"]


def remember(path, key, values):
    """Save the arrays of a finished embedding.

    Parameters
    ----------
    path : path
    key : JSON-like
    values : dict
        Arrays, numbers, text, ``volumes`` (a `VolumeSet`) and ``principal`` (a `PrincipalVolumes`).
    """
    principal, volumes = values["principal"], values["volumes"]
    embedding = principal.embedding
    plain = {name: value for name, value in values.items() if name not in ("principal", "volumes")}
    save_checkpoint(path, plain | {
        "volumes": volumes.data, "mask": volumes.mask, "size_px": volumes.size_px, "pixel_size": volumes.pixel_size,
        "principal_volumes": principal.volumes.data, "principal_mask": principal.volumes.mask,
        "latents": embedding.coordinates, "latent_covariance": embedding.covariance, "latent_method": embedding.method,
        "eigenvalues": principal.eigenvalues, "noise": principal.noise, "resolution": principal.resolution,
    }, key=key)  # fmt: skip


def remembered(path, key):
    """The values that `remember` saved, or None.

    Parameters
    ----------
    path : path
    key : JSON-like
        Must be the one saved.
    """
    saved = load_checkpoint(path, key=key)
    if saved is None:
        return None
    take = saved.pop
    size_px, pixel_size = int(take("size_px")), float(take("pixel_size"))
    volumes = VolumeSet(take("volumes"), take("mask"), size_px, pixel_size)
    components = VolumeSet(take("principal_volumes"), take("principal_mask"), size_px, pixel_size)
    eigenvalues = np.asarray(take("eigenvalues"))
    embedding = Embedding(take("latents"), eigenvalues, take("latent_method"), take("latent_covariance"))
    full = components.volumes()
    principal = PrincipalVolumes(
        full[0], full[1:], eigenvalues, embedding, take("noise"), float(take("resolution")), components
    )
    return saved | {"volumes": volumes, "principal": principal}
