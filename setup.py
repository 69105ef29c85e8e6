"""Builds the native libraries where torch can be imported, and ships their sources for first use where it cannot."""

import importlib.util
import shutil
import sys
from pathlib import Path

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
    """Compiles into `directory` where that is possible; says why where it is not. First use compiles then."""
    build = native_build()
    why = build.unsupported()
    if why is None:
        try:
            import torch
            from torch.utils import cpp_extension
        except ImportError:
            why = "torch cannot be imported in the build environment (use --no-build-isolation to build now)"
    if why is None:
        try:
            build.build(
                build.CPU,
                directory,
                include=cpp_extension.include_paths(),
                libraries=[str(Path(torch.__file__).parent / "lib")],
            )
            return True
        except build.BuildError as error:
            why = str(error)
    print(f"fastlangevin: native kernels are not built now: {why}", file=sys.stderr)
    return False


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
    """Platform-specific whether or not the libraries could be built: setuptools asks before it builds."""

    has_native = False

    def has_ext_modules(self):
        return True


class BdistWheel(bdist_wheel):
    """py3-none-<platform>: the libraries use torch's stable ABI and no Python ABI."""

    def get_tag(self):
        _, _, platform = super().get_tag()
        return ("py3", "none", platform) if self.distribution.has_native else ("py3", "none", "any")


setup(distclass=NativeDistribution, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
