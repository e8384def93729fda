# shellcheck shell=bash
# Installs the pinned packages into .venv, torch from where its right build is.

CPU_INDEX="https://download.pytorch.org/whl/cpu"

# Megabytes, rounded up, of these pins on Linux x86_64: to download, and on disk once installed.
CPU_DOWNLOAD_MB=260 CPU_DISK_MB=1250
CUDA_DOWNLOAD_MB=2800 CUDA_DISK_MB=5300
TEST_DOWNLOAD_MB=150 TEST_DISK_MB=550

# $1: requirements.txt or requirements-test.txt, which holds the first.
install_packages() {
    local file="$1" index
    if packages_current "$file"; then
        say "The packages are up to date."
        return
    fi
    index="$(torch_index)"
    check_disk "$file" "$index"
    if torch_lacks_cuda; then "$VENV_PYTHON" -m pip uninstall --yes --quiet torch; fi
    if [ -n "$index" ] && ! pip_install --no-deps --index-url "$index" "$(torch_pin)"; then
        say "$index did not give $(torch_pin); taking torch from pip's own configuration."
    fi
    pip_install --requirement "$file" || die "The packages could not be installed; pip's reason stands above. The next run goes on from here."
    "$VENV_PYTHON" -m pip check || die "The installed packages do not fit together; pip's reason stands above."
    fingerprint requirements.txt >.venv/requirements.txt.installed
    if [ "$file" != requirements.txt ]; then fingerprint "$file" >".venv/$file.installed"; fi
}

pip_install() { recorded "$VENV_PYTHON" -m pip install --disable-pip-version-check "$@"; }

# True where the last install of this very file came to its end and the packages are still there.
packages_current() {
    [ "$(cat ".venv/$1.installed" 2>/dev/null)" = "$(fingerprint "$1")" ] || return 1
    if torch_lacks_cuda; then return 1; fi
    "$VENV_PYTHON" -c 'import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, sys.argv[1:])))' torch transformers flask gunicorn dotenv
}

# $1: the file of packages; $2: a Python to compute with.
fingerprint() {
    "${2:-$VENV_PYTHON}" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
        "$1" requirements.txt deploy/constraints-cuda.txt
}

torch_pin() { grep -E '^torch==' requirements.txt; }

# A GPU came after the CPU build of torch: the same version from the same pins, but not the build that is needed.
torch_lacks_cuda() {
    [ -z "$(setting TORCH_INDEX_URL "")" ] && [ "$(gpu_count)" -gt 0 ] && "$VENV_PYTHON" -c 'import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.exit(not version("torch").endswith("+cpu"))
except PackageNotFoundError:
    sys.exit(1)'
}

gpu_count() { { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU ' || true; }

# Prints the index that torch is to come from; nothing means pip's own configuration. News goes to stderr.
torch_index() {
    local index
    index="$(setting TORCH_INDEX_URL "")"
    if [ -z "$index" ]; then
        # PyPI's build for macOS is the one without CUDA; with a GPU its build for Linux is the right one.
        if [ "$(uname -s)" != Linux ] || [ "$(gpu_count)" -gt 0 ]; then return; fi
        index="$CPU_INDEX"
    fi
    if "$VENV_PYTHON" deploy/probe.py reachable "${index%/}/torch/"; then
        echo "$index"
    else
        say "$index cannot be reached; taking torch from pip's own configuration." >&2
    fi
}

# Says what will be downloaded and how much room there is, and stops where it is too little.
check_disk() {
    local file="$1" index="$2" download=$CPU_DOWNLOAD_MB disk=$CPU_DISK_MB build="torch's CPU build"
    if brings_cuda "$index"; then
        download=$CUDA_DOWNLOAD_MB disk=$CUDA_DISK_MB build="torch's CUDA build"
    fi
    if [ "$file" = requirements-test.txt ]; then
        download=$((download + TEST_DOWNLOAD_MB)) disk=$((disk + TEST_DISK_MB))
    fi
    say "Installing the packages with $build: up to $download MB to download, about $disk MB on disk; $(free_mb .) MB are free here."
    [ "$(free_mb .)" -ge "$disk" ] || die "There is too little room in $ROOT: $disk MB are needed, $(free_mb .) MB are free."
    [ "$(free_mb "${TMPDIR:-/tmp}")" -ge "$download" ] ||
        die "pip needs $download MB for downloads in ${TMPDIR:-/tmp}, where $(free_mb "${TMPDIR:-/tmp}") MB are free; TMPDIR=/another/folder may name a roomier one."
}

free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }

# With an index given its address tells; otherwise pip is asked which build it would take, without installing it.
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
