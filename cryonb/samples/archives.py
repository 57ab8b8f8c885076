"""Maps and particle sets from the public archives, downloaded once and kept."""

from pathlib import Path

__all__ = ["fetch_emdb", "fetch_empiar"]

EMDB_URL = "https://ftp.ebi.ac.uk/pub/databases/emdb/structures/EMD-{entry}/map/emd_{entry}.map.gz"
EMPIAR_URL = "https://ftp.ebi.ac.uk/empiar/world_availability/{entry}/data/{name}"


def fetch_emdb(entry, *, folder=None):
    """Download a map of the EMDB once and keep it; read it with `cryonb.io.read_volume`.

    Parameters
    ----------
    entry : int or str
        11437 or "EMD-11437".
    folder : path, optional
        Where to keep it; the user's cache by default.

    Returns
    -------
    pathlib.Path of the unpacked map

    Raises
    ------
    ConnectionError
        When the archive cannot be reached; the message has the address, to download by hand.
    """
    number = str(entry).upper().removeprefix("EMD-")
    if not number.isdigit():
        raise ValueError(f"an EMDB entry is a number such as 11437 or 'EMD-11437', got {entry!r}")
    return _retrieve(EMDB_URL.format(entry=number), folder, decompress=True)


def fetch_empiar(entry, name, *, folder=None):
    """Download one file of an EMPIAR entry once and keep it.

    Parameters
    ----------
    entry : int or str
        10028 or "EMPIAR-10028".
    name : str
        Path below the entry's ``data`` folder.
    folder : path, optional
        Where to keep it; the user's cache by default.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ConnectionError
        As in `fetch_emdb`.
    """
    number = str(entry).upper().removeprefix("EMPIAR-")
    if not number.isdigit():
        raise ValueError(f"an EMPIAR entry is a number such as 10028 or 'EMPIAR-10028', got {entry!r}")
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"name is a path below the entry's data folder, got {name!r}")
    return _retrieve(EMPIAR_URL.format(entry=number, name=name), folder, decompress=False)


def _retrieve(url, folder, *, decompress):
    import pooch

    folder = pooch.os_cache("cryonb") if folder is None else Path(folder)
    try:
        file = pooch.retrieve(
            url, known_hash=None, path=folder, fname=url.rsplit("/", 1)[-1], progressbar=True,
            processor=pooch.Decompress(name=url.rsplit("/", 1)[-1].removesuffix(".gz")) if decompress else None,
        )  # fmt: skip
    except OSError as error:
        raise ConnectionError(
            f"could not download {url} into {folder}: {error}. Download it by hand and give its path"
        ) from error
    return Path(file)
