# shellcheck shell=bash
# `deploy.sh update`: fetches another tree and installs it with that tree's own `deploy.sh production`, which rolls back
# if it fails. The tree of this script is not changed.

# The folder of the fetched tree.
UPDATE=""

# $1: a folder, a tarball, its URL, or a tag or branch of this checkout; default: the upstream of the current branch.
update() {
    local source="" sum="" options=()
    need_root update
    while [ $# -gt 0 ]; do
        case "$1" in
            --sha256) [ -n "${2:-}" ] || die "--sha256 needs a value." && sum="$2" && shift ;;
            --no-backup) options+=("$1") ;;
            -*) die "'update' has no option '$1'; it takes --sha256, --no-backup and a source." ;;
            *) [ -z "$source" ] || die "'update' takes one source." && source="$1" ;;
        esac
        shift
    done
    umask 022
    mkdir -p "$PREFIX"
    take_update_lock
    trap end_update EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    UPDATE="$(mktemp -d "$PREFIX/update.XXXXXX")"
    # What git leaves in the background must not hold the lock.
    fetch_tree "$source" "$sum" "$UPDATE" 8>&-
    apart "$UPDATE/tree/deploy.sh" production ${options[@]+"${options[@]}"}
}

# One update at a time. The run of the new tree holds the lock too, so that it counts where its update was killed; folders
# that are here while nobody holds it are left over.
take_update_lock() {
    mkdir -p "$SYSTEM_ROOT/run/lock"
    exec 8>"$SYSTEM_ROOT/run/lock/avito-ai-update"
    flock -n 8 || die "Another update is running; nothing was changed."
    rm -rf "$PREFIX"/update.*
}

# The run of the new tree works in that tree: it ends first, and rolls back.
end_update() {
    trap '' HUP INT TERM PIPE
    end_child
    rm -rf "$UPDATE"
}

# Writes the tree of source $1 to $3/tree. $2: the expected sha256 of a tarball, or empty.
fetch_tree() {
    local source="$1" path tarball="$3/tree.tar.gz" part
    path="$(from_caller "$source")"
    mkdir "$3/tree"
    case "$source" in
        https://* | http://*)
            say "Fetching $source."
            curl --fail --silent --show-error --location --output "$tarball" "$source" || die "$source could not be fetched."
            unpack "$tarball" "$2" "$3/tree"
            ;;
        *)
            if [ -d "$path" ]; then
                tree_files "$path" | tar -C "$path" --null --files-from=- -cf - | tar -C "$3/tree" --no-same-owner -xf -
            elif [ -f "$path" ]; then
                unpack "$path" "$2" "$3/tree"
            else
                fetch_revision "$source" "$3/tree"
            fi
            ;;
    esac
    for part in deploy.sh "$UNIT" config.py; do
        [ -f "$3/tree/$part" ] || die "${source:-The fetched tree} is not a tree of Avito AI API: it has no $part."
    done
}

# Unpacks a tarball, without its outer folder if it has one.
unpack() {
    local outer
    if [ -n "$2" ]; then
        printf '%s  %s\n' "$2" "$1" | sha256sum --check --quiet - >/dev/null 2>&1 || die "$1 does not have the sha256 $2; it was not used."
    fi
    tar -C "$3" --no-same-owner -xf "$1" || die "$1 could not be unpacked."
    if [ ! -f "$3/deploy.sh" ]; then
        outer="$(find "$3" -mindepth 2 -maxdepth 2 -name deploy.sh)"
        if [ -n "$outer" ]; then
            outer="${outer%/deploy.sh}"
            mv "$outer" "$3.inner" && rmdir "$3" && mv "$3.inner" "$3"
        fi
    fi
}

# $1: a tag or branch; empty: the upstream of the current branch.
fetch_revision() {
    local revision="${1:-@{upstream\}}"
    [ -e "$ROOT/.git" ] || die "$ROOT is not a git checkout; give a folder, a tarball or its URL: ./deploy.sh update SOURCE"
    git_in "$ROOT" fetch --quiet --tags || die "git could not fetch; see its message above."
    if [ -n "$1" ] && git_in "$ROOT" rev-parse --quiet --verify "origin/$1^{commit}" >/dev/null; then revision="origin/$1"; fi
    git_in "$ROOT" rev-parse --quiet --verify "$revision^{commit}" >/dev/null || die "There is no tag or branch '${1:-(upstream of this branch)}' in $ROOT."
    say "Using $(git_in "$ROOT" describe --always --tags "$revision") of $ROOT."
    git_in "$ROOT" archive "$revision" | tar -C "$2" -xf - || die "git could not export the tree of $revision."
}
