# shellcheck shell=bash
# shellcheck disable=SC2153  # RELEASES is a place
# Releases side by side: each a copy of a tree with a virtual environment of its own, named by when and by its content.

KEEP_RELEASES=3
COPY_MB=50
# Set once a release is chosen or made.
RELEASE=""

# The files that make a release, of the tree in $1, each ended by a zero byte: what is not made by running it.
tree_files() {
    (cd "$1" && find . \( -name .git -o -name .venv -o -name .release -o -name __pycache__ -o -name '.*_cache' \
        -o -name htmlcov -o -name node_modules -o -path ./run \) -prune -o \( -type f -o -type l \) \
        ! -name '*.pyc' ! -name '*.so' ! -name .env ! -name '.coverage*' ! -name '*.log' -print0 | LC_ALL=C sort -z)
}

tree_hash() {
    tree_files "$1" | (cd "$1" && xargs -0 sha256sum) | sha256sum | cut -c 1-12
}

# Sets RELEASE to the release of this very tree: one that is there, or a folder for it.
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

# Makes the release: nothing of it is used before its last step has succeeded.
make_release() {
    remove_incomplete_releases
    [ "$(free_mb "$PREFIX")" -ge "$COPY_MB" ] || die "There is too little room in $PREFIX: $(free_mb "$PREFIX") MB are free."
    say "Making the release ${RELEASE##*/}."
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

# Takes over the virtual environment of an earlier release with the same packages and the same Python. Hard links cost
# no room and no download, and pip never writes into a file: it makes another.
borrow_environment() {
    local earlier wanted
    for earlier in $(releases_newest_first); do
        [ -e "$earlier/.release/complete" ] || continue
        wanted="$(fingerprint requirements.txt "$earlier/.venv/bin/python" 2>/dev/null)" || continue
        [ "$(cat "$earlier/.venv/requirements.txt.installed" 2>/dev/null)" = "$wanted" ] || continue
        [ "$(python_version "$earlier/.venv/bin/python")" = "$(python_version "$PYTHON")" ] || continue
        cp -al "$earlier/.venv" .venv 2>/dev/null || { rm -rf .venv && return 1; }
        rename_environment "$earlier" || { rm -rf .venv && return 1; }
        say "The packages are those of ${earlier##*/}; taking its virtual environment."
        return 0
    done
    return 1
}

# Scripts of a virtual environment hold its path; sed -i writes new files, so the earlier release keeps its own.
rename_environment() {
    { grep -rlI --fixed-strings "$1/.venv" .venv/bin .venv/pyvenv.cfg || true; } |
        while IFS= read -r file; do sed -i "s#$1/.venv#$RELEASE/.venv#g" "$file"; done
    venv_works
}

# The kernels of a release that runs on the processor, where they are not there yet. They are made here and now, since the
# service may not write into the release and would compile them at every start.
build_kernels() {
    runs_on_processor || return 0
    say "The kernels for this processor:"
    recorded env -C "$RELEASE" "$RELEASE/.venv/bin/python" -m engine.model.kernels.build ||
        warn "The models run without the kernels, which is slower; the reason stands above."
}

smoke_test() {
    say "Smoke tests: the new release with the demo models on the processor, on a port of its own."
    recorded runuser -u "$SERVICE_USER" -- "$VENV_PYTHON" -m deploy.smoke ||
        die "The release ${RELEASE##*/} failed its smoke tests; what they saw stands above."
}

releases_newest_first() {
    find "$RELEASES" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | LC_ALL=C sort -r
}

remove_incomplete_releases() {
    local folder
    for folder in $(releases_newest_first); do
        if [ ! -e "$folder/.release/complete" ] && [ "$folder" != "$(current_release)" ]; then rm -rf "$folder"; fi
    done
}

# Keeps the newest few that served, and always the one that runs and the one before it.
prune_releases() {
    local folder kept=0
    for folder in $(releases_newest_first); do
        [ -e "$folder/.release/failed" ] || kept=$((kept + 1))
        case "$folder" in "$(current_release)" | "$(previous_release)") continue ;; esac
        if [ "$kept" -gt "$KEEP_RELEASES" ] || [ -e "$folder/.release/failed" ]; then
            rm -rf "$folder"
            note "Removed the old release ${folder##*/}."
        fi
    done
}

current_release() { readlink "$CURRENT" 2>/dev/null || true; }

# The release that ran before the current one; empty where it is gone or there was none.
previous_release() {
    local named
    named="$(cat "$MEMORY/previous" 2>/dev/null)" || true
    if [ -n "$named" ] && [ -e "$named/.release/complete" ]; then echo "$named"; fi
}

point_current_at() {
    ln -sfn "$1" "$CURRENT.new"
    mv -T "$CURRENT.new" "$CURRENT"
}
