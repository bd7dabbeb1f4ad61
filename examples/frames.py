"""Score the frames of a camera or a video as they come.

    python frames.py RUN 0                     # a camera by its number, through OpenCV
    python frames.py RUN line.mp4              # a video, through OpenCV
    python frames.py RUN frames.gif            # an animated picture, through Pillow
    python frames.py RUN 0 --product bolt      # where the line knows what it sees

`frames_of_capture` takes whatever has OpenCV's `read() -> (ok, frame)`; `frames_of_buffers` takes buffers as GenICam
libraries (harvesters, Vimba, pypylon) hand them out. OpenCV is needed for cameras and videos alone: pip install
opencv-python-headless.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from moleflow_fast import Detector

ANIMATED = {".gif", ".webp", ".apng", ".tif", ".tiff"}


def frames_of_capture(capture: Any) -> Iterator[np.ndarray]:
    """(H, W, 3) in RGB or (H, W) of each frame, until `read` fails; OpenCV gives BGR. The capture is released."""
    try:
        while True:
            ok, frame = capture.read()
            if not ok:
                return
            yield frame if frame.ndim == 2 else frame[..., 2::-1]
    finally:
        capture.release()


def frames_of_buffers(buffers: Iterable[Any], bits: int = 16) -> Iterator[np.ndarray]:
    """(H, W, channels) of each buffer, which has `data`, flat, `height` and `width`.

    A buffer may be given back to the camera once the next is asked for: the detector has its own copy by then.

    Args:
        bits: of a value that is stored in 16; those of Mono10 and Mono12 are shifted up, for a detector reads 0..65535.
    """
    for buffer in buffers:
        frame = np.asarray(buffer.data).reshape(buffer.height, buffer.width, -1)
        yield frame << (16 - bits) if frame.dtype == np.uint16 else frame


def frames_of(source: str) -> Iterator[Any]:
    if Path(source).suffix.lower() in ANIMATED:
        with Image.open(source) as pages:
            yield from ImageSequence.Iterator(pages)
        return
    import cv2  # type: ignore[import-not-found, unused-ignore]

    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise SystemExit(f"{source} cannot be opened as a camera or video")
    yield from frames_of_capture(capture)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Score the frames of a camera or a video as they come.")
    parser.add_argument("run", help="run directory, as printed by moleflow_fast.train")
    parser.add_argument("source", help="number of a camera, a video, or an animated picture")
    parser.add_argument("--product", help="what all frames show, where that is known")
    args = parser.parse_args(argv)
    detector = Detector.load(args.run, batch_size=1)  # no frame waits for the next
    # Closed here, so that a Ctrl-C lets go of the camera too.
    with closing(detector.stream(frames_of(args.source), product=args.product)) as results:
        for result in results:
            products = " + ".join(result.class_names)
            print(f"frame {result.source}: {result.error or f'{result.label} {result.calibrated:.3f} {products}'}")


if __name__ == "__main__":
    main()
