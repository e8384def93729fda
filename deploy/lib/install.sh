# shellcheck shell=bash
# Installs the pinned packages into .venv, torch from the index that has the right build.

CPU_INDEX="https://download.pytorch.org/whl/cpu"

# Megabytes of the pinned packages on Linux x86_64, rounded up: download and disk space.
CPU_DOWNLOAD_MB=260 CPU_DISK_MB=1250
CUDA_DOWNLOAD_MB=2800 CUDA_DISK_MB=5300
# What the packages of this run take, which check_disk finds out.
PACKAGES_MB=$CPU_DISK_MB
PIP_LOG=.venv/pip.log PIP_SIGN_SECONDS=20
TEST_DOWNLOAD_MB=150 TEST_DISK_MB=550

# $1: requirements.txt or requirements-test.txt, which includes the first.
install_packages() {
    local file="$1" index began=$SECONDS
    if packages_current "$file"; then
        say "The packages are up to date."
        return
    fi
    index="$(torch_index)"
    check_disk "$file" "$index"
    if torch_lacks_cuda; then "$VENV_PYTHON" -m pip uninstall --yes --quiet torch; fi
    if [ -n "$index" ] && ! pip_install --no-deps --index-url "$index" "$(torch_pin)"; then
        say "$index does not have $(torch_pin); using pip's own configuration for torch."
    fi
    pip_install --requirement "$file" || die "The packages could not be installed; see pip's message above. The next run continues from here."
    run_pip check || die "The installed packages conflict; see pip's message above."
    say "Installed the packages in $((SECONDS - began)) s; pip's own messages are in $PIP_LOG."
    fingerprint requirements.txt >.venv/requirements.txt.installed
    if [ "$file" != requirements.txt ]; then fingerprint "$file" >".venv/$file.installed"; fi
}

pip_install() { run_pip install --disable-pip-version-check "$@"; }

# Runs pip with its output in a file, of which the end is shown if it fails, and a sign of life while it takes long.
run_pip() {
    local status=0 ticker
    tell_progress 8>&- 9>&- &
    ticker=$!
    recorded "$VENV_PYTHON" -m pip "$@" >>"$PIP_LOG" 2>&1 || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    [ "$status" -eq 0 ] || tail -n 20 "$PIP_LOG" >&2
    return "$status"
}

# A `sleep` that outlives this holds neither the terminal nor, behind descriptors 8 and 9, the locks of a run.
tell_progress() {
    local waited=0
    while sleep "$PIP_SIGN_SECONDS" >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do
        waited=$((waited + PIP_SIGN_SECONDS))
        say "Still installing after $waited s: $(last_step | cut -c 1-80)"
    done
}

# Prints what pip does, of all that it writes: no warnings, progress bars or parts of a step. Of its last and longest step
# pip says one line at the beginning, so there the disk tells how far it is.
last_step() {
    local step
    step="$({ grep -E '^ *(Collecting|Downloading|Using cached|Building|Preparing|Installing) ' "$PIP_LOG" 2>/dev/null || true; } |
        tail -n 1 | sed 's/^ *//')"
    case "$step" in
        "Installing collected packages"*) echo "unpacking the packages, $(du -sk .venv | awk '{ print int($1 / 1024) }') of about $PACKAGES_MB MB" ;;
        *) echo "$step" ;;
    esac
}

# True if the last install of this file was completed and the packages are still there.
packages_current() {
    [ "$(cat ".venv/$1.installed" 2>/dev/null)" = "$(fingerprint "$1")" ] || return 1
    if torch_lacks_cuda; then return 1; fi
    "$VENV_PYTHON" -c 'import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, sys.argv[1:])))' torch transformers flask gunicorn dotenv
}

# $1: the requirements file; $2: the Python to use.
fingerprint() {
    "${2:-$VENV_PYTHON}" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
        "$1" requirements.txt deploy/constraints-cuda.txt
}

torch_pin() { grep -E '^torch==' requirements.txt; }

# True if a GPU was added after the CPU build of torch: the pinned version, but the wrong build.
torch_lacks_cuda() {
    [ -z "$(setting TORCH_INDEX_URL "")" ] && [ "$(gpu_count)" -gt 0 ] && "$VENV_PYTHON" -c 'import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.exit(not version("torch").endswith("+cpu"))
except PackageNotFoundError:
    sys.exit(1)'
}

gpu_count() { { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU ' || true; }

# Prints the index for torch; empty means pip's own configuration. Messages go to stderr.
torch_index() {
    local index
    index="$(setting TORCH_INDEX_URL "")"
    if [ -z "$index" ]; then
        # PyPI has the build without CUDA for macOS, and the one with CUDA for Linux.
        if [ "$(uname -s)" != Linux ] || [ "$(gpu_count)" -gt 0 ]; then return; fi
        index="$CPU_INDEX"
    fi
    if "$VENV_PYTHON" -m deploy.probe reachable "${index%/}/torch/"; then
        echo "$index"
    else
        say "$index cannot be reached; using pip's own configuration for torch." >&2
    fi
}

# Prints the download size and the free disk space, and stops if there is too little.
check_disk() {
    local file="$1" index="$2" download=$CPU_DOWNLOAD_MB disk=$CPU_DISK_MB build="torch's CPU build"
    if brings_cuda "$index"; then
        download=$CUDA_DOWNLOAD_MB disk=$CUDA_DISK_MB build="torch's CUDA build"
    fi
    if [ "$file" = requirements-test.txt ]; then
        download=$((download + TEST_DOWNLOAD_MB)) disk=$((disk + TEST_DISK_MB))
    fi
    PACKAGES_MB=$disk
    say "Installing the packages with $build: up to $download MB to download, about $disk MB on disk; $(free_mb .) MB are free here."
    [ "$(free_mb .)" -ge "$disk" ] || die "Not enough disk space in $ROOT: $disk MB are needed, $(free_mb .) MB are free."
    [ "$(free_mb "${TMPDIR:-/tmp}")" -ge "$download" ] ||
        die "pip needs $download MB for downloads in ${TMPDIR:-/tmp}, where $(free_mb "${TMPDIR:-/tmp}") MB are free; set TMPDIR to a folder with more space."
}

free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }

# True if torch comes with CUDA: known from a given index, otherwise from a dry run of pip.
brings_cuda() {
    local version
    case "$1" in
        */cpu | */cpu/) return 1 ;;
        ?*) return 0 ;;
    esac
    [ "$(uname -s)" = Linux ] || return 1
    version="$("$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps --report - "$(torch_pin)" 2>/dev/null |
        "$VENV_PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null)" || return 0
    case "$version" in
        *+cpu) return 1 ;;
        *) return 0 ;;
    esac
}
