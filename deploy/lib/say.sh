# shellcheck shell=bash
# Messages of deploy.sh (errors on stderr), logged execution of programs, and lookup of settings.

# File that also receives all messages of a production run; empty: none.
DEPLOY_LOG=""
# shellcheck source=deploy/lib/apart.sh
. "${BASH_SOURCE[0]%/*}/apart.sh"

say() {
    printf '==> %s\n' "$*"
    note "$*"
}

warn() {
    printf 'Warning: %s\n' "$*" >&2
    note "Warning: $*"
}

die() {
    printf 'Error: %s\n' "$*" >&2
    note "Error: $*"
    exit 1
}

note() {
    [ -z "$DEPLOY_LOG" ] || printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$DEPLOY_LOG"
}

# Runs a program; with a log, its output goes there as well.
recorded() {
    if [ -z "$DEPLOY_LOG" ]; then "$@"; else apart logged "$@"; fi
}

# It lives on at SIGTERM until its program has ended, so that whoever waits for it waits for that.
logged() {
    trap : TERM
    set -o pipefail
    "$@" 2>&1 | tee -a "$DEPLOY_LOG"
}

at_terminal() { [ -t 0 ] && [ -t 1 ]; }

has() { command -v "$1" >/dev/null 2>&1; }

ENV_FILE_PATH="${ENV_FILE:-$ROOT/.env}"

# Prints the value that the service will use for a setting: $1 its name, $2 its default.
setting() {
    local value="${!1:-}"
    [ -n "$value" ] || value="$(setting_in "$ENV_FILE_PATH" "$1")"
    echo "${value:-$2}"
}

# Prints a setting of a file as the service reads it, nothing if it is not there: $1 the file, $2 the name. Blanks, `export`, quotes,
# comments behind a value and lines that end in CR may be there; of escapes in quotes, those of quotes and backslashes are read.
setting_in() {
    local cr
    [ -f "$1" ] || return 0
    cr="$(printf '\r')" # which not every sed takes as \r
    sed -n -e "s/$cr\$//" -e "s/^[[:blank:]]*\(export[[:blank:]]\{1,\}\)\{0,1\}$2[[:blank:]]*=[[:blank:]]*//p" "$1" | tail -n 1 |
        sed -E -e "/^'([^'\\\\]|\\\\.)*'/{" -e "s/^'(([^'\\\\]|\\\\.)*)'.*/\1/" -e "s/\\\\([\\\\'])/\1/g" -e b -e '}' \
            -e '/^"([^"\\]|\\.)*"/{' -e 's/^"(([^"\\]|\\.)*)".*/\1/' -e 's/\\(["\\])/\1/g' -e b -e '}' \
            -e 's/[[:blank:]]+#.*//' -e 's/[[:blank:]]*$//'
}
