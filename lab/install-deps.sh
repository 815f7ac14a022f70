#!/bin/sh
# Installs what the tests run and this machine lacks, if we are root: Debian packages, and SMB clients from PyPI into
# target/lab-python. Without root nothing is installed. The tests that need what is missing are counted as skipped.
set -eu

cd "$(dirname "$0")/.."

# "program package", for each program.
wanted='
ip iproute2
ss iproute2
tc iproute2
nft nftables
chrt util-linux
smbd samba
smbpasswd samba-common-bin
smbclient smbclient
smbget smbclient
rclone rclone
rsync rsync
zstd zstd
python3 python3
nginx nginx-light
curl curl
squid squid
faketime faketime
openssl openssl
dumpcap tshark
tshark tshark
'

PATH=$PATH:/usr/sbin:/sbin

skipped() {
    echo "not installed, so some tests will be skipped: $*"
}

missing_packages() {
    echo "$wanted" | while read -r program package; do
        [ -z "$program" ] || command -v "$program" >/dev/null 2>&1 || echo "$package"
    done
    # A module has no program.
    ls /usr/lib/*/samba/vfs/shadow_copy2.so >/dev/null 2>&1 || echo samba-vfs-modules
    # Debian keeps what makes a virtual environment apart from Python.
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

install_packages() {
    # The packages would start servers of their own, on the machine's addresses; the lab runs private ones.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "$@"
}

# The lab takes the environment for good only with the very list of versions it was built with in it.
install_python_clients() {
    list=lab/clients/requirements.txt
    environment=${CARGO_TARGET_DIR:-target}/lab-python
    cmp -s "$list" "$environment/requirements.txt" && return 0
    rm -rf "$environment"
    if python3 -m venv "$environment" &&
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$list"; then
        cp "$list" "$environment/requirements.txt"
    else
        skipped "impacket, pysmb, smbprotocol"
    fi
}

missing=$(missing_packages | sort -u)
if [ "$(id -u)" -ne 0 ]; then
    [ -z "$missing" ] || skipped $missing
    exit 0
fi
if [ -n "$missing" ]; then
    if command -v apt-get >/dev/null 2>&1; then
        install_packages $missing
    else
        skipped $missing
    fi
fi
install_python_clients
