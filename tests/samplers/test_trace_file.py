"""Traces that are written to files while the chain runs."""

from __future__ import annotations

import shutil
import struct
import warnings
import weakref
import zipfile

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

import fastlangevin as fl
from fastlangevin.samplers import trace_file, trace_npz, trace_zarr

FORMATS = ["npz", "zarr"]
BLOCK = 3  # records; 8 records are two blocks and the rest


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(trace_file, "_BLOCK_RECORDS", BLOCK)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(dim=(1, 2))


def make_sampler(energy=quadratic, **target) -> fl.Langevin:
    target = target or {"energy": energy}
    return fl.Langevin(**target, step_size=0.1, noise_std=None, n_steps=20, engine="autograd", seed=1)


class Interrupting:
    """The energy, which raises at its nth call."""

    def __init__(self, n: int, action=None) -> None:
        self.n, self.action = n, action

    def __call__(self, x: Tensor) -> Tensor:
        self.n -= 1
        if self.n == 0:
            if self.action is None:
                raise KeyboardInterrupt
            self.action()
        return quadratic(x)


def assert_same(a: fl.Trace, b: fl.Trace, n: int | None = None) -> None:
    for name in ("x", "energy", "score_norm", "steps"):
        expected = getattr(b, name)[:n]
        if expected.dtype == torch.bfloat16:
            expected = expected.float()
        assert getattr(a, name).dtype == expected.dtype and torch.equal(getattr(a, name), expected), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_written_trace_is_the_trace(ending, dtype, tmp_path):
    sampler, x0 = make_sampler(), torch.randn(2, 3, 5).to(dtype)
    path = tmp_path / f"t.{ending}"
    written = sampler.trace(x0, every=3, out=path)
    assert sampler.step == 20
    reference = sampler.trace(x0, every=3, step=0)
    assert len(reference.x) == 8
    assert_same(written, reference)
    assert_same(fl.Trace.load(str(path)), reference)
    assert repr(written) == repr(reference)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    array = np.load(path)["x"] if ending == "npz" else zarr.open_group(path, mode="r")["x"][:]
    assert (
        (array == reference.x.float().numpy()).all() if dtype != torch.float64 else (array == reference.x.numpy()).all()
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_a_score_alone_has_no_energies(ending, tmp_path):
    sampler = make_sampler(score=lambda x: -x)
    assert sampler.trace(torch.randn(2, 3, 5), out=tmp_path / f"t.{ending}").energy is None


@pytest.mark.parametrize("ending", FORMATS)
def test_statistics_of_any_shape_per_record(ending, tmp_path):
    values = {"acceptance": torch.rand(7, 2), "swaps": torch.rand(7, 4)}
    with trace_file.recording(tmp_path / f"t.{ending}") as records:
        records.begin(7, 6)
        for k in range(7):
            named = {trace_file.STATISTICS + name: value[k] for name, value in values.items()}
            records.add({"x": torch.ones(2), "score_norm": torch.ones(2), "steps": torch.tensor(k), **named})
    trace = fl.Trace.load(tmp_path / f"t.{ending}")
    assert trace.x.shape == (7, 2) and trace.statistics.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(trace.statistics[name], value)


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_in_memory_is_bounded(ending, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), 0
    add = trace_file._Written.add

    def spy(self, record):
        nonlocal most
        alive.add(record["x"])
        most = max(most, len(alive))
        add(self, record)

    monkeypatch.setattr(trace_file._Written, "add", spy)
    trace = make_sampler().trace(torch.randn(2, 3, 5), out=tmp_path / f"t.{ending}")
    assert len(trace.x) == 21 and most == BLOCK


def test_large_states_make_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_file, "_BLOCK_RECORDS", 1024)
    monkeypatch.setattr(trace_file, "_BLOCK_BYTES", 2 * 3 * 5 * 4 * 2)
    make_sampler().trace(torch.randn(2, 3, 5), out=tmp_path / "t.zarr")
    assert zarr.open_group(tmp_path / "t.zarr", mode="r")["x"].chunks == (2, 2, 3, 5)


@pytest.mark.parametrize("n_calls", [2, 8, 21])  # within the first block, the third, and at the last record
@pytest.mark.parametrize("ending", FORMATS)
def test_an_interrupted_trace_keeps_its_records_and_says_so(ending, n_calls, tmp_path):
    x0, path = torch.randn(2, 3, 5), tmp_path / f"t.{ending}"
    says = rf"interrupted: .*t\.{ending} has {n_calls - 1} of 21 records"
    with pytest.warns(UserWarning, match=says), pytest.raises(KeyboardInterrupt):
        make_sampler(Interrupting(n_calls)).trace(x0, out=path)
    with pytest.warns(UserWarning, match=f"ends at step {n_calls - 2} of 20: the trace was interrupted"):
        trace = fl.Trace.load(path)
    assert_same(trace, make_sampler().trace(x0), n_calls - 1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ending == "npz":
        assert np.load(path)["x"].shape == (n_calls - 1, 2, 3, 5)
        assert all(t.data_ptr() % 64 == 0 for t in (trace.x, trace.energy, trace.score_norm, trace.steps))
        archive = zipfile.ZipFile(path)
        assert archive.testzip() is None
        for info in archive.infolist():  # of each member a checksum is in two places
            assert struct.unpack_from("<I", path.read_bytes(), info.header_offset + 14) == (info.CRC,)


@pytest.mark.parametrize("ending", FORMATS)
def test_interrupted_while_it_writes_a_block(ending, tmp_path, monkeypatch):
    """The block is lost, whose states were on the disk and whose steps were not."""
    writer = trace_npz.NpzWriter if ending == "npz" else trace_zarr.ZarrWriter
    append, n_blocks = writer.append, 0

    def interrupted(self, block):
        nonlocal n_blocks
        n_blocks += 1
        append(self, block if n_blocks < 3 else {"x": block["x"]})
        if n_blocks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(writer, "append", interrupted)
    x0, path = torch.randn(2, 3, 5), tmp_path / f"t.{ending}"
    with pytest.warns(UserWarning, match="has 6 of 21 records"), pytest.raises(KeyboardInterrupt):
        make_sampler().trace(x0, out=path)
    with pytest.warns(UserWarning, match="interrupted"):
        assert_same(fl.Trace.load(path), make_sampler().trace(x0), 6)
    assert len((np.load(path) if ending == "npz" else zarr.open_group(path, mode="r"))["x"][:]) == 6


def test_a_killed_process_leaves_a_readable_zarr(tmp_path):
    def look() -> None:
        shutil.copytree(tmp_path / "t.zarr.part" / "t.zarr", tmp_path / "left.zarr")

    x0 = torch.randn(2, 3, 5)
    make_sampler(Interrupting(9, look)).trace(x0, out=tmp_path / "t.zarr")
    zarr.open_group(tmp_path / "left.zarr")["x"].append(np.ones((BLOCK, 2, 3, 5), np.float32))  # killed in a block
    with pytest.warns(UserWarning, match="ends at step 5 of 20"):
        trace = fl.Trace.load(tmp_path / "left.zarr")
    assert_same(trace, make_sampler().trace(x0), 6)


@pytest.mark.parametrize("ending", FORMATS)
def test_errors_before_the_first_record_leave_nothing(ending, tmp_path):
    sampler = make_sampler(Interrupting(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            sampler.trace(torch.randn(2, 3, 5), out=tmp_path / f"t.{ending}")
        with pytest.raises(ValueError, match="n_steps"):
            sampler.trace(torch.randn(2, 3, 5), n_steps=-1, out=tmp_path / f"t.{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", FORMATS)
def test_nothing_is_overwritten(ending, tmp_path):
    sampler, x0, path = make_sampler(), torch.randn(2, 3, 5), tmp_path / f"t.{ending}"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="exists, and nothing is overwritten"):
        sampler.trace(x0, out=path)
    assert path.read_bytes() == b"mine" and sampler.step == 0
    path.unlink()
    part = tmp_path / f"t.{ending}.part"
    part.mkdir()
    with pytest.raises(FileExistsError, match="is being written, or its process was killed"):
        sampler.trace(x0, out=path)
    part.rmdir()
    late = make_sampler(Interrupting(4, lambda: path.write_bytes(b"mine")))
    with pytest.raises(FileExistsError, match="exists since this trace began, which is now in"):
        late.trace(x0, out=path)
    assert path.read_bytes() == b"mine"
    assert_same(fl.Trace.load(part / path.name), make_sampler().trace(x0))


def test_bad_paths(tmp_path):
    sampler, x0 = make_sampler(), torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match="the ending of out must be one of '.npz', '.zarr', got '.npy'"):
        sampler.trace(x0, out=tmp_path / "t.npy")
    with pytest.raises(FileNotFoundError, match="must be in a folder that exists"):
        sampler.trace(x0, out=tmp_path / "nowhere" / "t.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fl.Trace.load(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="the ending of path"):
        fl.Trace.load(tmp_path / "t.csv")
    assert sampler.step == 0


@pytest.mark.parametrize("content", ["text", "stored", "compressed", "zarr"])
def test_files_that_are_no_traces(content, tmp_path):
    path = tmp_path / ("t.zarr" if content == "zarr" else "t.npz")
    if content == "text":
        path.write_text("text")
    elif content == "zarr":
        zarr.open_group(path, mode="w")
    else:
        arrays = {name: np.ones(3) for name in ("x", "score_norm", "steps")}
        if content == "compressed":
            np.savez_compressed(path, n_steps=3, **arrays)
        else:
            np.savez(path, **arrays)
    with pytest.raises(ValueError, match="is not a trace that was written by"):
        fl.Trace.load(path)


def test_an_npz_is_mapped(tmp_path):
    """Its tensors are aligned, and writing to them leaves the file as it is."""
    path = tmp_path / "t.npz"
    trace = make_sampler().trace(torch.randn(2, 3, 5), out=path)
    assert all(t.data_ptr() % 64 == 0 for t in (trace.x, trace.energy, trace.score_norm, trace.steps))
    before = path.read_bytes()
    trace.x.zero_()
    assert path.read_bytes() == before


def test_a_zarr_is_read_where_it_is_indexed(tmp_path):
    x0 = torch.randn(2, 3, 5)
    stored = make_sampler().trace(x0, out=tmp_path / "t.zarr").x
    x = make_sampler().trace(x0).x
    assert len(stored) == len(x) and stored.shape == x.shape and stored.dtype == x.dtype
    for index in (0, -1, slice(None), slice(5, 9), slice(1, None, 4), slice(-3, None), ..., (slice(2, 4), 1)):
        assert torch.equal(stored[index], x[index]), index
    assert torch.equal(stored[..., 0], x[..., 0]) and torch.equal(stored[3, :, 1], x[3, :, 1])
    assert torch.equal(torch.mean(stored, dim=0), x.mean(dim=0))
    with pytest.raises(IndexError):
        stored[21]
