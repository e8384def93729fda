# shellcheck shell=bash
# Finds a supported Python and creates the virtual environment in .venv.

VENV_PYTHON="$ROOT/.venv/bin/python"
PYTHON_CHECK='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

# Sets PYTHON. Each candidate is run, since one on PATH may be a pyenv shim that only prints an error. One that can
# create virtual environments is preferred to a newer one that cannot.
find_python() {
    local candidate first=""
    if [ -n "${PYTHON:-}" ]; then
        supported_python "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11, 3.12 or 3.13."
    else
        for candidate in python3.13 python3.12 python3.11 python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[123]*/bin/python; do
            supported_python "$candidate" || continue
            [ -n "$first" ] || first="$candidate"
            if makes_venvs "$candidate"; then
                PYTHON="$candidate"
                break
            fi
        done
        PYTHON="${PYTHON:-$first}"
        [ -n "$PYTHON" ] || die "Python 3.11, 3.12 or 3.13 is needed, and none was found. $(python_remedy)"
    fi
    if ! makes_venvs "$PYTHON" && ! venv_works; then
        die "$(python_version "$PYTHON") lacks its venv module. $(venv_remedy)"
    fi
}

supported_python() { "$1" -c "$PYTHON_CHECK" >/dev/null 2>&1; }

makes_venvs() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

python_version() { "$1" -c 'import platform; print("Python " + platform.python_version())'; }

python_remedy() {
    local version
    if has apt-cache; then
        for version in 3.13 3.12 3.11; do
            if apt-cache show "python$version-venv" >/dev/null 2>&1; then
                echo "Install it with: sudo apt-get install python$version-venv"
                return
            fi
        done
    fi
    if has brew; then
        echo "Install it with: brew install python@3.13"
    elif has dnf; then
        echo "Install it with: sudo dnf install python3.13"
    else
        echo "Install it with your system's package manager (python3.13, python3.12 or python3.11) or with pyenv."
    fi
}

venv_remedy() {
    local version
    version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    echo "On Debian and Ubuntu: sudo apt-get install python$version-venv"
}

venv_works() { "$VENV_PYTHON" -c "import pip; $PYTHON_CHECK" >/dev/null 2>&1; }

make_venv() {
    if venv_works; then return; fi
    if [ -e .venv ]; then
        say "The virtual environment in .venv is damaged or of another Python; creating it again."
    else
        say "Creating a virtual environment in .venv with $(python_version "$PYTHON")."
    fi
    local began=$SECONDS
    "$PYTHON" -m venv --clear .venv || die "The virtual environment could not be created; see the message above."
    say "Created it in $((SECONDS - began)) s."
}
