# shellcheck shell=bash
# `deploy.sh models`: downloads the models and writes their folders into the settings.

get_models() {
    local folder settings found="$ROOT/.venv/model-settings" status=0
    folder="$(models_folder)"
    settings="$(models_settings_file)"
    find_python
    make_venv
    install_packages requirements.txt
    umask 022 # the service's user reads them
    rm -f "$found"
    (cd "$CALLED_FROM" && PYTHONPATH="$ROOT" PYTHONSAFEPATH=1 "$VENV_PYTHON" -m deploy.models --to "$folder" --settings "$found" "$@") || status=$?
    if [ -s "$found" ]; then write_model_settings "$settings" "$found"; fi
    give_back_checkout
    return "$status"
}

# After sudo the user of the checkout can go on with it.
give_back_checkout() {
    [ -n "${SUDO_UID:-}" ] || return 0
    chown -R "$SUDO_UID" .venv
    [ ! -f .env ] || chown "$SUDO_UID" .env
}

# Outside of the checkout, which each release copies.
models_folder() {
    if [ "$(id -u)" -eq 0 ]; then
        echo "$SYSTEM_ROOT/srv/avito-ai/models"
    else
        echo "${XDG_DATA_HOME:-${HOME:?}/.local/share}/avito-ai/models"
    fi
}

# Prints the file to write: the service's if it is installed here and may be written, else that of the checkout.
models_settings_file() {
    if [ -n "${ENV_FILE:-}" ]; then
        echo "$ENV_FILE"
    elif [ -f "$SETTINGS_FILE" ] && [ -w "$SETTINGS_FILE" ]; then
        echo "$SETTINGS_FILE"
    else
        echo "$ROOT/.env"
    fi
}

# $1: the settings file, whose other lines stay; $2: a file with lines NAME=VALUE.
write_model_settings() {
    local line
    if [ "$1" = "$ROOT/.env" ]; then write_env_file; fi
    [ -e "$1" ] || (umask 077 && : >"$1")
    while IFS= read -r line; do
        SETTINGS_FILE="$1" put_setting "$line"
        say "$1: $line"
        warn_of_override "${line%%=*}" "${line#*=}"
    done <"$2"
    if [ "$(id -u)" -eq 0 ]; then
        say "To use them: ./deploy.sh production"
    else
        say "To use them: ./deploy.sh development (for production, run this command with sudo: a service cannot read home folders)"
    fi
}

warn_of_override() {
    [ -z "${!1:-}" ] || [ "${!1}" = "$2" ] || warn "$1 is set in the environment, which takes precedence: unset it."
}
