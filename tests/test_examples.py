"""Scripts of `examples/`: each runs, with fewer iterations, and draws its picture; those for several ranks on two."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import runpy
import socket
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.ranks import on_ranks, unwrapped
from torch import Tensor, nn

import fastlangevin as fl

EXAMPLES = Path(__file__).parent.parent / "examples"


def drawn(folder: Path, number: int, seed: int) -> dict[str, np.ndarray]:
    runpy.run_path(str(EXAMPLES / "shapes.py"))["main"](str(folder), str(number), str(seed))
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))}


def test_shapes(tmp_path):
    images = drawn(tmp_path / "a", 50, 0)
    assert len(images) == 50 and {x.shape for x in images.values()} == {(32, 32, 3)}
    assert {name.split("/")[0] for name in images} == {"crosses", "discs", "rings", "squares", "triangles"}
    for x in images.values():
        ground, inside = x[0, 0], (x != x[0, 0]).any(2)
        edge = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
        assert (edge == ground).all() and 60 <= inside.sum() <= 600  # one whole shape
    again, other = drawn(tmp_path / "b", 50, 0), drawn(tmp_path / "c", 50, 1)
    assert all((x == again[name]).all() for name, x in images.items())
    assert all((x != other[name]).any() for name, x in images.items())
    data = fl.load_data(tmp_path / "a")
    assert data.event_shape == (3, 32, 32) and data.labels is not None and data.labels.bincount().tolist() == [10] * 5


# What is shortened in each, and the least size of its picture.
LOOPS: dict[str, tuple[dict[str, str], tuple[int, int]]] = {
    "mixture_2d": ({"n_iterations=800": "n_iterations=10", "5_000, 2) *": "500, 2) *"}, (1320, 462)),
    "inpaint": ({'fl.train("digits")': 'fl.train("digits", n_iterations=2, features=8)'}, (640, 300)),
    "latent_chain": ({"CHAINS = 10_000": "CHAINS = 300"}, (990, 374)),
    "jem_classifier": ({"ITERATIONS = 64, 200": "ITERATIONS = 8, 2", "n_steps=200": "n_steps=2"}, (640, 300)),
    "uva_tutorial": ({"ITERATIONS = 64, 300": "ITERATIONS = 8, 2", "range(60)": "range(6)"}, (640, 640)),
    "igebm_buffer": (
        {"ITERATIONS = 64, 200": "ITERATIONS = 8, 2", "n_steps=240": "n_steps=2", "range(60)": "range(6)"},
        (640, 640),
    ),
    "bayesian_logistic": (
        {"2_000": "20", "500, 25": "20, 2", "500, 10": "20, 2", "500, 1)": "20, 1)", "n_steps=300": "n_steps=20"},
        (720, 720),
    ),
}
NEEDED = {"mixture_2d": ["matplotlib"], "latent_chain": ["matplotlib"], "bayesian_logistic": ["matplotlib", "sklearn"]}


@pytest.mark.parametrize("name", LOOPS)
def test_runs_and_draws_its_picture(name, tmp_path, monkeypatch, capsys):
    for library in NEEDED.get(name, ()):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "picture.png"])
    side_by_side = importlib.import_module("side_by_side")
    monkeypatch.setattr(side_by_side.report_speed, "__defaults__", (1,))  # rounds of timing
    shortened, size = LOOPS[name]
    code = (EXAMPLES / f"{name}.py").read_text()
    for old, new in shortened.items():
        assert old in code, f"{name}.py has no {old}"
        code = code.replace(old, new)
    module = types.ModuleType("__main__")
    module.__file__ = str(EXAMPLES / f"{name}.py")
    monkeypatch.setitem(sys.modules, "__main__", module)  # where dataclasses look
    exec(compile(code, module.__file__, "exec"), vars(module))
    assert capsys.readouterr().out
    assert all(a >= b for a, b in zip(Image.open("picture.png").size, size, strict=True))


def test_what_the_gallery_shows_is_tested():
    """Its scripts are those above and below; its pictures and the notebook have tests of their own."""
    shown = set(re.findall(r"python examples/(\w+)\.py", (EXAMPLES.parent / "docs" / "gallery.md").read_text()))
    assert set(LOOPS) <= shown <= {*LOOPS, *LIBRARIES, "shapes"}


LIBRARIES = {"ddp_loop": "torch", "accelerate_script": "accelerate", "lightning_module": "pytorch_lightning"}
SHORT = {
    "BATCH, ITERATIONS = 64, 120": "BATCH, ITERATIONS = 64, 3",
    "fl.digits()[0]": "fl.digits()[0].double()",
    "rand(200, 1, 8, 8": "rand(8, 1, 8, 8",
}


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(LIBRARIES[name]) is not None


def _run(ports: dict[str, int]) -> dict[str, tuple[str, list[Tensor]]]:
    """What each script prints, and its weights after a few iterations in float64."""
    sys.path.insert(0, str(EXAMPLES))
    torch.set_default_dtype(torch.float64)
    found, size = {}, os.environ["WORLD_SIZE"]
    for name, port in ports.items():
        if size == "1":
            for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(variable, None)  # started without torchrun
        else:
            os.environ |= {"MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "examples"}
        code = (EXAMPLES / f"{name}.py").read_text()
        for old, new in SHORT.items():
            assert code.count(old) == 1, f"{name}.py has no {old}"
            code = code.replace(old, new)
        names: dict[str, Any] = {"__name__": "__main__"}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, f"{name}.py", "exec"), names)
        model: nn.Module = names["model"]
        is_wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
        assert is_wrapped == (size != "1" and name != "lightning_module"), name
        found[name] = (printed.getvalue(), [p.detach() for p in model.parameters()])
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def on_one_and_two_ranks() -> list[list[dict[str, tuple[str, list[Tensor]]]]]:
    names = [name for name in LIBRARIES if is_installed(name)]
    with contextlib.ExitStack() as stack:
        free = {name: stack.enter_context(socket.socket()) for name in names}
        for each in free.values():
            each.bind(("127.0.0.1", 0))
        ports = {name: each.getsockname()[1] for name, each in free.items()}
    return [unwrapped(on_ranks(size, _run, ports, joined=False)) for size in (1, 2)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_weights_on_two_ranks_are_those_of_one_process(name, on_one_and_two_ranks):
    if not is_installed(name):
        pytest.skip(f"{LIBRARIES[name]} is not installed: it is of the extra distributed or lightning")
    ((alone,), (first, second)) = on_one_and_two_ranks
    for printed, weights in (alone[name], first[name]):
        assert [line.split(":")[0] for line in printed.splitlines()] == ["noise", "samples"], printed
        assert all(map(torch.isfinite, (w.abs().max() for w in weights)))
    assert second[name][0] == ""
    for own, *others in zip(alone[name][1], first[name][1], second[name][1], strict=True):
        # An iteration changes weights by some lr = 1e-3. States are in float32, so where the other order of a sum moves
        # one across a rounding, gradients differ by 1e-7 of an item's.
        assert all((own - other).abs().max() < 1e-6 for other in others)
