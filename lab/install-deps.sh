#!/bin/sh
# Installs the Debian packages whose programs the tests run, where one is missing and we are root. Without root
# nothing is installed, and the tests that need a missing program are counted as skipped.
set -eu

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
nginx nginx-light
curl curl
squid squid
faketime faketime
openssl openssl
dumpcap tshark
tshark tshark
'

PATH=$PATH:/usr/sbin:/sbin
missing=$(echo "$wanted" | while read -r program package; do
    [ -z "$program" ] || command -v "$program" >/dev/null 2>&1 || echo "$package"
done | sort -u)

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, so some tests will be skipped:" $missing
    exit 0
fi

# The packages would start servers of their own, on the machine's addresses; the lab runs private ones.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends $missing
