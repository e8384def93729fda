# shellcheck shell=bash
# Checks of the machine before a production run downloads or changes anything.

# Result of `production_python`; looked up again after packages were installed.
FOUND_PYTHON=""

# Prints the missing system packages, on Debian and Ubuntu.
missing_system_packages() {
    if [ -z "$FOUND_PYTHON" ] || ! makes_venvs "$FOUND_PYTHON"; then printf '%s\n' python3 python3-venv; fi
    has curl || echo curl
    if [ -n "$DOMAIN" ]; then
        has nginx || [ -x /usr/sbin/nginx ] || echo nginx
        [ -n "$CERTIFICATE" ] || has certbot || echo certbot
    fi
    if [ "$FIREWALL" = yes ]; then has ufw || [ -x /usr/sbin/ufw ] || echo ufw; fi
}

# Prints the missing packages of the compiler for the kernels. Those for a GPU are compiled when the service starts, and
# need Python's headers too.
missing_compiler_packages() {
    if runs_on_cpu && [ "$(uname -m)" != x86_64 ]; then return; fi
    has gcc || echo gcc
    [ -f "$SYSTEM_ROOT/usr/include/stdio.h" ] || echo libc6-dev
    runs_on_cpu || has_python_headers || python_headers_package
}

has_python_headers() {
    [ -n "$PYTHON" ] && "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include", "posix_prefix"), "Python.h")))'
}

python_headers_package() {
    if [ -z "$PYTHON" ]; then echo python3-dev; else "$PYTHON" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'; fi
}

# Whether neither model runs on a GPU.
runs_on_cpu() {
    local name device
    device="$(wanted_setting DEVICE auto)"
    for name in VIBE_DEVICE VISION_DEVICE; do
        [ "$(wanted_setting "$name" "$device")" = cpu ] || return 1
    done
}

# Prints a Python that the service's user can run, so not one in a home folder.
production_python() {
    local candidate
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if supported_python "$candidate" && ! in_a_home "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

in_a_home() {
    case "$("$1" -c 'import os, sys; print(os.path.realpath(sys.executable))')" in
        /home/* | /root/*) return 0 ;;
        *) return 1 ;;
    esac
}

install_missing_packages() {
    local missing
    FOUND_PYTHON="$(production_python)"
    missing="$(missing_system_packages | tr '\n' ' ')"
    [ -n "$missing" ] || return 0
    say "Installing the system packages: $missing"
    # shellcheck disable=SC2086  # one word for each package
    apt_install_packages $missing || die "apt could not install $missing; see its output above."
    FOUND_PYTHON=""
}

# The service runs without a compiler too, so this may fail.
install_compiler() {
    local missing
    missing="$(missing_compiler_packages | tr '\n' ' ')"
    [ -n "$missing" ] || return 0
    say "Installing the compiler for the kernels: $missing"
    # shellcheck disable=SC2086  # one word for each package
    apt_install_packages $missing || warn "apt could not install $missing; see its output above."
}

apt_install_packages() {
    apt_get install --yes --no-install-recommends "$@" ||
        { apt_get update --quiet && apt_get install --yes --no-install-recommends "$@"; }
}

apt_get() { recorded env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C apt-get -o DPkg::Lock::Timeout=120 "$@"; }

find_production_python() {
    local found="$FOUND_PYTHON"
    [ -n "$found" ] || found="$(production_python)"
    if [ -n "$found" ]; then
        PYTHON="$found"
        return
    fi
    [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a working Python 3.11 to 3.13, or is in a home folder, which the service cannot access."
    die "Python 3.11, 3.12 or 3.13 is needed outside of home folders, and none was found. $(python_remedy)"
}

# A quick check before the download; the release's own check in the unit's sandbox is thorough.
check_gpu() {
    if runs_on_cpu; then
        say "The models run on the CPU."
    elif [ "$(gpu_count)" -gt 0 ]; then
        say "GPU: $(nvidia-smi -L | head -n 1 | cut -d '(' -f 1)with driver $(driver_version), $(gpu_count) in total."
        check_gpu_choice
    elif has nvidia-smi; then
        die "nvidia-smi lists no GPU: $(nvidia-smi 2>&1 | head -n 1). Repair the driver (often a reboot after its update), or set DEVICE=cpu."
    elif nvidia_card_present; then
        die "There is an NVIDIA card, but no driver. Install one (on Ubuntu: ubuntu-drivers install; on Debian: nvidia-driver from non-free), or set DEVICE=cpu."
    else
        die "This machine has no NVIDIA GPU. To run on the CPU: ./deploy.sh production DEVICE=cpu"
    fi
}

driver_version() { nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1; }

nvidia_card_present() { grep -qsi '^0x10de' "$SYSTEM_ROOT"/sys/bus/pci/devices/*/vendor; }

check_gpu_choice() {
    local wanted
    wanted="$(wanted_setting CUDA_VISIBLE_DEVICES "")"
    if [ -n "$wanted" ] && ! gpu_exists "$wanted"; then
        die "CUDA_VISIBLE_DEVICES=$wanted: there is no such GPU; nvidia-smi -L lists the GPUs of this machine."
    fi
}

check_model_folders() {
    local name folder
    for name in VIBE_MODEL_DIR VIBE_TOKENIZER_DIR VISION_MODEL_DIR; do
        folder="$(wanted_setting "$name" "$(default_of "$name")")"
        case "$name:$(wanted_setting VIBE_MODEL_DIR "")" in VIBE_TOKENIZER_DIR:demo) continue ;; esac
        # Versions name folders of their own, which the start checks.
        case "$name" in VI*_DIR) [ -z "$(wanted_setting "${name%%_*}_MODELS" "")" ] || continue ;; esac
        [ "$folder" = demo ] || [ -d "$folder" ] ||
            die "$name=$folder: there is no such folder. Download the models (sudo ./deploy.sh models), set the right one (./deploy.sh production $name=/folder), or use the demo: $name=demo"
    done
}

# Prints the future value of a setting: from the command line, else the settings file, else the file it is copied from.
wanted_setting() {
    local word value=""
    for word in ${GIVEN[@]+"${GIVEN[@]}"}; do
        if [ "${word%%=*}" = "$1" ]; then value="${word#*=}"; fi
    done
    if [ -z "$value" ] && [ ! -e "$SETTINGS_FILE" ] && [ -f "$ROOT/.env" ]; then
        value="$(SETTINGS_FILE="$ROOT/.env" && file_setting "$1" "")"
    fi
    if [ -z "$value" ]; then value="$(file_setting "$1" "$2")"; fi
    echo "$value"
}

default_of() { sed -n "s/^#\{0,1\}$1=//p" "$ROOT/.env.example" | head -n 1; }

# The port must be free, unless the running service holds it.
check_production_port() {
    local host port pid answer
    host="$(wanted_setting HOST 0.0.0.0)" port="$(wanted_setting PORT 8085)"
    pid="$(main_pid)"
    if [ "$pid" -gt 0 ] && "$PYTHON" -m deploy.service listens "$pid" 2>/dev/null | grep -q " $port\$"; then return; fi
    answer="$("$PYTHON" -m deploy.probe port "$host" "$port" "$PREFIX" "./deploy.sh production")" ||
        die "The port could not be checked."
    case "$answer" in
        free*) ;;
        ours*) die "Port $port is held by another copy of the service at ${answer#ours }." ;;
        *) die "${answer#* }" ;;
    esac
}
