"""The `shoal` program, as pip installs it."""

import os
import sys

import shoal


def main() -> None:
    """Becomes the program, which finds the library beside itself or by the variable."""
    path = shoal.command()
    os.environ.setdefault("SHOAL_HOME", str(path.parent.parent))
    os.execv(path, [str(path), *sys.argv[1:]])


if __name__ == "__main__":
    main()
