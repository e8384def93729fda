# shellcheck shell=bash
# Programs that a signal to the script does not have to wait for.

# Process group of the program that `apart` runs.
CHILD=""
ENDING=20

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

# Ends what `apart` runs, and waits for the end of the whole group, since its leader may end first: for ENDING seconds, then
# what is left is killed.
end_child() {
    local until
    [ -n "$CHILD" ] || return 0
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
    until=$((SECONDS + ENDING))
    while kill -0 -- "-$CHILD" 2>/dev/null; do
        if [ "$SECONDS" -ge "$until" ]; then
            kill -KILL -- "-$CHILD" 2>/dev/null || true
            return 0
        fi
        sleep 0.1
    done
}
