#!/usr/bin/env bash
# Backs up and restores the service's configuration and database of this machine, and what its monitoring is set to, also
# while it runs. Not included is what can be created again: the releases (./deploy.sh production), the models, certbot's certificates, and the rate limits in Redis.
#
#   deploy/backup.sh run             what avito-ai-backup.timer does each night: a backup to /var/backups/avito-ai, old ones
#                                    removed, a copy elsewhere (/etc/avito-ai/backup.env), and a note for /metrics
#   deploy/backup.sh test            what avito-ai-backup-test.timer does each week: `check` of the newest one, and the note
#   deploy/backup.sh create [FILE]   write settings, keys, database, drop-ins of the unit and nginx's site to FILE
#                                    (.tar.gz, root only), then `check`; default: /var/backups/avito-ai/DATE.tar.gz
#   deploy/backup.sh check FILE      unpack it to a temporary folder and verify checksums, settings and database
#   deploy/backup.sh restore FILE [--settings-only] [--files-only] [OPTION...]
#                                    check it, back up the current files, restore it and apply it by deploy.sh production,
#                                    which has the OPTIONs, also on a bare machine; stops the service meanwhile if there is a
#                                    database in it. --settings-only leaves the database as it is, and the service runs on;
#                                    --files-only applies nothing
#
# The exit status is 3 if a backup was made and lacks files that the settings name; it is kept and copied like any other.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=deploy/lib/locale.sh
. "$ROOT/deploy/lib/locale.sh"
# shellcheck source=deploy/lib/say.sh
. "$ROOT/deploy/lib/say.sh"
# shellcheck source=deploy/lib/paths.sh
. "$ROOT/deploy/lib/paths.sh"
# shellcheck source=deploy/lib/backups.sh
. "$ROOT/deploy/lib/backups.sh"
# shellcheck source=deploy/lib/checked.sh
. "$ROOT/deploy/lib/checked.sh"
# What the options of `deploy.sh production` are, and what the service does.
# shellcheck source=deploy/lib/caller.sh
. "$ROOT/deploy/lib/caller.sh"
# shellcheck source=deploy/lib/account.sh
. "$ROOT/deploy/lib/account.sh"
# shellcheck source=deploy/lib/unit.sh
. "$ROOT/deploy/lib/unit.sh"
# shellcheck source=deploy/lib/proxy.sh
. "$ROOT/deploy/lib/proxy.sh"
# shellcheck source=deploy/lib/production.sh
. "$ROOT/deploy/lib/production.sh"

BACKUPS="$SYSTEM_ROOT/var/backups/avito-ai"
SUMS=avito-ai-backup.sha256
# Paths below SYSTEM_ROOT; missing ones are skipped.
PARTS=(etc/avito-ai etc/avito-monitoring.env "etc/systemd/system/$UNIT.d" etc/nginx/sites-available/avito-ai.conf
    etc/nginx/avito-ai.d)
ASIDE="" UNFINISHED=""
# Of a restore under way: the backup of what it replaces, whether it has stopped the service, and how far it is.
BEFORE="" STOPPED="" RESTORED=""
# Whether the backup that was made has all files that the settings name, of those whose settings are checked.
WHOLE=yes

# $1: the file; $2: empty, or `as-it-is` to skip the check, for a configuration that may be unusable, or `for-an-update` to
# skip that of the settings, which are those of another release by then.
create() {
    local file="$1" mode="${2:-}" whole=yes
    [ -n "$(gather)" ] || die "There is nothing to back up: $CONFIG_DIR does not exist."
    take_turn
    gather >"$ASIDE/parts"
    named_files list "${SYSTEM_ROOT:-/}" "$SETTINGS_FILE" "$SYSTEM_ROOT/etc/avito-monitoring.env" >>"$ASIDE/parts" || whole=no
    mkdir -p "$ASIDE/copy" "$(dirname "$file")"
    tar -C "${SYSTEM_ROOT:-/}" --files-from="$ASIDE/parts" -cf - | tar -C "$ASIDE/copy" -xpf -
    copy_database "${mode#for-an-update}"
    (cd "$ASIDE/copy" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$ASIDE/sums"
    mv "$ASIDE/sums" "$ASIDE/copy/$SUMS"
    UNFINISHED="$file.new"
    files_of "$ASIDE/copy" | tar -C "$ASIDE/copy" --null --files-from=- -czf "$UNFINISHED"
    chmod 600 "$UNFINISHED"
    [ "$mode" = as-it-is ] || check_files "$UNFINISHED"
    mv "$UNFINISHED" "$file"
    UNFINISHED=""
    [ "$mode" = as-it-is ] || check_settings "$mode"
    say "The backup is $file. It contains keys: store a copy elsewhere, readable by you only."
    if [ "$whole$mode" = no ]; then
        WHOLE=no
        warn "The backup $file lacks files that the settings name; see the messages above."
    fi
}

# One among those that happen by themselves counts as one of them.
create_kept() {
    local file
    file="$BACKUPS/$(date -u +%Y%m%d-%H%M%S).tar.gz"
    create "$file"
    note_new_backup "$file" "$WHOLE"
}

# Copies the database into the backup. $1: non-empty to go on without it.
copy_database() {
    database copy "$SETTINGS_FILE" "$SERVICE_STATE" "${SYSTEM_ROOT:-/}" "$ASIDE/copy" && return
    [ -n "$1" ] || die "The database could not be copied."
    warn "The database could not be copied; the backup is without it."
}

# Prints the release's Python or the system's, which may be older.
python_here() {
    if [ -x "$CURRENT/.venv/bin/python" ]; then echo "$CURRENT/.venv/bin/python"; else command -v python3; fi
}

# Runs a program of this folder. $1: its name; the others: its arguments. Nothing is taken from the folder of the call and
# from the user's packages, nothing compiled is left in the tree, and texts are UTF-8 in every locale.
program() {
    local python
    python="$(python_here)" || die "python3 is needed for this, and there is none: apt-get install python3"
    "$python" -I -B -X utf8 -c 'import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("deploy." + sys.argv.pop(1), run_name="__main__")' "$ROOT" "$@"
}

database() { program database_copy "$@"; }
named_files() { program named_files "$@"; }

# Runs a command of this script in a process of its own, which ends at the first thing that fails; a function that is part
# of a condition would go on.
again() { "$BASH" "$ROOT/deploy/backup.sh" "$@"; }

# Prints the files of a folder, NUL-terminated. Folders are left out: a restore must not change those of /etc.
files_of() { (cd "$1" && find . \( -type f -o -type l \) -print0 | sort -z); }

# Prints the paths to back up, apart from files that the settings name elsewhere.
gather() {
    local part
    for part in "${PARTS[@]}"; do
        if [ -e "${SYSTEM_ROOT:-}/$part" ]; then echo "$part"; fi
    done
}

# $1: the file; $2: non-empty to leave its settings unchecked.
check() {
    check_files "$1"
    check_settings "${2:-}"
}

# Unpacks a backup and checks all but its settings. $1: the file.
check_files() {
    [ -f "$1" ] || die "There is no file $1."
    rm -rf "$ASIDE/check"
    mkdir "$ASIDE/check"
    tar -C "$ASIDE/check" -xzpf "$1" || die "$1 cannot be unpacked."
    [ -f "$ASIDE/check/$SUMS" ] || die "$1 is not a backup of this service."
    (cd "$ASIDE/check" && sha256sum --check --quiet "$SUMS") >&2 || die "$1 is damaged: the files above do not match their checksums."
    if has_database && ! database check "$ASIDE/check"; then die "$1 is damaged: its database is not sound."; fi
}

# Checks the settings of the unpacked backup, and tells what was checked. $1: non-empty to leave them unchecked.
check_settings() {
    local usable=""
    [ -n "$1" ] || check_settings_of "$ASIDE/check/etc/avito-ai/.env"
    say "The backup can be restored: $(grep -c . "$ASIDE/check/$SUMS") files, checksums correct$usable."
}

# True if the unpacked backup has a database.
has_database() { [ -n "$(databases)$(find "$ASIDE/check" -name avito-ai.dump)" ]; }

# Nothing may write to the database. A service that still loads, or waits for its restart, is stopped as well as one that
# serves.
stop_service() {
    [ -d "$SYSTEM_ROOT/run/systemd/system" ] && [ -e "$UNIT_DIR/$UNIT" ] || return 0
    case "$(service_state)" in inactive | failed) ;; *) STOPPED=yes ;; esac
    say "The service is stopped for its database."
    systemctl stop "$UNIT"
}

# What stands beside an old database is not the new one's.
make_way() {
    local file
    databases | while read -r file; do rm -f "$file-wal" "$file-shm" "$file-journal"; done
}

# Prints where the files of SQLite in the unpacked backup belong: of any name, and maybe outside of STATE_DIR.
databases() {
    local file
    # shellcheck disable=SC2016  # $1 is of the inner shell
    find "$ASIDE/check" -type f \( -name "*.db" -o -exec sh -c 'head -c 15 "$1" | grep -q "^SQLite format 3"' - {} \; \) -print |
        while read -r file; do echo "$SYSTEM_ROOT/${file#"$ASIDE/check/"}"; done
}

# Reads the settings of the backup as the service would, with the secrets of the backup; tells `check` in `usable`.
check_settings_of() {
    local python="$CURRENT/.venv/bin/python" report
    [ -f "$1" ] || die "The backup has no settings file."
    if ! python_here >/dev/null; then
        warn "There is no python3 here, so the settings of the backup are not checked."
        return
    fi
    named_files moved "$1" "${SYSTEM_ROOT:-/}" "$ASIDE/check" >"$ASIDE/settings" || die "The settings of the backup cannot be read."
    if [ ! -x "$python" ]; then
        warn "No release is installed here, so the settings of the backup are not checked."
        return
    fi
    report="$(cd "$CURRENT" && env -i PATH="$PATH" ENVIRONMENT=production ENV_FILE="$ASIDE/settings" "$python" config.py 2>&1 >/dev/null)" || {
        printf '%s\n' "$report" >&2
        die "The settings of the backup are invalid; see the mistakes above."
    }
    usable=", settings usable"
}

# $1: the file; the others: options, of which those that are not its own are for `deploy.sh production`.
restore() {
    local file="$1" scope=whole apply=yes options=()
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
            --settings-only) scope=settings ;;
            --files-only) apply=no ;;
            *) options+=("$1") ;;
        esac
        shift
    done
    # A mistake in them ends this here, and not where the database is another one.
    (read_production_options ${options[@]+"${options[@]}"} && [ "$DRY_RUN" = no ]) ||
        die "These are no options of a restore; nothing was changed."
    take_lock
    check "$file"
    if [ -d "$CONFIG_DIR" ]; then
        BEFORE="$BACKUPS/before-restore-$(date -u +%Y%m%d-%H%M%S).tar.gz"
        again before-restore "$BEFORE" || die "The current configuration could not be backed up; nothing was restored."
    fi
    rm "$ASIDE/check/$SUMS"
    if [ "$scope" = settings ]; then leave_out_database; fi
    id -u "$SERVICE_USER" >/dev/null 2>&1 || useradd --system --user-group --home-dir "$SERVICE_STATE" --no-create-home \
        --shell /usr/sbin/nologin "$SERVICE_USER"
    put_files_back
    if [ -d "$SYSTEM_ROOT/run/systemd/system" ]; then systemctl daemon-reload; else apply=no; fi
    if [ "$apply" = yes ]; then
        apply_restored ${options[@]+"${options[@]}"}
    else
        say "Restored. ./deploy.sh production installs the service, or applies the settings if it is installed.${STOPPED:+ Until then it is stopped.}"
    fi
    RESTORED="" STOPPED=""
}

# Prints the STATE_DIR of the unpacked backup.
state_of_backup() {
    local state
    state="$(setting_in "$ASIDE/check/etc/avito-ai/.env" STATE_DIR)"
    echo "${state:-$SERVICE_STATE}"
}

# Removes from the unpacked backup what is not configuration: the database, its dump and the journals of usage.
leave_out_database() {
    local state file
    state="$(state_of_backup)"
    databases | while read -r file; do rm -f "$ASIDE/check/${file#"$SYSTEM_ROOT/"}"; done
    rm -rf "$ASIDE/check/${state#"$SYSTEM_ROOT/"}/usage" "$ASIDE/check/${state#"$SYSTEM_ROOT/"}/avito-ai.dump"
}

put_files_back() {
    local path site=etc/nginx/sites-available/avito-ai.conf
    if has_database; then
        stop_service
        database restore "$ASIDE/settings" "$ASIDE/check" || die "The database could not be restored, and nothing was changed."
    fi
    RESTORED="in part"
    make_way
    if [ -f "$ASIDE/check/$site" ] && [ -e "$SITE_LINK" ] && has nginx; then
        mv "$ASIDE/check/$site" "$ASIDE/site"
        restore_site "$SYSTEM_ROOT/$site"
    fi
    of_the_service >"$ASIDE/of-the-service"
    (umask 022 && files_of "$ASIDE/check" | tar -C "$ASIDE/check" --null --files-from=- -cf - | tar -C "${SYSTEM_ROOT:-/}" -xpf -)
    chown -R "root:$SERVICE_USER" "$CONFIG_DIR"
    if [ -d "$SERVICE_STATE" ]; then chown -R "$SERVICE_USER:$SERVICE_USER" "$SERVICE_STATE"; fi
    while read -r path; do chown "$SERVICE_USER:$SERVICE_USER" "$path"; done <"$ASIDE/of-the-service"
    chmod 750 "$CONFIG_DIR"
    chmod 640 "$SETTINGS_FILE"
    RESTORED="and not applied"
}

# Prints what of the backup the service writes to, wherever its settings have that, and the folders that have to be made for
# it: a database needs to write beside its file, too.
of_the_service() {
    local state path
    state="$ASIDE/check/$(state_of_backup | sed "s#^$SYSTEM_ROOT/*##")"
    {
        databases
        if [ -d "$state" ]; then find "$state" -type f | sed "s#^$ASIDE/check#$SYSTEM_ROOT#"; fi
    } | sort -u | while read -r path; do
        echo "$path"
        path="${path%/*}"
        while [ -n "$path" ] && [ ! -d "$path" ]; do
            echo "$path"
            path="${path%/*}"
        done
    done
}

# nginx may not take a site of the backup, whose certificate may be gone; a start of nginx would then fail.
restore_site() {
    if replace_checked "$1" nginx -t -q <"$ASIDE/site"; then
        systemctl reload-or-restart nginx || warn "nginx has its site of the backup and could not be reloaded; see: journalctl -u nginx -e"
    else
        warn "nginx does not take its site of the backup, and keeps the one it has; see its message above."
    fi
}

# $@: options. The release that is installed stays, else this tree is installed.
apply_restored() {
    local tree="$ROOT"
    if [ -x "$CURRENT/deploy.sh" ]; then tree="$(cd "$CURRENT" && pwd -P)"; fi
    say "Restored. Now ./deploy.sh production applies it."
    exec 9>&- # the lock, which that takes itself
    "$tree/deploy.sh" production --no-backup "$@" || exit 1
}

# Where a restore ends before its end, the service that it stopped runs again, or what stands still and the way back is said.
end_restore() {
    local runs="The service is stopped." next="Mend the reason and run ./deploy.sh production"
    if [ -z "$RESTORED" ]; then
        [ -n "$STOPPED" ] || return 0
        systemctl start --no-block "$UNIT" || die "The service is stopped, and cannot be started. See: journalctl -u $UNIT -e"
        say "The service is started again, with nothing changed."
        return 0
    fi
    case "$(service_state)" in active | reloading | activating) runs="./deploy.sh status says what runs." ;; esac
    if [ "$RESTORED" = "in part" ]; then next="Restore it again"; fi
    warn "The backup is restored $RESTORED. $runs $next${BEFORE:+, or go back: deploy/backup.sh restore $BEFORE}"
}

# However this ends: half a backup would take the room of the next one, and the note has to have room, too.
leave() {
    trap '' INT TERM HUP
    rm -rf "$ASIDE" ${UNFINISHED:+"$UNFINISHED"}
    note_end
    end_restore
}

[ "$(id -u)" -eq 0 ] || die "Settings and keys are readable by root only: sudo deploy/backup.sh $*"
umask 077
ASIDE="$(mktemp -d)"
trap leave EXIT
trap 'put_back; exit 130' INT
trap 'put_back; exit 143' TERM
trap 'put_back; exit 129' HUP
case "${1:-help}:$#" in
    run:1) run_backup ;;
    test:1) test_newest ;;
    before-restore:2) create "$2" as-it-is ;;
    before-update:1) create "$BACKUPS/before-update-$(date -u +%Y%m%d-%H%M%S).tar.gz" for-an-update ;;
    create:1) create_kept ;;
    create:2) create "$2" ;;
    check:2) check "$2" ;;
    restore:[2-9]) restore "${@:2}" ;;
    *)
        sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
[ "$WHOLE" = yes ] || exit "$LACKS_FILES"
