"""Frames to a file that plays: GIF by Pillow, MP4 by the program ffmpeg where there is one."""

import io
import shutil
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["movie_writer", "write_gif", "write_mp4"]

COLORS = 96
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # H.264 plays in browsers; MPEG-4 part 2 is in every ffmpeg


def write_gif(path, frames, *, milliseconds=180, back=True):
    """Write PNG frames as a GIF without end.

    Parameters
    ----------
    path : path-like
    frames : sequence of bytes
        PNG images of one size. Frames that are the same object as the one before prolong that.
    milliseconds : int
        Per frame.
    back : bool
        Run there and back; otherwise start again.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        No frames, or a frame that lasts no time.
    """
    from PIL import Image

    _check(frames, milliseconds)
    shown, lasts = [], []
    for frame in frames:
        if shown and frame is shown[-1]:
            lasts[-1] += milliseconds
        else:
            shown.append(frame)
            lasts.append(milliseconds)
    pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in shown]
    # one palette for all frames, so that the background does not flicker
    some = pictures[:: -(-len(pictures) // 16)]
    sheet = Image.new("RGB", (some[0].width, some[0].height * len(some)))
    for index, picture in enumerate(some):
        sheet.paste(picture, (0, index * picture.height))
    palette = sheet.quantize(COLORS)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    if back:
        pictures, lasts = pictures + pictures[-2:0:-1], lasts + lasts[-2:0:-1]
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    pictures[0].save(beside, format="GIF", save_all=True, append_images=pictures[1:], duration=lasts, loop=0)
    beside.replace(path)
    return path


def write_mp4(path, frames, *, milliseconds=180, back=True):
    """Write PNG frames as an MP4 with the program ffmpeg, H.264 where it can.

    Parameters
    ----------
    path, frames, milliseconds
        As in `write_gif`.
    back : bool
        Run there and back, once: whether it starts again is up to the player.

    Returns
    -------
    Path

    Raises
    ------
    RuntimeError
        There is no ffmpeg, neither on PATH nor of the package ``imageio-ffmpeg``; or it failed, with what it said.
    ValueError
        No frames, or a frame that lasts no time.

    Notes
    -----
    ffmpeg is called as a program of its own and gets the frames through a pipe. Its builds have their own licences,
    many of them the GPL; none comes with this package.
    """
    _check(frames, milliseconds)
    program, path = _ffmpeg(), Path(path)
    frames = list(frames)
    if back:
        frames = frames + frames[-2:0:-1]
    beside = path.with_name(path.name + ".part")
    command = [
        program, "-hide_banner", "-loglevel", "error", "-y", "-f", "image2pipe", "-framerate", f"1000/{milliseconds}",
        "-c:v", "png", "-i", "-", "-c:v", _encoder(program), "-b:v", "2M", "-pix_fmt", "yuv420p",
        "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-movflags", "+faststart", "-f", "mp4", str(beside),
    ]  # fmt: skip
    done = subprocess.run(command, input=b"".join(frames), capture_output=True)
    if done.returncode or not beside.exists():
        beside.unlink(missing_ok=True)
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{path} was not written, ffmpeg ended with {done.returncode}: {said}")
    beside.replace(path)
    return path


def movie_writer(path):
    """The function that writes a movie of this file's kind.

    Parameters
    ----------
    path : path-like
        Ends in ``.gif`` or ``.mp4``.

    Returns
    -------
    `write_gif` or `write_mp4`

    Raises
    ------
    ValueError
        Another kind of file.
    RuntimeError
        ``.mp4`` where there is no ffmpeg.

    Examples
    --------
    >>> movie_writer("turn.gif").__name__
    'write_gif'
    """
    kind = Path(path).suffix.lower()
    if kind not in (".gif", ".mp4"):
        raise ValueError(f"a movie is written to a .gif or .mp4 file, got {path}")
    if kind == ".mp4":
        _ffmpeg()
        return write_mp4
    return write_gif


def _check(frames, milliseconds):
    if not len(frames):
        raise ValueError("a movie needs at least one frame, got none")
    if not milliseconds > 0:
        raise ValueError(f"milliseconds per frame must be positive, got {milliseconds}")


def _ffmpeg():
    """Path of the program."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe

            found = get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise RuntimeError(
                "an .mp4 needs the program ffmpeg on PATH, or the package imageio-ffmpeg; a .gif needs neither"
            ) from None
    return found


@cache
def _encoder(program):
    known = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout.split()
    return next((name for name in ENCODERS if name in known), ENCODERS[-1])
