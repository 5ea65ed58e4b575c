#!/bin/sh
# Everything that a device needs, as files: for an installation without a network.
#
#   deploy/wheelhouse.sh FOLDER                      for a machine like this one, and this Python
#   deploy/wheelhouse.sh FOLDER aarch64 3.10         for a Jetson with JetPack 6
#   deploy/wheelhouse.sh FOLDER aarch64 3.12         for a Jetson with JetPack 7
#   deploy/wheelhouse.sh FOLDER x86_64 3.12          for a desktop
#
# There: python3 -m venv venv && venv/bin/pip install --no-index --find-links FOLDER edge-emotion
# Only wheels are taken: nothing is compiled there. llama.cpp has none; see docs/jetson.md for building it.
set -eu

if [ $# -ne 1 ] && [ $# -ne 3 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
folder=$1
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-python3}
pip="$python -m pip --disable-pip-version-check"

if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
  echo "error: $folder is not empty; give another folder" >&2
  exit 1
fi
partial="$folder.partial"
rm -rf "$partial"
mkdir -p "$partial"

echo "==> edge-emotion itself" >&2
$pip wheel -q --no-deps -w "$partial" "$repository"
wheel=$(ls "$partial"/edge_emotion-*.whl)

echo "==> what it needs" >&2
if [ $# -eq 3 ]; then
  # Pins are for the machines that the project is tested on; another Python may need other versions.
  $pip download -q --only-binary :all: --implementation cp --python-version "$3" \
    --platform "manylinux_2_28_$2" --platform "manylinux_2_27_$2" --platform "manylinux2014_$2" \
    --platform "manylinux_2_17_$2" -d "$partial" "$wheel"
else
  $pip download -q --only-binary :all: -c "$repository/constraints/cpu.txt" -d "$partial" "$wheel"
fi
rm -rf "$folder"
mv "$partial" "$folder"
(cd "$folder" && sha256sum ./*.whl > SHA256SUMS)
echo "==> $(ls "$folder"/*.whl | wc -l) wheels, $(du -sh "$folder" | cut -f1), in $folder" >&2
