# shellcheck shell=bash
# Words to the person who runs deploy.sh: news on stdout, failures on stderr.

say() { printf '==> %s\n' "$*"; }

warn() { printf 'Warning: %s\n' "$*" >&2; }

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

at_terminal() { [ -t 0 ] && [ -t 1 ]; }

has() { command -v "$1" >/dev/null 2>&1; }
