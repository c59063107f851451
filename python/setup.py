"""Puts the built library and command into the package; nothing is compiled here."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
RELEASE = pathlib.Path(os.environ.get("SHOAL_RELEASE", ROOT / "target/release"))

# Where what lies in the repository belongs in the package.
CARRIED = {
    "lib/libnccl.so.2": RELEASE / "libshoal.so",
    "bin/shoal": RELEASE / "shoal",
    "include/nccl.h": ROOT / "include/nccl.h",
    "include/shoal.h": ROOT / "include/shoal.h",
}


def version() -> str:
    """The version of the library."""
    text = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "(.*)"', text, re.MULTILINE).group(1)


class Carry(build_py):
    """Copies the library and the command, without what only debuggers read."""

    def run(self) -> None:
        super().run()
        for name, source in CARRIED.items():
            if not source.exists():
                sys.exit(f"setup.py: {source} is not there; `make release` makes it")
            target = pathlib.Path(self.build_lib) / "shoal" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            if target.suffix != ".h" and shutil.which("strip"):
                subprocess.run(["strip", "--strip-debug", target], check=True)


COMMANDS = {"build_py": Carry}
try:
    from setuptools.command.bdist_wheel import bdist_wheel

    class AnyPython(bdist_wheel):
        """One wheel for every Python: the library is called by its C interface."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.root_is_pure = False

        def get_tag(self) -> tuple[str, str, str]:
            machine = os.uname().machine
            return "py3", "none", f"manylinux_2_28_{machine}"

    COMMANDS["bdist_wheel"] = AnyPython
except ImportError:
    # An older setuptools, which makes its wheels by another package: the tag is then the default one.
    pass

setup(version=version(), cmdclass=COMMANDS)
