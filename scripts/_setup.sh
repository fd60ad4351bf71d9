# Sourced by the other scripts: makes the virtual environment .venv of this repository and keeps it up to date.
# Sets REPOSITORY, goes there, and activates the environment. Installs only when pyproject.toml or constraints.txt changed.

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$REPOSITORY"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [[ -n "$candidate" ]] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "No Python 3.11 or later was found."
    say "Install one (python.org, your package manager, or 'uv python install 3.12'), or name it: PYTHON=/path/to/python3"
    return 2
}

make_environment() {
    local python output
    python="$(find_python)" || return
    say "Making the virtual environment .venv with $("$python" --version) ..."
    if ! output="$("$python" -m venv .venv 2>&1)"; then
        say "$output"
        rm -rf .venv
        say "$python cannot make a virtual environment: its venv or ensurepip module is missing."
        say "Debian and Ubuntu: apt install python3-venv. Or make .venv yourself ('uv venv --seed .venv') and run this again."
        return 2
    fi
}

install_packages() {
    local stamp=.venv/metanmt-set-up log=.venv/set-up.log wanted
    wanted="$(cat pyproject.toml constraints.txt | cksum)"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    say "Installing metanmt and its dependencies into .venv; PyTorch is large, so the first time takes 1 to 10 minutes ..."
    if ! .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,fast,lexicon]' >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        say "The installation failed; the whole log is $REPOSITORY/$log."
        say "Check the network and the free disk space (about 3 GB; more with CUDA), then run this again."
        return 2
    fi
    printf '%s\n' "$wanted" >"$stamp"
    say "Installed in $SECONDS seconds."
}

[[ -x .venv/bin/python ]] || make_environment
install_packages
# shellcheck source=/dev/null
source .venv/bin/activate
