"""Builds the native libraries if torch can be imported, and includes their sources for compilation at first use."""

import importlib.util
import shutil
import sys
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"fastlangevin: building needs setuptools 77 or later, not {setuptools.__version__}: pip install -U setuptools"
    )

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def native_build():
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "fastlangevin" / "kernels" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build_libraries(directory: Path) -> bool:
    """Compiles the libraries that can be built into `directory`, and prints the reasons for the others.

    Those are compiled at first use. With FASTLANGEVIN_CUDA=1, a CUDA library that cannot be built is an error.
    """
    build = native_build()
    why = build.unsupported()
    if why is None:
        try:
            import torch
        except ImportError:
            why = "torch cannot be imported in the build environment (use --no-build-isolation to build now)"
    reasons = {build.CPU: why, build.CUDA: why or build.cuda_unsupported()}
    built = False
    for library, reason in sorted(reasons.items(), key=lambda item: item[1] is None):  # errors before minutes of work
        if reason is None:
            try:
                build.build(library, directory, **build.torch_folders(Path(torch.__file__).parent))
                built = True
            except build.BuildError as error:
                reason = str(error)
        if reason is not None:
            if library.is_cuda and build.cuda_wanted() == "1":
                raise SystemExit(f"fastlangevin: FASTLANGEVIN_CUDA=1, and the CUDA kernels cannot be built: {reason}")
            print(f"fastlangevin: {library.name} kernels are not built now: {reason}", file=sys.stderr)
    return built


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            build_libraries(ROOT / "fastlangevin" / "_native")
        else:
            package = Path(self.build_lib) / "fastlangevin"
            shutil.rmtree(package / "_native", ignore_errors=True)
            shutil.rmtree(package / "csrc", ignore_errors=True)
            shutil.copytree(ROOT / "csrc", package / "csrc", dirs_exist_ok=True)
            self.distribution.has_native = build_libraries(package / "_native")


class NativeDistribution(Distribution):
    """Always platform-specific, because setuptools queries this before the libraries are built."""

    has_native = False

    def has_ext_modules(self):
        return True


class BdistWheel(bdist_wheel):
    """The tag py3-none-<platform>: the libraries use torch's stable ABI and no Python ABI."""

    def get_tag(self):
        _, _, platform = super().get_tag()
        return ("py3", "none", platform) if self.distribution.has_native else ("py3", "none", "any")


setup(distclass=NativeDistribution, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
