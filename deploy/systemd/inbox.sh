#!/bin/sh
# Analyses every recording in FOLDER/inbox: the result goes to FOLDER/results, the recording to FOLDER/done, or to
# FOLDER/failed where it could not be analysed (why is on stderr, so in the journal).
#
#   inbox.sh FOLDER          EDGE_EMOTION_OPTIONS holds options of every analysis
#
# A recording must appear whole: write it beside the inbox, then rename it into it. Names that begin with a dot wait.
set -u

folder=${1:?"usage: inbox.sh FOLDER"}
mkdir -p "$folder/inbox" "$folder/results" "$folder/done" "$folder/failed" || exit 1

for recording in "$folder"/inbox/*; do
  [ -f "$recording" ] || continue
  # shellcheck disable=SC2086 - several options in one variable
  if edge-emotion analyze "$recording" -o "$folder/results" --force ${EDGE_EMOTION_OPTIONS:-} >/dev/null; then
    mv -f -- "$recording" "$folder/done/"
  else
    mv -f -- "$recording" "$folder/failed/"
  fi || exit 1 # a recording that stays would be analysed for ever
done
