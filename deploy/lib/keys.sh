# shellcheck shell=bash
# `deploy.sh keys`: client keys of the installed service, or of this folder's where none is installed.

# As the service's user, with its settings and its state folder, and without this run's environment.
manage_keys() {
    local module=deploy.keys
    if [ ! -L "$CURRENT" ]; then
        [ -x "$VENV_PYTHON" ] || die "There is no service here yet; ./deploy.sh development sets one up."
        exec "$VENV_PYTHON" -m "$module" "$@"
    fi
    need_root keys
    cd "$CURRENT" || exit
    [ -e deploy/keys.py ] || module=keys # an older release
    exec runuser -u "$SERVICE_USER" -- env -i PATH="$PATH" LANG="${LANG:-C.UTF-8}" HOME="$SERVICE_STATE" ENVIRONMENT=production \
        STATE_DIRECTORY="$SERVICE_STATE" "$CURRENT/.venv/bin/python" -m "$module" "$@"
}
