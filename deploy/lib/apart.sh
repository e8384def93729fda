# shellcheck shell=bash
# Programs that a signal to the script does not have to wait for.

# Process group of the program that `apart` runs.
CHILD=""

# Runs a program as a background process group, so that this script handles a signal at once and not after the program
# has exited; nor within $(...), where bash 5.2 cannot read a trap.
apart() {
    local status=0
    set -m
    "$@" </dev/null &
    CHILD=$!
    set +m
    wait "$CHILD" || status=$?
    CHILD=""
    return "$status"
}

# Ends what `apart` runs, and waits for its end.
end_child() {
    [ -n "$CHILD" ] || return 0
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
}
