# shellcheck shell=bash
# Changes a file that a program reads, so that it never stays as the program refuses it.

# The file whose check has not passed yet, and a copy of what it had before: none if it was not there.
CHANGED="" CHANGED_BEFORE=""

# Replaces what is in the file $1, which keeps its owner and mode, with stdin, and runs the check that is the other
# arguments. If that fails, the file is as before and the status is 1. A script's traps call `put_back`, too.
replace_checked() {
    local file="$1" new
    shift
    new="$(mktemp)" && cat >"$new" || return 1
    CHANGED_BEFORE=""
    if [ -e "$file" ]; then
        CHANGED_BEFORE="$(mktemp)" && cat "$file" >"$CHANGED_BEFORE" || return 1
    fi
    CHANGED="$file"
    if cat "$new" >"$file" && "$@"; then
        rm -f "$new" ${CHANGED_BEFORE:+"$CHANGED_BEFORE"}
        CHANGED=""
        return 0
    fi
    rm -f "$new"
    put_back
    return 1
}

# Undoes a change whose check has not passed.
put_back() {
    [ -n "$CHANGED" ] || return 0
    if [ -z "$CHANGED_BEFORE" ]; then
        rm -f "$CHANGED"
    else
        cat "$CHANGED_BEFORE" >"$CHANGED" && rm -f "$CHANGED_BEFORE"
    fi
    CHANGED=""
}
