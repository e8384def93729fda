# shellcheck shell=bash
# Starts the development server: port, settings file, GPU check, Gunicorn.

# Fails if the port is taken, and exits with 0 if this service already holds it.
check_port() {
    local answer port
    HOST="$(setting HOST 127.0.0.1)"
    export HOST
    port="$(setting PORT 8085)"
    answer="$("$PYTHON" -m deploy.probe port "$HOST" "$port" "$ROOT")" || die "The port could not be checked."
    case "$answer" in
        free*) ;;
        ours*)
            say "Already running at ${answer#ours }"
            exit 0
            ;;
        *) die "${answer#* }" ;;
    esac
}

# The file may hold secrets, so only its owner can read it.
write_env_file() {
    if [ -n "${ENV_FILE:-}" ] || [ -e .env ]; then return; fi
    local wanted
    wanted="$(sed -n 's/^CUDA_VISIBLE_DEVICES=//p' .env.example)"
    if [ -z "$wanted" ] || gpu_exists "$wanted"; then
        (umask 077 && cp .env.example .env)
        say "Wrote .env from .env.example; change the settings there."
    else
        (umask 077 && grep -v '^CUDA_VISIBLE_DEVICES=' .env.example >.env)
        if [ "$(gpu_count)" -gt 0 ]; then
            say "Wrote .env from .env.example, without CUDA_VISIBLE_DEVICES=$wanted: there is no such GPU."
        else
            say "Wrote .env from .env.example; change the settings there."
        fi
    fi
}

# $1: comma-separated indexes or UUIDs, as listed by nvidia-smi.
gpu_exists() {
    local gpus device
    gpus="$(nvidia-smi -L 2>/dev/null)" || return 1
    for device in ${1//,/ }; do
        case "$device" in
            *[!0-9]*) [ "${gpus#*"$device"}" != "$gpus" ] || return 1 ;;
            *) [ "$device" -lt "$(gpu_count)" ] || return 1 ;;
        esac
    done
}

check_settings() {
    local report
    report="$("$VENV_PYTHON" config.py 2>&1)" || {
        printf '%s\n' "$report" >&2
        die "Fix the settings above first (in $ENV_FILE_PATH or the environment)."
    }
}

check_cuda() {
    if [ "$(setting DEVICE auto)" = cpu ]; then
        say "The models run on the CPU, as DEVICE=cpu asks."
    elif [ "$(gpu_count)" -gt 0 ]; then
        say "CUDA: $("$VENV_PYTHON" -c 'import torch
print(f"ready, torch {torch.__version__} sees {torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else
      f"torch {torch.__version__} sees no GPU, though nvidia-smi lists one: is the driver too old?")')"
    elif has nvidia-smi; then
        warn "nvidia-smi is installed but lists no GPU; the driver may not be loaded. The models run on the CPU."
    else
        say "The models run on the CPU."
    fi
}

# Gunicorn replaces this process, so that Ctrl+C and `kill` reach it and its exit status is that of deploy.sh. A
# background process waits for the models and prints the address.
serve() {
    "$VENV_PYTHON" -m deploy.probe announce "$$" "$HOST" "$(setting PORT 8085)" &
    # By terminal.py, since Ctrl+C while Gunicorn is imported would print a traceback.
    exec "$VENV_PYTHON" -m terminal gunicorn -c gunicorn_config.py app_production:app
}
