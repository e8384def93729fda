#!/usr/bin/env bash
# Says in a unit's journal what a number of systemd means: avito-ai-explain@.service runs it after the unit has failed.
#
#   explain.sh UNIT       MONITOR_EXIT_CODE and MONITOR_EXIT_STATUS, as systemd sets them, say how the unit ended
#
# Statuses from 200 on are systemd's own, of a process that it could not even begin (man systemd.exec); all others are
# explained by the program itself.
set -euo pipefail

UNIT="$1"
INSTALL="sudo ./deploy.sh production makes it, and docs/install.md says how to by hand"

# $1: a name of the unit's settings. Prints what the unit has.
of_unit() { systemctl show --property "$1" --value "$UNIT"; }

program() { of_unit ExecStart | sed -n 's/^{ path=\([^ ]*\) .*/\1/p'; }

# Prints what is missing, by the number $1; nothing for one that is not systemd's.
meaning() {
    case "$1" in
        200) echo "its folder $(of_unit WorkingDirectory) is missing or closed to the user $(of_unit User): $INSTALL." ;;
        203) echo "its program $(program) is missing or cannot be run: $INSTALL." ;;
        205) echo "this machine, perhaps a container, does not allow its limits (LimitNOFILE=$(of_unit LimitNOFILE)): lower them in a drop-in (systemctl edit ${UNIT%.service})." ;;
        216) echo "there is no group $(of_unit Group): $INSTALL." ;;
        217) echo "there is no user $(of_unit User): $INSTALL." ;;
        218 | 226 | 227 | 228) echo "this machine, perhaps a container, does not allow what confines it (the lines before this one name the step): clear that option in a drop-in (systemctl edit ${UNIT%.service})." ;;
        233 | 238 | 239 | 240) echo "a folder of its own (/run, /var/lib, /var/cache or /var/log, below it $(of_unit StateDirectory)) cannot be made: something else has its name, or the disk is full or read-only." ;;
        2[0-9][0-9]) echo "systemd could not begin it; the lines before this one name the step (man systemd.exec lists the status $1)." ;;
    esac
}

# $1: a sentence. In the journal of the unit, and of this one where `logger` cannot write to that.
tell() {
    printf 'MESSAGE=%s\nPRIORITY=3\nSYSLOG_IDENTIFIER=avito-ai\nOBJECT_SYSTEMD_UNIT=%s\n' "$1" "$UNIT" |
        logger --journald 2>/dev/null || printf '%s\n' "$1"
}

[ "${MONITOR_EXIT_CODE:-}" = exited ] || exit 0
found="$(meaning "${MONITOR_EXIT_STATUS:-0}")"
[ -z "$found" ] || tell "${UNIT%.service} cannot start: $found"
