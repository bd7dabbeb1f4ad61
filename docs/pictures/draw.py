"""python docs/pictures/draw.py RUN TOUR: the pictures of README.md and docs/tour.md.

RUN is a finished run of the demo set, TOUR a folder in which the commands of docs/tour.md were run: `make pictures`
makes both. The pictures lie beside this file.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
SHOWN = (("gasket", 1), ("circuit", 2), ("tablet", 0))  # a class of the demo set, and which of its defective images
SIDE = 190  # of one picture, pixels
GAP = 6
CAPTION = 34
COLOURS = 256  # a palette: a third of the bytes of full colour


def found_defects(run: Path) -> Image.Image:
    """Pairs of a picture and its overlay, with the verdict above."""
    from moleflow_fast import Detector
    from moleflow_fast.predict.overlay_files import overlay
    from moleflow_fast.run.directory import RunDirectory

    data = Path(RunDirectory.open(run).options().data_path or run.parent / "demo-data")
    detector = Detector.load(run, "cpu")
    canvas = Image.new("RGB", (2 * len(SHOWN) * (SIDE + GAP) + GAP, CAPTION + SIDE + GAP), "white")
    for column, (name, number) in enumerate(SHOWN):
        file = _defective(data / name)[number]
        (result,) = detector.predict(file)
        assert result.task_id is not None
        picture = Image.open(file).convert("RGB")
        pair = picture, overlay(picture, result, detector.calibration.tasks[result.task_id])
        verdict = f"{result.class_names[0]}: {result.label}, {result.calibrated:.2f}"
        _paste(canvas, 2 * column * (SIDE + GAP) + GAP, pair, verdict)
    return canvas.quantize(COLOURS)


def _defective(folder: Path) -> list[Path]:
    """The first test image of each kind of defect."""
    kinds = sorted(kind for kind in (folder / "test").iterdir() if kind.name != "good")
    return [min(kind.glob("*.png")) for kind in kinds]


def _paste(canvas: Image.Image, left: int, pictures: tuple[Image.Image, Image.Image], verdict: str) -> None:
    from moleflow_fast.evaluation.lettering import font

    ImageDraw.Draw(canvas).text((left, 9), verdict, (20, 20, 20), font(14))
    for place, picture in enumerate(pictures):
        sized = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        canvas.paste(Image.fromarray(np.asarray(sized)), (left + place * (SIDE + GAP), CAPTION))


def heat_maps(tour: Path) -> Image.Image:
    """The gasket's sheet, at three fifths of its size."""
    sheet = Image.open(tour / "runs/parts/heatmaps/gasket.png")
    return sheet.resize((sheet.width * 3 // 5, sheet.height * 3 // 5), Image.Resampling.LANCZOS).quantize(COLOURS)


def overlay_of_a_cut(tour: Path) -> Image.Image:
    """The cut with the highest score."""
    with (tour / "out/scores.csv").open(encoding="utf-8") as file:
        cuts = [row for row in csv.DictReader(file) if "/cut/" in row["path"]]
    highest = max(cuts, key=lambda row: float(row["calibrated"]))
    return Image.open(tour / "out" / highest["overlay"]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


INK, FROZEN, LEARNING, PALE = "#1b2733", "#cfe0f3", "#ffd9a8", "#eef1f4"


class Svg:
    """Boxes, words and arrows."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self.parts = [f'<rect width="{width}" height="{height}" fill="white"/>']

    def box(self, x: int, y: int, width: int, height: int, fill: str, *lines: str) -> None:
        """The first line is bold."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{INK}"/>'
        )
        top = y + height / 2 - 8.5 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.words(x + width // 2, int(top + 17 * number), line, bold=number == 0)

    def words(self, x: int, y: int, text: str, bold: bool = False, anchor: str = "middle", size: int = 13) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"{weight}>{text}</text>')

    def arrow(self, x1: int, y1: int, x2: int, y2: int) -> None:
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )

    def __str__(self) -> str:
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        )
        letters = f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" fill="{INK}">'
        tip = '<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        path = f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/>'
        return "\n".join((f"{head} {letters}", f"<defs>{tip}{path}</marker></defs>", *self.parts, "</svg>\n"))


def continual_learning() -> Svg:
    """Above: what three tasks train. Below: how an image is scored."""
    svg = Svg(900, 380)
    svg.words(20, 28, "Learning: one product after another", bold=True, anchor="start", size=15)
    for task, (product, trains) in enumerate((("bolts", FROZEN), ("nuts", FROZEN), ("washers", LEARNING))):
        x = 20 + 235 * task
        svg.box(x, 42, 215, 30, PALE, f"normal images of {product}")
        svg.arrow(x + 107, 72, x + 107, 88)
        svg.box(x, 90, 215, 64, trains, f"expert {task}", "adapter, LoRA, small flow,", "prototype")
    svg.box(20, 166, 685, 34, FROZEN, "base flow: trained with task 0, then frozen")
    svg.box(725, 90, 22, 18, LEARNING)
    svg.words(755, 104, "being trained", anchor="start")
    svg.box(725, 118, 22, 18, FROZEN)
    svg.words(755, 132, "frozen: old products", anchor="start")
    svg.words(755, 149, "keep their outputs", anchor="start")
    svg.words(755, 166, "to the bit", anchor="start")

    svg.words(20, 250, "Scoring: nobody says what the image shows", bold=True, anchor="start", size=15)
    steps = (
        (PALE, "image"),
        (FROZEN, "backbone", "patch features"),
        (FROZEN, "router", "nearest prototype"),
        (FROZEN, "expert 1 + base", "density of patches"),
        (PALE, "heat map: -log p", "score, label, regions"),
    )
    left = 20
    for place, (fill, *lines) in enumerate(steps):
        width = 100 if place == 0 else 160
        svg.box(left, 270, width, 60, fill, *lines)
        if place < len(steps) - 1:
            svg.arrow(left + width, 300, left + width + 28, 300)
        left += width + 30
    svg.words(420, 350, "far from all prototypes:", size=12)
    svg.words(420, 366, "label unknown", size=12)
    return svg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of the demo set")
    parser.add_argument("tour", type=Path, metavar="TOUR", help="where the commands of docs/tour.md were run")
    args = parser.parse_args()
    found_defects(args.run).save(HERE / "found_defect.png", optimize=True)
    heat_maps(args.tour).save(HERE / "tour_heatmaps.png", optimize=True)
    overlay_of_a_cut(args.tour).save(HERE / "tour_overlay.png", optimize=True)
    (HERE / "continual_learning.svg").write_text(str(continual_learning()), encoding="utf-8")


if __name__ == "__main__":
    main()
