#!/usr/bin/env bash
# Backs up and restores the service's configuration and database of this machine, also while it runs. Not included is
# what can be created again: the releases (./deploy.sh production), the models, certbot's certificates, and the rate limits in Redis.
#
#   deploy/backup.sh create [FILE]   write settings, keys, database, drop-ins of the unit and nginx's site to FILE
#                                    (.tar.gz, root only), then `check`; default: /var/backups/avito-ai/DATE.tar.gz
#   deploy/backup.sh check FILE      unpack it to a temporary folder and verify checksums, settings and database
#   deploy/backup.sh restore FILE    check it, back up the current files, then restore it; stops the service if there is a
#                                    database in it
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=deploy/lib/say.sh
. "$ROOT/deploy/lib/say.sh"
# shellcheck source=deploy/lib/paths.sh
. "$ROOT/deploy/lib/paths.sh"

BACKUPS="$SYSTEM_ROOT/var/backups/avito-ai"
SUMS=avito-ai-backup.sha256
# Paths below SYSTEM_ROOT; missing ones are skipped.
PARTS=(etc/avito-ai "etc/systemd/system/$UNIT.d" etc/nginx/sites-available/avito-ai.conf)
ASIDE=""

# $1: the file; $2: non-empty to skip the check, for a configuration that may be unusable.
create() {
    local file="${1:-$BACKUPS/$(date -u +%Y%m%d-%H%M%S).tar.gz}"
    gather >"$ASIDE/parts"
    [ -s "$ASIDE/parts" ] || die "There is nothing to back up: $CONFIG_DIR does not exist."
    mkdir -p "$ASIDE/copy" "$(dirname "$file")"
    tar -C "${SYSTEM_ROOT:-/}" --files-from="$ASIDE/parts" -cf - | tar -C "$ASIDE/copy" -xpf -
    copy_database "${2:-}"
    (cd "$ASIDE/copy" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$ASIDE/sums"
    mv "$ASIDE/sums" "$ASIDE/copy/$SUMS"
    files_of "$ASIDE/copy" | tar -C "$ASIDE/copy" --null --files-from=- -czf "$file.new"
    chmod 600 "$file.new"
    mv "$file.new" "$file"
    [ -n "${2:-}" ] || check "$file"
    say "The backup is $file. It contains keys: store a copy elsewhere, readable by you only."
}

# Copies the database into the backup. $1: non-empty to go on without it.
copy_database() {
    database copy "$SETTINGS_FILE" "$STATE_DIR" "${SYSTEM_ROOT:-/}" "$ASIDE/copy" && return
    [ -n "$1" ] || die "The database could not be copied."
    warn "The database could not be copied; the backup is without it."
}

# Runs a command of deploy/database_copy.py, with the release's Python or the system's.
database() {
    local python="$CURRENT/.venv/bin/python"
    [ -x "$python" ] || python="$(command -v python3)" || return
    "$python" -I "$ROOT/deploy/database_copy.py" "$@"
}

# Prints the files of a folder, NUL-terminated. Folders are left out: a restore must not change those of /etc.
files_of() { (cd "$1" && find . \( -type f -o -type l \) -print0 | LC_ALL=C sort -z); }

# Prints the paths to back up, including files of secrets that the settings name elsewhere.
gather() {
    local part
    for part in "${PARTS[@]}" $(secret_files); do
        if [ -e "${SYSTEM_ROOT:-}/$part" ]; then echo "$part"; fi
    done
}

secret_files() {
    [ -f "$SETTINGS_FILE" ] || return 0
    sed -n "/^LOG_FILE=/!s#^[A-Z_]*_FILE=$SYSTEM_ROOT/##p" "$SETTINGS_FILE" | grep -v '^etc/avito-ai/' || true
}

check() {
    [ -f "$1" ] || die "There is no file $1."
    rm -rf "$ASIDE/check"
    mkdir "$ASIDE/check"
    tar -C "$ASIDE/check" -xzpf "$1" || die "$1 cannot be unpacked."
    [ -f "$ASIDE/check/$SUMS" ] || die "$1 is not a backup of this service."
    (cd "$ASIDE/check" && sha256sum --check --quiet "$SUMS") >&2 || die "$1 is damaged: the files above do not match their checksums."
    if has_database && ! database check "$ASIDE/check"; then die "$1 is damaged: its database is not sound."; fi
    check_settings_of "$ASIDE/check/etc/avito-ai/.env"
    say "The backup can be restored: $(grep -c . "$ASIDE/check/$SUMS") files, checksums correct, settings usable."
}

# True if the unpacked backup has a database.
has_database() { [ -n "$(find "$ASIDE/check" -name "*.db" -o -name avito-ai.dump)" ]; }

# Makes way for the database of the backup: nothing may write to it, and what stands beside the old one is not the new one's.
make_way() {
    local file
    if has systemctl && systemctl is-active --quiet "$UNIT"; then
        say "The service is stopped for its database."
        systemctl stop "$UNIT"
    fi
    find "$ASIDE/check" -name "*.db" | while read -r file; do
        file="$SYSTEM_ROOT/${file#"$ASIDE/check/"}"
        rm -f "$file-wal" "$file-shm"
    done
}

# Reads the settings of the backup as the service would, with the secrets of the backup.
check_settings_of() {
    local python="$CURRENT/.venv/bin/python" report
    [ -f "$1" ] || die "The backup has no settings file."
    sed "/^LOG_FILE=/!s#^\([A-Z_]*_FILE\)=$SYSTEM_ROOT\(/.*\)#\1=$ASIDE/check\2#" "$1" >"$ASIDE/settings"
    if [ ! -x "$python" ]; then
        warn "No release is installed here, so the settings of the backup are not checked."
        return
    fi
    report="$(cd "$CURRENT" && env -i PATH="$PATH" ENVIRONMENT=production ENV_FILE="$ASIDE/settings" "$python" config.py 2>&1 >/dev/null)" || {
        printf '%s\n' "$report" >&2
        die "The settings of the backup are invalid; see the mistakes above."
    }
}

restore() {
    check "$1"
    if [ -d "$CONFIG_DIR" ]; then
        local before
        before="$BACKUPS/before-restore-$(date -u +%Y%m%d-%H%M%S).tar.gz"
        (create "$before" as-it-is) || die "The current configuration could not be backed up; nothing was restored."
    fi
    rm "$ASIDE/check/$SUMS"
    id -u "$SERVICE_USER" >/dev/null 2>&1 || useradd --system --user-group --home-dir "$STATE_DIR" --no-create-home \
        --shell /usr/sbin/nologin "$SERVICE_USER"
    if has_database; then make_way; fi
    (umask 022 && files_of "$ASIDE/check" | tar -C "$ASIDE/check" --null --files-from=- -cf - | tar -C "${SYSTEM_ROOT:-/}" -xpf -)
    chown -R "root:$SERVICE_USER" "$CONFIG_DIR"
    if [ -d "$STATE_DIR" ]; then chown -R "$SERVICE_USER:$SERVICE_USER" "$STATE_DIR"; fi
    chmod 750 "$CONFIG_DIR"
    chmod 640 "$SETTINGS_FILE"
    if has systemctl; then systemctl daemon-reload; fi
    say "Restored. ./deploy.sh production installs the service, or applies the settings if it is installed."
}

[ "$(id -u)" -eq 0 ] || die "Settings and keys are readable by root only: sudo deploy/backup.sh $*"
umask 077
ASIDE="$(mktemp -d)"
trap 'rm -rf "$ASIDE"' EXIT
trap 'exit 143' INT TERM HUP
case "${1:-help}:$#" in
    create:1 | create:2) create "${2:-}" ;;
    check:2) check "$2" ;;
    restore:2) restore "$2" ;;
    *)
        sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
