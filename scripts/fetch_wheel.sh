#!/usr/bin/env bash
# Brings files of a package of PyPI into a folder, once.
#   scripts/fetch_wheel.sh NAME==VERSION FOLDER SUFFIX...    those whose names end so
set -euo pipefail
cd "$(dirname "$0")/.."

package=$1 folder=$2
shift 2
[ ! -e "$folder" ] || exit 0
rm -rf "$folder.new"
mkdir -p "$(dirname "$folder")"
trap 'rm -rf "$folder.new"' EXIT
[ -e target/python/bin/pip ] || python3 -m venv target/python
timeout --kill-after=5 300 target/python/bin/pip download --quiet --disable-pip-version-check --retries 1 \
    --no-deps --only-binary :all: --dest "$folder.new" "$package"
python3 - "$folder.new" "$@" <<'END'
import pathlib, sys, zipfile
folder, suffixes = pathlib.Path(sys.argv[1]), tuple(sys.argv[2:])
wheel = next(folder.glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder, [name for name in archive.namelist() if name.endswith(suffixes)])
wheel.unlink()
END
mv "$folder.new" "$folder"
