import numpy as np
import pytest
from data.builders import save
from PIL import Image

from moleflow_fast.data import DataError
from moleflow_fast.data.decoding import load_image, load_mask, load_whole, upright_size, verify

SMOOTH = np.add.outer(np.arange(20) * 6, np.arange(24) * 4).astype(np.uint8)  # grey levels 0..206


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_grey_is_repeated_in_every_format(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(SMOOTH).save(path)
    pixels = np.asarray(load_image(path))
    assert pixels.shape == (20, 24, 3)
    assert np.abs(pixels.astype(int) - SMOOTH[..., None]).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(SMOOTH).convert("RGB").convert(mode).save(path)
    image = load_image(path)
    assert image.mode == "RGB" and image.size == (24, 20)
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(image).astype(int) - SMOOTH[..., None]).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_the_full_range_not_the_image_own(tmp_path, suffix):
    dim, bright = SMOOTH.astype(np.uint16) * 16, SMOOTH.astype(np.uint16) * 257
    for name, pixels in (("dim", dim), ("bright", bright)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.{suffix}")
    assert np.array_equal(np.asarray(load_image(tmp_path / f"bright.{suffix}"))[..., 0], SMOOTH)
    assert np.array_equal(np.asarray(load_image(tmp_path / f"dim.{suffix}"))[..., 0], np.round(dim / 257))


def test_floating_point_counts_from_zero_to_one(tmp_path):
    Image.fromarray((SMOOTH / 255).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], SMOOTH)


def test_floating_point_counts_to_255_where_it_is_no_0_to_1(tmp_path):
    Image.fromarray(SMOOTH.astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], SMOOTH)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 5), np.nan, np.float32), "not finite"),
        (np.full((4, 5), -3, np.float32), "from -3 to -3"),
        (np.full((4, 5), 300, np.float32), "16 bits as uint16"),
        (np.full((4, 5), 2, np.float32), "up to 2"),
        (np.full((4, 5), 70_000, np.int32), "from 70000 to 70000"),
        (np.full((4, 5), -1, np.int32), "from -1 to -1"),
    ],
)
def test_values_that_may_mean_anything_are_refused(tmp_path, values, words):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for read in (load_image, verify, load_whole):
        with pytest.raises(DataError, match=rf"a\.tif: .*{words}"):
            read(tmp_path / "a.tif")


def test_integers_of_32_bits(tmp_path):
    for name, pixels in (("bytes", SMOOTH.astype(np.int32)), ("16 bits", SMOOTH.astype(np.int32) * 257)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        assert np.array_equal(np.asarray(load_image(tmp_path / f"{name}.tif"))[..., 0], SMOOTH), name


def test_further_pages_are_said_once(tmp_path, caplog):
    first, second = Image.fromarray(SMOOTH), Image.new("L", (24, 20), 9)
    for name in ("pages.tif", "frames.gif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        for _ in range(2):
            assert np.array_equal(np.asarray(load_image(tmp_path / name))[..., 0], SMOOTH)
    phone = [image.convert("RGB") for image in (first, second)]
    phone[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=phone[1:])
    load_image(tmp_path / "phone.jpg")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / name}: has several pages, and the first alone is looked at; save the others as files too"
        for name in ("pages.tif", "frames.gif")
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_turns_image_and_size(tmp_path, orientation, bits):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = SMOOTH if bits == 8 else SMOOTH.astype(np.uint16) * 257
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.size == upright_size(tmp_path / "a.png") == ((20, 24) if orientation >= 5 else (24, 20))
    turned = {
        1: SMOOTH, 2: SMOOTH[:, ::-1], 3: SMOOTH[::-1, ::-1], 4: SMOOTH[::-1], 5: SMOOTH.T, 6: SMOOTH.T[:, ::-1],
        7: SMOOTH.T[::-1, ::-1], 8: SMOOTH.T[::-1],
    }[orientation]  # fmt: skip
    assert np.array_equal(np.asarray(image)[..., 0], turned)


@pytest.mark.parametrize("value", [1, 3, 128, 255])
def test_every_non_zero_mask_pixel_counts(tmp_path, value):
    marked = SMOOTH > 100
    Image.fromarray(marked.astype(np.uint8) * value).save(tmp_path / "m.png")
    assert np.array_equal(np.asarray(load_mask(tmp_path / "m.png")), marked * 255)


def test_palette_mask_is_read_by_index(tmp_path):
    mask = Image.fromarray((SMOOTH > 100).astype(np.uint8)).convert("P")
    mask.putpalette([9, 9, 9, 0, 0, 0] + [0] * 762)  # background drawn brighter than the defect
    mask.save(tmp_path / "m.png")
    assert np.array_equal(np.asarray(load_mask(tmp_path / "m.png")), (SMOOTH > 100) * 255)


def test_jpeg_mask_ignores_compression_noise(tmp_path):
    marked = np.zeros((40, 40), dtype=np.uint8)
    marked[8:32, 8:32] = 255
    Image.fromarray(marked).save(tmp_path / "m.jpg", quality=60)
    assert (np.asarray(load_mask(tmp_path / "m.jpg")) != marked).mean() < 0.01


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.97])
def test_truncated_files_are_found_by_the_fast_check_and_by_decoding(tmp_path, suffix, share):
    path = save(tmp_path / f"a.{suffix}", size=(200, 160))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for read in (verify, load_image):
        with pytest.raises(DataError, match=f"a.{suffix}"):
            read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_whole_files_pass_the_fast_check(tmp_path, suffix):
    verify(save(tmp_path / f"a.{suffix}", size=(200, 160)))


def test_a_flipped_bit_in_a_png_is_found(tmp_path):
    path = save(tmp_path / "a.png", size=(200, 160))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        verify(path)


def test_text_named_png_and_missing_file(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DataError, match="not an image"):
        load_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="no such file"):
        load_image(tmp_path / "b.png")


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", size=(200, 160))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too many pixels"):
        load_image(path)
