# shellcheck shell=bash
# steps.sh - numbered steps for the scripts of this folder: each shows what it does and for how long, keeps its output in a
# log, and when it fails prints the end of that log and what to do. Nothing it starts outlives the script.
#
#   steps_begin TOTAL LOG_FOLDER
#   step "Title" "what to do when it fails" command args...      ends the script on failure
#   try_step ...                                                 the same, but returns the status

STEP_TOTAL=0 STEP_AT=0 STEP_LOGS='' STEP_LOG='' STEP_CHILD='' STEP_ERRORS=0
STEP_START=$SECONDS
STEP_TICK_S=15 # seconds between signs of life where the output is no terminal

steps_begin() {
    STEP_TOTAL=$1 STEP_LOGS=$2
    mkdir -p "$STEP_LOGS"
    trap steps_end EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Ends what is still running. A script adds its own clean-up by defining on_exit.
steps_end() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$STEP_CHILD" ]; then kill -TERM -- "-$STEP_CHILD" 2>/dev/null; wait "$STEP_CHILD" 2>/dev/null; fi
    if declare -F on_exit >/dev/null; then on_exit; fi
    exit "$status"
}

# The newest line of the log that says how far a build or a download is, cut to the terminal.
step_progress() {
    [ -s "$STEP_LOG" ] || return 0
    tail -c 600 "$STEP_LOG" | tr '\r' '\n' | sed 's/\x1b\[[0-9;]*[A-Za-z]//g' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-60
}

step_wait() { # PID: until it ends, with signs of life
    local began=$SECONDS said=$SECONDS
    while kill -0 "$1" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[K[%d/%d] %s ... %d s  %s' "$STEP_AT" "$STEP_TOTAL" "$STEP_TITLE" $((SECONDS - began)) "$(step_progress)"
        elif [ $((SECONDS - said)) -ge "$STEP_TICK_S" ]; then
            said=$SECONDS
            printf '      %4d s  %s\n' $((SECONDS - began)) "$(step_progress)"
        fi
        sleep 0.2
    done
    wait "$1"
}

step_run() { # TITLE REMEDY COMMAND...
    local remedy=$2 began=$SECONDS status=0
    STEP_TITLE=$1
    STEP_AT=$((STEP_AT + 1))
    STEP_LOG=$STEP_LOGS/$(printf '%02d' "$STEP_AT").log
    shift 2
    [ -t 1 ] || printf '[%d/%d] %s\n' "$STEP_AT" "$STEP_TOTAL" "$STEP_TITLE"
    set -m # a process group of its own, so that all of it can be ended
    "$@" >"$STEP_LOG" 2>&1 </dev/null &
    STEP_CHILD=$!
    set +m
    step_wait "$STEP_CHILD" || status=$?
    STEP_CHILD=''
    if [ "$status" = 0 ]; then
        if [ -t 1 ]; then printf '\r\033[K'; fi
        printf '[%d/%d] %s: done in %d s\n' "$STEP_AT" "$STEP_TOTAL" "$STEP_TITLE" $((SECONDS - began))
        return 0
    fi
    if [ -t 1 ]; then printf '\r\033[K'; fi
    printf '[%d/%d] %s: FAILED after %d s (status %d). The end of %s:\n' "$STEP_AT" "$STEP_TOTAL" "$STEP_TITLE" \
        $((SECONDS - began)) "$status" "$STEP_LOG"
    tail -n 25 "$STEP_LOG" | sed 's/^/      | /'
    printf 'What to do: %s\n' "$remedy"
    return "$status"
}

try_step() {
    step_run "$@" || { STEP_ERRORS=$((STEP_ERRORS + 1)); return 1; }
}

step() {
    step_run "$@" || exit 1
}

elapsed() { # since the script began
    echo "$((SECONDS - STEP_START)) s"
}
