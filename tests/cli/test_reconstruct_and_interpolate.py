"""The commands `reconstruct` and `interpolate`: to the bit what the functions return, in one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fastlangevin as fl
from fastlangevin import cli
from fastlangevin.data.sources import digits
from fastlangevin.display import pictures


@pytest.fixture
def command(capsys):
    """Runs a command in this process and returns its output, on stderr if it should fail."""

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert ended.value.code == code, out + err
        return err if code else out

    return call


def quick_run(data, out):
    fl.train(data, out=out, features=4, batch_size=8, n_iterations=2, sampler={"n_steps": 3}, progress=False)
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return quick_run("digits", tmp_path_factory.mktemp("generation") / "run")


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory):
    return quick_run(torch.rand(20, 2, 8, 8), tmp_path_factory.mktemp("two-channels") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("held-out") / "images.npy"
    np.save(path, digits()[0][:6].numpy())
    return path


def test_reconstruct_command(command, trained, images, tmp_path):
    arguments = ("reconstruct", trained, "--data", images, "-n", 3, "--iterations", 5)
    said = command(*arguments, "-o", tmp_path / "x.npz", "--lr", 0.2, "--seed", 7, "--steps", 2)
    arrays = np.load(tmp_path / "x.npz")
    assert set(arrays) == {"original", "reconstruction", "z", "mse"}
    _, sampler = fl.load(trained, sampler={"n_steps": 2})
    sampler.load_state_dict({**sampler.state_dict(), "seed": 7})
    expected = fl.reconstruct(sampler, torch.from_numpy(arrays["original"]), n_iterations=5, lr=0.2)
    for name, array in zip(("z", "reconstruction", "mse"), expected, strict=True):
        np.testing.assert_array_equal(arrays[name], array)
    worst = int(expected.mse.argmax())
    assert f"mean {expected.mse.mean():.3f}" in said and f"(item {worst})" in said
    assert command(*arguments, "-o", tmp_path / "x.png", "--quiet") == ""
    assert Image.open(tmp_path / "x.png").height >= 600
    assert "exists: use --overwrite" in command(*arguments, "-o", tmp_path / "x.png", code=1)


def test_interpolate_command(command, trained, images, tmp_path):
    command("interpolate", trained, "-n", 3, "--pairs", 2, "-o", tmp_path / "x.npz", "--seed", 7)
    arrays = np.load(tmp_path / "x.npz")
    _, sampler = fl.load(trained)
    sampler.load_state_dict({**sampler.state_dict(), "seed": 7})
    z = sampler.initial((4, 1, 8, 8), step=0)
    np.testing.assert_array_equal(arrays["z"], z.numpy())
    expected = fl.interpolate(sampler, z[[1, 3]], z[[0, 2]], n=3)
    np.testing.assert_array_equal(arrays["samples"], expected)
    command("interpolate", trained, "--pairs", 2, "--data", images, "-o", tmp_path / "x.png", "-n", 3, "--quiet")
    drawn, given = Image.open(tmp_path / "x.png"), pictures.grid(torch.from_numpy(np.load(images)[:2]), 2)
    np.testing.assert_array_equal(tile(drawn, 0, of=5), tile(given, 0, of=2))
    np.testing.assert_array_equal(tile(drawn, 4, of=5), tile(given, 1, of=2))

    command("interpolate", trained, "--pairs", 1, "--data", images, "-o", tmp_path / "y.npz", "--iterations", 5)
    latents = fl.reconstruct(fl.load(trained)[1], torch.from_numpy(np.load(images)[:2]), n_iterations=5).z
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["z"], latents)


def tile(picture, i, of):
    """Image i of the first row of a grid of 8×8 images with `of` columns, before enlargement."""
    pixels = np.asarray(picture)[:: picture.width // (10 * of + 2), :: picture.width // (10 * of + 2)]
    return pixels[2:10, 10 * i + 2 : 10 * i + 10]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reconstruct", "nowhere", "--data", "digits"], "run='nowhere' is neither"),
        (
            ["reconstruct", "RUN", "--data", "IMAGES", "-n", 7],
            "--data must hold at least 7 items, got 6 in file:images",
        ),
        (["reconstruct", "RUN", "--data", "IMAGES", "-n", 2, "--lr", -1], "lr must be positive"),
        (["reconstruct", "RUN", "--data", "POINTS"], "--data must hold items of the run's shape (1, 8, 8), got (3,)"),
        (["reconstruct", "RUN", "--data", "IMAGES", "-o", "x.jpg"], "--out must end in .png or .npz"),
        (["interpolate", "nowhere"], "run='nowhere' is neither"),
        (["interpolate", "RUN", "--data", "IMAGES", "--pairs", 4], "--data must hold at least 8 items, got 6"),
        (["interpolate", "RUN", "--image-size", 8], "--image-size is for --data, which is missing"),
        (["interpolate", "RUN", "--iterations", 8], "--iterations is for --data, which is missing, got 8"),
        (["interpolate", "TWO"], "--out must end in .npz for a run of shape (2, 8, 8)"),
        (["reconstruct", "TWO", "--data", "IMAGES"], "--out must end in .npz for a run of shape (2, 8, 8)"),
    ],
)
def test_command_errors(command, arguments, words, trained, images, two_channels, tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).random((9, 3)))
    named = {"RUN": trained, "IMAGES": images, "POINTS": tmp_path / "points.npy", "TWO": two_channels}
    given = [named.get(a, a) for a in arguments]
    assert words in command(*given, *([] if "-o" in arguments else ["-o", tmp_path / "x.png"]), code=1)
    assert not (tmp_path / "x.png").exists()


def test_commands_of_a_run_with_another_data_range(command, tmp_path, images):
    """Data are scaled to the run's interval, pictures are drawn from it, and errors are printed in units of [-1, 1]."""
    run, out = tmp_path / "run", {end: tmp_path / f"x.{end}" for end in ("png", "npz")}
    sampler = {"n_steps": 3, "bounds": (0, 1)}
    options = {"features": 4, "batch_size": 8, "n_iterations": 2, "data_range": (0, 1), "progress": False}
    fl.train("digits", out=run, sampler=sampler, **options)
    unit = (torch.from_numpy(np.load(images)) + 1) / 2

    def both(*arguments):
        """The arrays, the pixels of the picture, and the output."""
        said = [command(arguments[0], run, *arguments[1:], "-o", path, "--overwrite") for path in out.values()][1]
        arrays = {name: torch.from_numpy(array) for name, array in np.load(out["npz"]).items()}
        return arrays, np.asarray(Image.open(out["png"])), said

    def drawn(x, columns):
        return np.asarray(pictures.grid(x, columns, (0.0, 1.0)))

    arrays, pixels, _ = both("sample", "-n", 4, "--seed", 3)
    assert np.array_equal(pixels, drawn(arrays["samples"], 2))

    arrays, pixels, _ = both("interpolate", "--data", images, "--pairs", 2, "-n", 3)
    rows = torch.cat([unit[0:4:2, None], arrays["samples"], unit[1:4:2, None]], dim=1)
    expected = drawn(rows.flatten(0, 1), 5)
    assert np.array_equal(pixels[: len(expected)], expected)  # above the caption

    arrays, pixels, said = both("reconstruct", "--data", images, "-n", 3, "--iterations", 5)
    original, made = arrays["original"], arrays["reconstruction"]
    assert torch.equal(original, unit[:3])  # whole multiples of 1/16
    assert torch.equal(arrays["mse"], (original - made).square().flatten(1).mean(1))
    assert f"mean {4 * arrays['mse'].mean():.4f}" in said
    expected = drawn(torch.cat([original, made, 4 * (original - made).abs()]), 3)
    assert np.array_equal(pixels[:, -expected.shape[1] :], expected)  # beside the labels
