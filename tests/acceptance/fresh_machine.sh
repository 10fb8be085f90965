#!/bin/sh
# Prove what the README promises of a fresh machine: on a minimal Debian with python3 and nothing else,
# `sh ./dev up --tour-only` runs the tour and `sh ./dev test` passes, with the time that each takes.
#
#   sudo sh tests/acceptance/fresh_machine.sh [FOLDER]
#
# Takes ten minutes and more, so CI does not run it. Needs root, debootstrap and git; FOLDER (a new one under
# /tmp by default) gets the machine's files and is removed at the end unless KEEP=yes. SUITE and MIRROR choose
# the distribution. Variables of pip, uv and apt for mirrors, proxies and certificates reach the machine.
set -eu

repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
suite=${SUITE:-bookworm}
passed_on='(PIP|UV)_[A-Z_]*INDEX[A-Z_]*|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY'
mirror=${MIRROR:-http://deb.debian.org/debian}

[ "$(id -u)" = 0 ] || { echo 'fresh_machine: run this as root' >&2; exit 2; }
for program in debootstrap git unshare; do
    command -v "$program" >/dev/null || { echo "fresh_machine: $program is missing" >&2; exit 2; }
done

folder=${1:-$(mktemp -d /tmp/fresh-machine.XXXXXX)}
mkdir -p "$folder"
machine=$folder/root
# Mounts are made in a namespace of their own below, so nothing but files is left to remove.
[ "${KEEP:-}" = yes ] || trap 'rm -rf --one-file-system "$machine" "$machine.log"; rmdir "$folder" 2>/dev/null' EXIT
trap 'exit 130' INT TERM

timed() { # NAME COMMAND...
    name=$1
    shift
    started=$(date +%s)
    status=0
    "$@" || status=$?
    results="${results:-}$(printf '%5d s  exit %d  %s' $(($(date +%s) - started)) "$status" "$name")
"
    return "$status"
}

make_machine() {
    debootstrap --variant=minbase --include=python3 "$suite" "$machine" "$mirror" >"$machine.log" ||
        { tail "$machine.log" >&2; return 1; }
    cp /etc/resolv.conf /etc/hosts "$machine/etc/"
    # A package that is installed here must not start its server on the ports of the machine outside.
    printf '#!/bin/sh\nexit 101\n' >"$machine/usr/sbin/policy-rc.d"
    chmod 755 "$machine/usr/sbin/policy-rc.d"
    mkdir -p "$machine/srv/warren"
    (cd "$repository" && git ls-files -z --cached --others --exclude-standard | tar --null -cf - -T -) |
        tar -xf - -C "$machine/srv/warren"
    # By a file, not by arguments: the URL of an index may hold a password.
    (umask 077 && export -p | grep -E "^export ($passed_on)=" >"$machine/srv/environment") || true
    bundle=${SSL_CERT_FILE:-${PIP_CERT:-${REQUESTS_CA_BUNDLE:-}}}
    if [ -f "$bundle" ]; then
        cp "$bundle" "$machine/srv/ca.crt"
        echo 'export SSL_CERT_FILE=/srv/ca.crt' >>"$machine/srv/environment"
    fi
    printf '. /srv/environment\ncd /srv/warren && exec "$@"\n' >"$machine/srv/run"
}

on_machine() { # COMMAND..., in the repository's copy; its processes end with it
    unshare --mount --pid --fork --kill-child sh -c '
        mount -t proc proc "$0/proc" && mount -t devpts devpts "$0/dev/pts" && mount -t tmpfs tmpfs "$0/dev/shm" &&
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot "$0" sh /srv/run "$@"' "$machine" "$@" \
        </dev/null
}

failed=0
timed "debootstrap $suite" make_machine
timed 'sh ./dev up --tour-only' on_machine sh ./dev up --tour-only || failed=1
if ! timed 'sh ./dev test' on_machine sh ./dev test; then
    # It may have told what is missing; the next does it.
    timed 'sh ./dev test --install' on_machine sh ./dev test --install || failed=1
fi
printf '\n%s' "$results"
exit "$failed"
