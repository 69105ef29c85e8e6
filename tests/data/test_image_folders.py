"""Folders of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, features
from support.data_sources import everything, picture, scaled
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin.data import load_data

pytestmark = pytest.mark.any_processor


def test_a_folder(tmp_path):
    folder = tmp_path / "cats"
    b = picture(folder / "b.png", seed=1)
    z = picture(folder / "a" / "z.BMP", seed=2)
    a = picture(folder / "a.tiff", seed=3)
    (folder / "notes.txt").write_text("not an image")
    (folder / "._b.png").write_bytes(b"what macOS leaves behind")
    loaded = load_data(folder)
    assert (loaded.name, loaded.event_shape, len(loaded)) == ("folder:cats", (3, 4, 5), 3)
    assert loaded._items.values.dtype == torch.uint8
    assert torch.equal(everything(loaded), scaled(torch.stack([a, z, b]).permute(0, 3, 1, 2)))
    assert load_data(str(folder)).fingerprint == loaded.fingerprint


SAVED = (".png", ".JPG", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".tga", ".jp2", ".pcx")


@pytest.mark.parametrize("suffix", (*SAVED, *([".avif"] if features.check("avif") else [])))
def test_every_suffix(tmp_path, suffix):
    picture(tmp_path / f"cat{suffix}")
    loaded = load_data(tmp_path)
    assert loaded.event_shape == (3, 4, 5) and loaded.notes == ()


@pytest.mark.parametrize("suffix", [".h5", ".mpg", ".eps", ".wmf", ".grib", ".pdf", ".txt"])
def test_suffixes_without_pixels(tmp_path, suffix):
    """Pillow has a name for some of them, but reads no pixels of them."""
    picture(tmp_path / "cat.png")
    (tmp_path / f"cat{suffix}").write_bytes(b"something else")
    loaded = load_data(tmp_path)
    assert len(loaded) == 1 and loaded.notes == (f"left out of {loaded.name}: 1 {suffix}",)


def test_links_to_folders_are_followed(tmp_path):
    cat, dog = picture(tmp_path / "store" / "cat" / "1.png", seed=1), picture(tmp_path / "set" / "dog" / "1.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "set" / "fox").symlink_to("cat")  # a link to a link: the same images once more
    (tmp_path / "set" / "dog" / "2.png").symlink_to(tmp_path / "store" / "cat" / "1.png")
    loaded = load_data(tmp_path / "set")
    assert torch.equal(everything(loaded), scaled(torch.stack([cat, dog, cat, cat]).permute(0, 3, 1, 2)))
    assert loaded.labels.tolist() == [0, 1, 1, 2] and loaded.notes == ()


@pytest.mark.parametrize("target", [".", "..", "../cat", "../dog/again"])
def test_loops_of_links_are_noticed(tmp_path, target):
    for name in ("cat", "dog"):
        picture(tmp_path / "set" / name / "1.png")
    (tmp_path / "set" / "dog" / "again").symlink_to(target)
    loaded = load_data(tmp_path / "set")
    if target == "../cat":
        assert len(loaded) == 3 and loaded.notes == ()
    elif target == "../dog/again":  # to itself, which leads nowhere
        assert len(loaded) == 2 and loaded.notes == ("left out of folder:set: 1 broken links or special files",)
    else:
        assert len(loaded) == 2 and loaded.notes == ("left out of folder:set: 1 links to a folder that they are in",)


def test_two_folders_that_link_to_each_other(tmp_path):
    for name, other in (("cat", "dog"), ("dog", "cat")):
        picture(tmp_path / name / "1.png")
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    loaded = load_data(tmp_path)
    assert len(loaded) == 4 and loaded.notes[0].endswith(": 2 links to a folder that they are in")


def test_what_is_hidden_is_left_out(tmp_path):
    for name in ("cat/1.png", "dog/1.png", ".ipynb_checkpoints/1.png", "cat/.git/1.png", "dog/.2.png"):
        picture(tmp_path / ".here" / name)
    (tmp_path / ".here" / "README").touch()
    (tmp_path / ".here" / "gone.png").symlink_to("nowhere")
    loaded = load_data(tmp_path / ".here")
    assert loaded.labels.tolist() == [0, 1]
    counts = "1 broken links or special files, 3 hidden, 1 without an ending"
    assert loaded.notes == (f"left out of folder:.here: {counts}",)


def test_what_is_left_out_is_said(tmp_path, capsys):
    for i in range(2):
        picture(tmp_path / "set" / f"{i}.png", "L", (8, 8), seed=i)
    (tmp_path / "set" / "notes.txt").touch()
    run = fl.train(tmp_path / "set", n_iterations=1, **{**SMALL, "progress": True})
    assert "left out of folder:set: 1 .txt\n" in capsys.readouterr().out
    options = dict(n=2, n_reconstruct=0, n_chains=0, fid=False, coverage=False, progress=False)
    assert fl.evaluate(run, tmp_path / "set", **options)["notes"]["data"] == "left out of folder:set: 1 .txt"


def test_a_folder_with_a_names_name(tmp_path, monkeypatch):
    picture(tmp_path / "digits" / "cat.png")
    monkeypatch.chdir(tmp_path)
    assert load_data("digits").event_shape == (1, 8, 8)
    assert load_data("./digits").event_shape == (3, 4, 5)


def test_grey_images_stay_grey(tmp_path):
    a, b = picture(tmp_path / "a.png", "L"), picture(tmp_path / "b.png", "L", seed=1)
    assert torch.equal(everything(load_data(tmp_path)), scaled(torch.stack([a, b])[:, None]))
    c = picture(tmp_path / "c.png", seed=2)
    mixed = everything(load_data(tmp_path))
    assert torch.equal(mixed[0], scaled(a).expand(3, 4, 5)) and torch.equal(mixed[2], scaled(c.permute(2, 0, 1)))


def test_one_bit_and_16_bit_images(tmp_path):
    bits = np.array([[True, False], [False, True]])
    Image.fromarray(bits).save(tmp_path / "a.png")
    deep = np.array([[0, 257], [128 * 257 + 128, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "b.png")
    Image.fromarray(deep).save(tmp_path / "c.tif")
    loaded = everything(load_data(tmp_path))
    assert torch.equal(loaded[0, 0], scaled(torch.tensor(bits) * 255))
    for image in loaded[1:, 0]:
        assert torch.equal(image, scaled(torch.tensor([[0, 1], [128, 255]])))


def test_values_of_unknown_range(tmp_path):
    Image.fromarray(np.eye(4, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read.*floats.*value_range="):
        load_data(tmp_path)
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read.*16 bits: 70000"):
        load_data(tmp_path)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_becomes_white(tmp_path, mode):
    pixels = picture(tmp_path / "a.png", mode, (40, 30))
    colour, alpha = pixels[..., :-1].double(), pixels[..., -1:].double() / 255
    expected = (colour * alpha + 255 * (1 - alpha)).permute(2, 0, 1)
    got = (everything(load_data(tmp_path))[0] + 1) * 127.5
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1


def test_a_transparent_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    expected = torch.tensor([[[255, v], [v, v]] for v in (40, 50, 60)])
    assert torch.equal(everything(load_data(tmp_path))[0], scaled(expected))


def test_exif_orientation_is_applied(tmp_path):
    pixels = picture(tmp_path / "a.png", "L")
    turned = Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90° clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(everything(load_data(tmp_path))[0, 0], scaled(pixels))


def test_image_size_keeps_the_middle(tmp_path):
    pixels = picture(tmp_path / "a.png", "L", (9, 5))
    tall = picture(tmp_path / "b.png", "L", (5, 8), seed=1)
    assert torch.equal(
        everything(load_data(tmp_path, image_size=5)), scaled(torch.stack([pixels[:, 2:7], tall[1:6]])[:, None])
    )


def test_image_size_antialiases(tmp_path):
    board = (np.indices((64, 128)).sum(0) % 2 * 255).astype(np.uint8)
    board[:, :32], board[:, 96:] = 0, 255
    Image.fromarray(board).save(tmp_path / "a.png")
    picture(tmp_path / "b.png", "L", (20, 30))
    images = everything(load_data(tmp_path, image_size=8))
    assert images.shape == (2, 1, 8, 8)
    assert images[0].abs().max() < 0.1  # a downsampled checkerboard is grey


def test_unequal_images(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(7, 6))
    with pytest.raises(ValueError, match=r"a\.png is 5x4 and .*b\.png is 7x6: use image_size="):
        load_data(tmp_path)


@pytest.mark.parametrize("keep", [0, 20, 0.5])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_a_corrupt_image_is_named(tmp_path, suffix, keep):
    picture(tmp_path / f"a{suffix}", size=(40, 40))
    picture(tmp_path / f"bad{suffix}", size=(40, 40))
    content = (tmp_path / f"bad{suffix}").read_bytes()
    (tmp_path / f"bad{suffix}").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=rf"bad{suffix} cannot be read as an image"):
        load_data(tmp_path)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path.name} holds no images .*png, .jpg.*; left out: 1 .txt$"):
        load_data(tmp_path)
