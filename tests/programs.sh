#!/bin/sh
# Installs programs that tests need and that are no Python packages, from Debian, in one go.
#
#   tests/programs.sh chromium:chromium promtool:prometheus …    each a command and the package that has it
#
# Only what is missing, only as root, and only where there is apt; elsewhere the tests that need them are skipped.
# Some packages are services: here they are but programs. Nothing of theirs is started, now or at the next boot.
set -eu

packages=""
for wanted in "$@"; do
    command -v "${wanted%%:*}" > /dev/null || packages="$packages ${wanted#*:}"
done
if [ -z "$packages" ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    exit 0
fi

echo "installing$packages, for tests" >&2
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
cleanup="rm -f $log"
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    cleanup="$cleanup $policy"
fi
trap '$cleanup' EXIT

install() {
    export DEBIAN_FRONTEND=noninteractive
    # A list of words.
    # shellcheck disable=SC2086
    apt-get -qq update && apt-get -qq install -y --no-install-recommends $packages || return
    [ -d /run/systemd/system ] || return 0
    for package in $packages; do
        dpkg -L "$package" | sed -n 's|.*/systemd/system/\(.*\.service\)$|\1|p' | xargs -r systemctl --quiet disable
    done
}

# Without the network the tests that need these are skipped, which is told at the end: no reason to run none of them.
install > "$log" 2>&1 || cat "$log" >&2
