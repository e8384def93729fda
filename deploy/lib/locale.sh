# shellcheck shell=bash
# What these scripts sort, compare and match, and the numbers and dates that they read, are the same in every locale.
# Messages stay in the operator's language. A program whose messages are read is run with LC_ALL=C.

if [ -n "${LC_ALL:-}" ]; then
    export LC_CTYPE="$LC_ALL" LC_MESSAGES="$LC_ALL"
    unset LC_ALL
fi
export LC_COLLATE=C LC_NUMERIC=C LC_TIME=C
