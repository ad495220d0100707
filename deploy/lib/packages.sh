# shellcheck shell=bash
# packages.sh - the Debian packages that building, running and testing need, in one place; installs what is missing.
# Works as root or through sudo; asks for nothing when everything is there.

# A compiler, CMake and the libraries that CMakeLists.txt looks for; Python makes the virtual environments.
PACKAGES_BUILD=(
    build-essential cmake ninja-build pkg-config ccache ca-certificates
    libuv1-dev libucx-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
    libyaml-dev libjansson-dev libwebsockets-dev libwebsockets-evlib-uv libpcre2-dev libutf8proc-dev libxxhash-dev libssl-dev
    libhwloc-dev libedit-dev libcmocka-dev
    python3 python3-venv openssh-client
)
# What the tests need beyond that: fuzzers are built by clang, one test runs a real sshd, one makes network namespaces.
PACKAGES_TEST=(clang libclang-rt-14-dev openssh-server iproute2)

packages_missing() { # NAMES... -> those not installed, one a line
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | awk '$2 == "installed" {print $1}' | sort -u >"$STEP_LOGS/installed"
    printf '%s\n' "$@" | sort -u | comm -23 - "$STEP_LOGS/installed"
}

# Says how to become root ("" or "sudo"), or explains and fails.
packages_root() {
    if [ "$(id -u)" = 0 ]; then return 0; fi
    if command -v sudo >/dev/null 2>&1; then
        sudo -v >&2 || return 1 # asks for the password here, in the foreground
        echo sudo
        return 0
    fi
    return 1
}

packages_apt() { # "" or sudo, NAMES...
    local root=$1
    shift
    local policy=/usr/sbin/policy-rc.d made='' status=0
    if [ ! -e "$policy" ]; then # a test needs the program sshd; installing it shall not start a service
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null && $root chmod 755 "$policy" && made=1
    fi
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 update &&
        $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 \
            install --no-install-recommends "$@" || status=$?
    [ -z "$made" ] || $root rm -f "$policy"
    return "$status"
}

packages_step() { # NAMES... as one numbered step
    local missing root
    if ! command -v dpkg-query >/dev/null 2>&1; then
        echo "This script installs Debian packages and this system has no dpkg. Install the equivalents of:" >&2
        printf '  %s\n' "$*" >&2
        echo "then run it again with --no-packages." >&2
        exit 1
    fi
    mapfile -t missing < <(packages_missing "$@")
    if [ "${#missing[@]}" = 0 ]; then
        step "Packages: all $# there" "" true
        return
    fi
    if ! root=$(packages_root); then
        echo "Packages are missing and this is neither root nor a user of sudo. As root, run:" >&2
        echo "  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    step "Packages: installing ${#missing[@]} of $#" \
        "check the network and /etc/apt/sources.list (Debian 12 has all of them), then run this again; by hand: apt-get install ${missing[*]}" \
        packages_apt "$root" "${missing[@]}"
}
