import numpy as np
import pytest
from data.builders import mvtec_layout, save
from PIL import Image

from moleflow_fast.data import DataError, check_dataset
from moleflow_fast.data.decoding import load_mask
from moleflow_fast.data.drawn_mask import DrawnMask, drawn_mask


def drawn(seed, share=0.1):
    return np.random.default_rng(seed).random((20, 24)) < share


def rgba(colour, alpha):
    return np.dstack([np.broadcast_to(colour, (20, 24, 3)), alpha]).astype(np.uint8)


def palette(indices, *colours):
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


STORED = {
    "0 and 255": lambda m: m * np.uint8(255),
    "class index": lambda m: m.astype(np.uint8),
    "one bit": lambda m: m,
    "16 bit": lambda m: m.astype(np.uint16),
    "red 1": lambda m: np.dstack([m, 0 * m, 0 * m]).astype(np.uint8),
    "blue 1": lambda m: np.dstack([0 * m, 0 * m, m]).astype(np.uint8),
    "alpha of white": lambda m: rgba((255, 255, 255), m * 255),
    "alpha of black": lambda m: rgba((0, 0, 0), m * 255),
    "alpha of grey": lambda m: np.dstack([0 * m + 200, m * 255]).astype(np.uint8),
    "opaque": lambda m: np.dstack([np.repeat(m[..., None] * 255, 3, 2), 0 * m + 255]).astype(np.uint8),
    "paint on nothing": lambda m: np.dstack([np.repeat(m[..., None] * 200, 3, 2), m * 255]).astype(np.uint8),
    "palette": lambda m: palette(m, (0, 0, 0), (128, 0, 0)),
    "palette without black": lambda m: palette(m, (68, 1, 84), (253, 231, 37)),
}


def test_a_palette_with_a_transparent_colour(tmp_path):
    mask = drawn(7)
    palette(~mask, (255, 0, 0), (255, 255, 255)).save(tmp_path / "mask.png", transparency=1)
    assert np.array_equal(np.asarray(load_mask(tmp_path / "mask.png")) == 255, mask)


@pytest.mark.parametrize("kind", STORED)
def test_masks_are_read_rightly(tmp_path, kind):
    mask = drawn(len(kind))
    stored = STORED[kind](mask)
    image = stored if isinstance(stored, Image.Image) else Image.fromarray(stored)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(load_mask(tmp_path / "mask.png")) == 255, mask)


def test_a_red_mask_in_a_jpeg(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:24, 8:24, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.jpg", quality=95, subsampling=0)
    found = np.asarray(load_mask(tmp_path / "mask.jpg")) == 255
    assert np.array_equal(found, pixels[..., 0] == 255)


def check_of(tmp_path, pixels, name="folder"):
    folder = mvtec_layout(tmp_path) / "bolt"
    Image.fromarray(pixels).save(folder / "ground_truth/dent/000_mask.png")
    return check_dataset(name, tmp_path, ["bolt"]).warnings


def test_an_inverted_mask_is_refused_with_its_values(tmp_path):
    with pytest.raises(DataError, match=r"000_mask.png: marks 9\d% of the picture \(its values: 255 in 9.*inverted"):
        check_of(tmp_path, ~drawn(1, 0.05) * np.uint8(255))


def test_numbers_from_1_on_are_refused_with_their_values(tmp_path):
    with pytest.raises(DataError, match=r"marks 100% .*values: 1 in .*2 in "):
        check_of(tmp_path, drawn(2) + np.uint8(1))


def test_an_empty_mask_is_refused_with_its_values(tmp_path):
    with pytest.raises(DataError, match=r"000_mask.png: marks no pixel.*values: 0 in 100.0%"):
        check_of(tmp_path, drawn(3, 0) * np.uint8(255))


@pytest.mark.parametrize("share", [0.7, 1.1])
def test_a_large_defect_is_a_warning(tmp_path, share):
    assert any("000_mask.png: marks" in w for w in check_of(tmp_path, drawn(4, share) * np.uint8(255)))


def test_masks_of_published_sets_are_taken_as_they_are(tmp_path):
    assert any("000_mask.png: marks 9" in w for w in check_of(tmp_path, ~drawn(5, 0.05) * np.uint8(255), "mvtec"))


def test_the_first_frame_is_said(tmp_path):
    folder = mvtec_layout(tmp_path) / "bolt/train/good"
    frames = [Image.open(save(tmp_path / f"{i}.png", value=100 + i)) for i in range(2)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    assert any("film.gif: several frames" in w for w in check_dataset("folder", tmp_path, ["bolt"]).warnings)


def run_lengths(mask):
    """As COCO counts: down the columns, outside first."""
    flat = mask.flatten(order="F").astype(np.int8)
    ends = np.flatnonzero(np.diff(flat)) + 1
    return np.diff(np.concatenate([[0] * (2 if flat[0] else 1), ends, [len(flat)]])).tolist()


def as_text(counts):
    """COCO's own text of run lengths."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


@pytest.mark.parametrize("written", [list, as_text])
@pytest.mark.parametrize("seed", range(4))
def test_run_lengths(written, seed):
    mask = drawn(seed, 0.02 if seed < 2 else 0.6)
    shape = {"size": [20, 24], "counts": written(run_lengths(mask))}
    assert np.array_equal(np.asarray(drawn_mask([shape], (24, 20), "here").image()) == 255, mask)


def test_a_known_text_of_run_lengths():
    """A square of 2 x 2 at row 1, column 1, of 4 x 5 pixels; written by hand after COCO's rule."""
    mask = drawn_mask([{"size": [4, 5], "counts": "52207"}], (5, 4), "here").image()
    assert np.argwhere(np.asarray(mask)).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_polygons_are_filled():
    mask = np.asarray(DrawnMask("here", (24, 20), ((4.0, 5.0, 9.0, 5.0, 9.0, 11.0, 4.0, 11.0),)).image())
    assert (mask == 255).sum() == 6 * 7 and mask[5:12, 4:10].all()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([[1.0, 2.0, 3.0]], "at least three corners"),
        ({"size": [24, 20], "counts": [480]}, "20 high and 24 wide"),
        ({"size": [20, 24], "counts": [3]}, "3 pixels of run lengths"),
        ({"size": [20, 24], "counts": "é"}, "no run lengths"),
        ({"size": [20, 24]}, "0 pixels of run lengths"),
    ],
)
def test_damaged_shapes_are_named(shape, said):
    with pytest.raises(DataError, match=f"list.json.*{said}"):
        drawn_mask([shape], (24, 20), "list.json")
