"""Compiles the extension ahead of its first use."""

from shoal.torch import build

print(build.compile_extension())
