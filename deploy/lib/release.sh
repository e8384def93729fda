# shellcheck shell=bash
# shellcheck disable=SC2153  # RELEASES is a path
# Releases side by side: each is a copy of a tree with its own virtual environment, named by date and content hash.

KEEP_RELEASES=3
COPY_MB=50
# Set once a release is chosen or created.
RELEASE=""

# Prints the files of the tree in $1 that belong to a release, NUL-terminated, without generated ones and secrets. In a
# checkout these are files that git has or would take; a release lists the same ones without git.
tree_files() {
    if [ ! -e "$1/.git" ] || ! has git; then
        files_found "$1"
        return
    fi
    git_in "$1" ls-files >/dev/null || die "git does not list the files of $1; see its message above."
    comm -z -12 <(files_found "$1") <(git_in "$1" ls-files -c -o --exclude-standard -z | sed -z 's#^#./#' | sort -z -u)
}

files_found() {
    (cd "$1" && find . \( -name .git -o -name '.venv*' -o -name .release -o -name __pycache__ -o -name '.*_cache' \
        -o -name '.building-*' -o -name htmlcov -o -name node_modules \
        -o -path ./run -o -path ./backups -o -path ./.state \) -prune -o \( -type f -o -type l \) \
        ! -name '*.pyc' ! -name '*.so' \( ! -name '.env*' -o -name .env.example \) ! -name '.coverage*' ! -name '*.log' \
        ! -path './deploy/compose/postgres/*' ! -path './deploy/compose/secrets/*' ! -path './deploy/compose/tls/*' -print0 | sort -z)
}

# Runs git in the checkout $1 as its owner, who keeps what git writes there and has the keys of its remote.
git_in() {
    local folder owner="" home
    folder="$(cd "$1" && pwd -P)"
    shift
    if [ "$(id -u)" -eq 0 ]; then owner="$(stat -c %U "$folder/.git")"; fi
    case "$owner" in
        "" | root | UNKNOWN) git -c safe.directory="$folder" -C "$folder" "$@" ;;
        *)
            home="$(getent passwd "$owner" | cut -d : -f 6)"
            runuser -u "$owner" -- env HOME="$home" git -c safe.directory="$folder" -C "$folder" "$@"
            ;;
    esac
}

tree_hash() {
    tree_files "$1" | (cd "$1" && xargs -0 sha256sum) | sha256sum | cut -c 1-12
}

# Sets RELEASE to the existing release of this tree, or to the folder for a new one.
choose_release() {
    local hash found
    hash="$(tree_hash "$ROOT")"
    for found in "$RELEASES"/*-"$hash"; do
        if [ -e "$found/.release/complete" ]; then
            RELEASE="$found"
            return
        fi
    done
    RELEASE="$RELEASES/$(date -u +%Y%m%d-%H%M%S)-$hash"
}

release_complete() { [ -e "$RELEASE/.release/complete" ]; }

# Creates the release; it is not used before the last step has succeeded.
make_release() {
    remove_incomplete_releases
    [ "$(free_mb "$PREFIX")" -ge "$COPY_MB" ] || die "Not enough disk space in $PREFIX: $(free_mb "$PREFIX") MB are free."
    say "Creating the release ${RELEASE##*/}."
    copy_tree
    ln -s "$SETTINGS_FILE" "$RELEASE/.env"
    cd "$RELEASE" || exit
    VENV_PYTHON="$RELEASE/.venv/bin/python"
    borrow_environment || make_venv
    install_packages requirements.txt
    "$VENV_PYTHON" -m compileall -q -x '/\.venv/' . >/dev/null || die "The code of this release is broken: $("$VENV_PYTHON" -m compileall -q -x '/\.venv/' . 2>&1 | head -n 5)"
    build_kernels
    chmod -R go-w .
    smoke_test
    : >.release/complete
}

copy_tree() {
    mkdir -p "$RELEASE/.release"
    tree_files "$ROOT" | tar -C "$ROOT" --null --files-from=- -cf - | tar -C "$RELEASE" --no-same-owner -xf - ||
        die "The tree could not be copied to $RELEASE."
    chmod -R u=rwX,go=rX "$RELEASE"
}

# Reuses the virtual environment of an earlier release with the same packages and Python. Hard links need neither space
# nor download, and pip replaces files instead of writing to them.
borrow_environment() {
    local earlier wanted
    for earlier in $(releases_newest_first); do
        [ -e "$earlier/.release/complete" ] || continue
        wanted="$(fingerprint requirements.txt "$earlier/.venv/bin/python" 2>/dev/null)" || continue
        [ "$(cat "$earlier/.venv/requirements.txt.installed" 2>/dev/null)" = "$wanted" ] || continue
        [ "$(python_version "$earlier/.venv/bin/python")" = "$(python_version "$PYTHON")" ] || continue
        cp -al "$earlier/.venv" .venv 2>/dev/null || { rm -rf .venv && return 1; }
        rename_environment "$earlier" || { rm -rf .venv && return 1; }
        say "The packages are those of ${earlier##*/}; reusing its virtual environment."
        return 0
    done
    return 1
}

# Scripts of a virtual environment contain its path; sed -i writes new files, so the earlier release keeps its own.
rename_environment() {
    { grep -rlI --fixed-strings "$1/.venv" .venv/bin .venv/pyvenv.cfg || true; } |
        while IFS= read -r file; do sed -i "s#$1/.venv#$RELEASE/.venv#g" "$file"; done
    venv_works
}

# Compiles the CPU kernels of a release if they are missing. The service cannot write to the release and would otherwise
# compile them at every start.
build_kernels() {
    runs_on_cpu || return 0
    say "CPU kernels:"
    recorded env -C "$RELEASE" "$RELEASE/.venv/bin/python" -m engine.model.kernels.build ||
        warn "The models run without the kernels, which is slower; see the reason above."
}

smoke_test() {
    say "Smoke tests: the new release with the demo models on the CPU, on a port of its own."
    recorded runuser -u "$SERVICE_USER" -- "$VENV_PYTHON" -m deploy.smoke ||
        die "The release ${RELEASE##*/} failed its smoke tests; see their output above."
}

releases_newest_first() {
    find "$RELEASES" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sort -r
}

remove_incomplete_releases() {
    local folder
    for folder in $(releases_newest_first); do
        case "$folder" in "$(current_release)" | "$(serving_release)") continue ;; esac
        [ -e "$folder/.release/complete" ] || rm -rf "$folder"
    done
}

# Keeps the newest few that have served, and always the current, the serving and the previous one.
prune_releases() {
    local folder kept=0
    for folder in $(releases_newest_first); do
        [ -e "$folder/.release/failed" ] || kept=$((kept + 1))
        case "$folder" in "$(current_release)" | "$(serving_release)" | "$(previous_release)") continue ;; esac
        if [ "$kept" -gt "$KEEP_RELEASES" ] || [ -e "$folder/.release/failed" ]; then
            rm -rf "$folder"
            note "Removed the old release ${folder##*/}."
        fi
    done
}

current_release() { release_at "$CURRENT"; }

# Prints the folder that the link $1 leads to, nothing without one. A release is named as below RELEASES, whatever other
# links are on the way.
release_at() {
    local folder
    [ -L "$1" ] && folder="$(readlink -f "$1" 2>/dev/null)" || return 0
    if [ "${folder%/*}" = "$(readlink -f "$RELEASES")" ]; then folder="$RELEASES/${folder##*/}"; fi
    echo "$folder"
}

# The release before the current one; empty if there is none.
previous_release() {
    local named
    named="$(cat "$DEPLOY_STATE/previous" 2>/dev/null)" || true
    if [ -n "$named" ] && [ -e "$named/.release/complete" ]; then echo "$named"; fi
}

point_current_at() {
    ln -sfn "$1" "$CURRENT.new"
    mv -T "$CURRENT.new" "$CURRENT"
}
