# shellcheck shell=bash
# The service's user, folders and settings file /etc/avito-ai/.env, which all releases share.

# Copy of the settings before this run changed them; empty if it did not.
SETTINGS_BEFORE=""

ensure_account() {
    if id -u "$SERVICE_USER" >/dev/null 2>&1; then return; fi
    useradd --system --user-group --home-dir "$SERVICE_STATE" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER" ||
        die "The user $SERVICE_USER could not be created; see the message above."
    say "Created the system user $SERVICE_USER, without login."
}

ensure_folders() {
    mkdir -p "$RELEASES" "$DEPLOY_STATE" "$UNIT_DIR"
    chmod 755 "$PREFIX" "$RELEASES"
    owned_folder 750 "root:$SERVICE_USER" "$CONFIG_DIR"
    owned_folder 750 "$SERVICE_USER:$SERVICE_USER" "$SERVICE_STATE"
    owned_folder 750 "$SERVICE_USER:$SERVICE_USER" "$LOG_DIR"
}

owned_folder() {
    mkdir -p "$3"
    chmod "$1" "$3"
    chown "$2" "$3"
}

# Creates the settings of backups if they are missing; their command may have secrets, and only root runs it.
ensure_backup_settings() {
    [ ! -e "$BACKUP_SETTINGS" ] || return 0
    (umask 077 && cat "$ROOT/deploy/backup.env.example" >"$BACKUP_SETTINGS")
}

# Creates the settings file if it is missing, and writes the NAME=VALUE arguments to it.
ensure_settings() {
    if [ ! -e "$SETTINGS_FILE" ]; then
        first_settings | write_settings
    fi
    (umask 077 && cp "$SETTINGS_FILE" "$DEPLOY_STATE/settings-before.new")
    mv "$DEPLOY_STATE/settings-before.new" "$DEPLOY_STATE/settings-before"
    SETTINGS_BEFORE="$DEPLOY_STATE/settings-before"
    refuse_other_environment
    put_setting ENVIRONMENT=production
    local word
    for word in "$@"; do put_setting "$word"; done
    chmod 640 "$SETTINGS_FILE"
    chown "root:$SERVICE_USER" "$SETTINGS_FILE"
}

# Prints the initial settings: those of the checkout, else the example. Messages go to stderr.
first_settings() {
    local wanted
    if [ -f "$ROOT/.env" ]; then
        say "Copying the settings of $ROOT/.env to $SETTINGS_FILE." >&2
        cat "$ROOT/.env"
        return
    fi
    say "Writing $SETTINGS_FILE from .env.example; change the settings there." >&2
    wanted="$(sed -n 's/^CUDA_VISIBLE_DEVICES=//p' "$ROOT/.env.example")"
    if [ -z "$wanted" ] || gpu_exists "$wanted"; then
        cat "$ROOT/.env.example"
    else
        grep -v '^CUDA_VISIBLE_DEVICES=' "$ROOT/.env.example"
    fi
}

# Replaces the settings file with stdin, atomically; if that fails, on a full disk for instance, the status is 1 and the
# file is as before. That of a checkout is written in place: it stays its owner's, and a link stays a link.
write_settings() {
    if ! (umask 077 && cat >"$SETTINGS_FILE.new"); then
        rm -f "$SETTINGS_FILE.new"
        return 1
    fi
    put_in_place || { warn "$SETTINGS_FILE could not be written; what it should have is in $SETTINGS_FILE.new." && return 1; }
}

put_in_place() {
    if [ "$SETTINGS_FILE" != "$CONFIG_DIR/.env" ]; then
        cat "$SETTINGS_FILE.new" >"$SETTINGS_FILE" && rm "$SETTINGS_FILE.new"
    else
        chown "root:$SERVICE_USER" "$SETTINGS_FILE.new" && chmod 640 "$SETTINGS_FILE.new" && mv "$SETTINGS_FILE.new" "$SETTINGS_FILE"
    fi
}

refuse_other_environment() {
    local said
    said="$(file_setting ENVIRONMENT production | LC_ALL=C tr '[:upper:]' '[:lower:]')"
    [ "$said" = production ] ||
        die "$SETTINGS_FILE has ENVIRONMENT=$said, but this is production: remove that line, or set ENVIRONMENT=production."
}

# $1: NAME=VALUE. Replaces the last line that sets it, as `setting_in` reads it, and removes the others; else replaces the commented
# one, else is appended.
put_setting() {
    local name="${1%%=*}"
    [ "$(file_setting "$name" "")" != "${1#*=}" ] || return 0
    LINE="$name=$(as_written "${1#*=}")" awk -v name="$name" '
        { lines[NR] = $0 }
        $0 ~ "^[[:blank:]]*(export[[:blank:]]+)?" name "[[:blank:]]*=" { at = NR; set = 1; own[NR] = 1 }
        !set && index($0, "#" name "=") == 1 { at = NR }
        END {
            for (i = 1; i <= NR; i++) if (i == at) print ENVIRON["LINE"]; else if (!own[i]) print lines[i]
            if (!at) print ENVIRON["LINE"]
        }' "$SETTINGS_FILE" | write_settings
    note "$name is set in $SETTINGS_FILE."
}

# Prints a value as it is read back whole from a settings file, in quotes where it needs them, as checks/settings_file.py does.
as_written() {
    case "$1" in
        *[[:space:]\'\"#\$\\\`]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/[\\\\']/\\\\&/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

# Prints a setting from the settings file, ignoring this run's environment: $1 the name, $2 the default.
file_setting() {
    local value
    value="$(setting_in "$SETTINGS_FILE" "$1")"
    echo "${value:-$2}"
}

# Prints the names of all settings, and of those that name the file of a secret.
setting_names() { sed -n 's/^#\{0,1\}\([A-Z][A-Z0-9_]*\)=.*/\1/p' "$ROOT/.env.example"; }

# Refuses NAME=VALUE arguments whose name is not a setting, or whose value takes more than a line.
check_setting_word() {
    case "$1" in *[[:cntrl:]]*) die "The value of ${1%%=*} has a line break, a tab or the like, which a settings file cannot have." ;; esac
    grep -Fqx -e "${1%%=*}" <<<"$(setting_names)" || die "'${1%%=*}' is not a setting of the service; .env.example lists them."
}

# True for a variable of the environment.
is_exported() { compgen -e | grep -qx "$1"; }

# Warns of settings in this run's environment, which only ./deploy.sh development uses.
warn_of_environment() {
    local name
    while IFS= read -r name; do
        is_exported "$name" || continue
        [ -z "${!name:-}" ] || [ "${!name}" = "$(file_setting "$name" "")" ] ||
            warn "$name is set in the environment and has no effect here; ./deploy.sh production $name=... writes it into $SETTINGS_FILE."
    done < <(setting_names)
}

# Where it fails, what was before is kept under a name that the next run does not use.
restore_settings() {
    local kept
    [ -n "$SETTINGS_BEFORE" ] && [ -f "$SETTINGS_BEFORE" ] || return 0
    if cmp -s "$SETTINGS_BEFORE" "$SETTINGS_FILE"; then return; fi
    if write_settings <"$SETTINGS_BEFORE"; then
        say "The previous settings are restored."
    else
        kept="$SETTINGS_BEFORE.$(date -u +%Y%m%d-%H%M%S)"
        mv "$SETTINGS_BEFORE" "$kept"
        warn "The previous settings could not be restored; they are in $kept, and $SETTINGS_FILE has those of this run."
    fi
}
