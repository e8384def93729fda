# shellcheck shell=bash
# shellcheck disable=SC2153  # CONFIG_DIR and SYSTEM_ROOT are set in paths.sh
# The backups that are made by themselves: settings of them, how long they are kept, a copy of each elsewhere, the test of the
# newest, and the note of all this that the service exports (BACKUP_STATUS).

BACKUP_SETTINGS="$CONFIG_DIR/backup.env"
BACKUP_NOTE="$SYSTEM_ROOT/var/lib/avito-ai-backup/status.json"
KEEP_DAYS_DEFAULT=30
# The exit status of a backup that was made and lacks files that the settings name.
LACKS_FILES=3
# What has failed if the run ends now, for the note.
FAILING=""

# Makes a backup, removes old ones, and copies it elsewhere; what failed, or was ended by a signal, is noted.
run_backup() {
    local file status=0 failed
    file="$BACKUPS/$(date -u +%Y%m%d-%H%M%S).tar.gz"
    FAILING="no backup was made"
    again create "$file" || status=$?
    case "$status" in
        0) ;;
        "$LACKS_FILES") WHOLE=no ;;
        *) exit 1 ;;
    esac
    note_new_backup "$file" "$WHOLE"
    FAILING=""
    remove_old_backups "$file"
    [ -n "$(backup_setting COPY_COMMAND "")" ] || return 0
    failed="$(noted_failure)"
    FAILING="${failed:+$failed; }the copy elsewhere failed"
    copy_elsewhere "$file" || die "COPY_COMMAND in $BACKUP_SETTINGS failed; the backup $file is here alone."
    FAILING=""
}

# One backup is made at a time, so that what is unfinished now was left by one that was killed.
take_turn() {
    mkdir -p "$SYSTEM_ROOT/run/lock" "$BACKUPS"
    exec 8>"$SYSTEM_ROOT/run/lock/avito-ai-backup"
    flock -n 8 || {
        say "Another backup is being made; this one waits for it."
        flock 8
    }
    find "$BACKUPS" -maxdepth 1 -type f \( -name '2*-*.tar.gz.new' -o -name 'before-*.tar.gz.new' \) -exec rm -f {} +
}

# A backup is unpacked and checked when it is made, so the first one counts as tested. $2: no if it lacks files.
note_new_backup() {
    local now tested failed=""
    now="$(date +%s)" tested="$(noted tested)"
    if lacks_database; then
        failed="the database is not in it, because pg_dump is not installed"
        warn "DATABASE_URL names a PostgreSQL and pg_dump is not installed, so the database is not in the backup. If it is backed up where it runs, write DATABASE=elsewhere into $BACKUP_SETTINGS."
    fi
    if [ "$2" = no ]; then failed="${failed:+$failed; }it lacks files that the settings name"; fi
    if [ "$tested" -eq 0 ]; then tested="$now"; fi
    note_backup "$now" "$tested" "$(wc -c <"$1")" "$failed" "$(noted_test_failure)"
}

# Unpacks the newest backup and checks it, since a file that was sound may no longer be.
test_newest() {
    local newest
    newest="$(newest_backup)"
    if [ -z "$newest" ]; then
        note_backup "$(noted created)" "$(noted tested)" "$(noted size)" "$(noted_failure)" "there is no backup to test"
        die "There is no backup in $BACKUPS."
    fi
    if ! again check "$newest"; then
        note_backup "$(noted created)" "$(noted tested)" "$(noted size)" "$(noted_failure)" "the newest backup cannot be restored"
        die "$newest cannot be restored."
    fi
    note_backup "$(noted created)" "$(date +%s)" "$(noted size)" "$(noted_failure)" ""
}

# Prints the newest backup of those that were checked when they were made.
newest_backup() { { find "$BACKUPS" -maxdepth 1 -name '2*-*.tar.gz' 2>/dev/null || true; } | sort | tail -n 1; }

# Removes backups, those before updates and restores too, older than KEEP_DAYS; never the one in $1.
remove_old_backups() {
    local days
    days="$(backup_setting KEEP_DAYS "$KEEP_DAYS_DEFAULT")"
    case "$days" in
        *[!0-9]* | "" | 0 | ??????*)
            warn "KEEP_DAYS=$days in $BACKUP_SETTINGS: expected a whole number of days from 1; $KEEP_DAYS_DEFAULT days are kept."
            days="$KEEP_DAYS_DEFAULT"
            ;;
    esac
    find "$BACKUPS" -maxdepth 1 -type f \( -name '2*-*.tar.gz' -o -name 'before-*.tar.gz' \) \
        -mmin "+$((days * 1440))" ! -path "$1" -exec rm -f {} +
}

# Runs the operator's command with the backup as its first argument.
copy_elsewhere() { sh -c "$(backup_setting COPY_COMMAND "")" copy "$1"; }

# True if the settings name a PostgreSQL that nothing here can dump.
lacks_database() {
    if has pg_dump || [ "$(backup_setting DATABASE "")" = elsewhere ]; then return 1; fi
    case "$(database setting "$SETTINGS_FILE" DATABASE_URL 2>/dev/null)" in postgres*) return 0 ;; *) return 1 ;; esac
}

# Prints a setting of backups: $1 its name, $2 its default.
backup_setting() {
    local value=""
    if [ -f "$BACKUP_SETTINGS" ]; then value="$(sed -n "s/^$1=//p" "$BACKUP_SETTINGS" | tail -n 1)"; fi
    echo "${value:-$2}"
}

# Prints a number of the note, 0 if there is none.
noted() {
    local value
    value="$(sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$BACKUP_NOTE" 2>/dev/null)" || true
    echo "${value:-0}"
}

noted_failure() { sed -n 's/.*"failed": "\([^"]*\)".*/\1/p' "$BACKUP_NOTE" 2>/dev/null || true; }
noted_test_failure() { sed -n 's/.*"test_failed": "\([^"]*\)".*/\1/p' "$BACKUP_NOTE" 2>/dev/null || true; }

# Notes what has failed, if the run ends before its end.
note_end() {
    [ -z "$FAILING" ] ||
        note_backup "$(noted created)" "$(noted tested)" "$(noted size)" "$FAILING" "$(noted_test_failure)"
}

# $1, $2: when a backup was made and tested, in seconds since the epoch; $3: its bytes; $4, $5: what failed of it, of its test.
note_backup() {
    local folder="${BACKUP_NOTE%/*}"
    mkdir -p "$folder"
    chmod 755 "$folder"
    printf '{"created": %d, "tested": %d, "size": %d, "failed": "%s", "test_failed": "%s"}\n' "$@" >"$BACKUP_NOTE.new" || {
        rm -f "$BACKUP_NOTE.new"
        die "$BACKUP_NOTE could not be written, and tells of an earlier backup."
    }
    chmod 644 "$BACKUP_NOTE.new"
    mv "$BACKUP_NOTE.new" "$BACKUP_NOTE"
}
