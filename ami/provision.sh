#!/usr/bin/env bash
# Installs komainu on Debian 12.
#
#   provision.sh --package FILE            the package: for a host that you configure yourself
#   provision.sh --package FILE --image    and all that an image for terraform/ needs; boots into a node or a server
#
# With --image: --ssm-agent FILE and --cloudwatch-agent FILE install these packages of AWS's (.deb) rather than download
# them; --without-aws installs neither, nor the certificates of RDS. Running it again upgrades. As root.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
POSTGRESQL=15
RDS_BUNDLE=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem

fail() {
    echo "provision.sh: $*" >&2
    exit 1
}

package='' image='' aws=yes ssm='' cloudwatch=''
while [ $# -gt 0 ]; do
    case $1 in
        --package) package=${2:?--package needs a file}; shift ;;
        --image) image=yes ;;
        --ssm-agent) ssm=${2:?--ssm-agent needs a file}; shift ;;
        --cloudwatch-agent) cloudwatch=${2:?--cloudwatch-agent needs a file}; shift ;;
        --without-aws) aws='' ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "run it as root"
dpkg-deb --field "$package" Package 2>/dev/null | grep -qx komainu ||
    fail "--package names komainu's package, which ami/package makes; ${package:-nothing} is none"

packages() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Of AWS's own, which Debian does not have. Each comes over TLS from AWS's buckets.
aws_package() {
    local file=$1 url=$2
    if [ -z "$file" ]; then
        file=$(mktemp --suffix=.deb)
        curl -sS --fail --location --output "$file" "$url"
    fi
    dpkg -i "$file" >/dev/null
}

base() {
    apt-get update -qq
    # The same version once more is installed once more, and an older one instead of a newer.
    packages --reinstall --allow-downgrades iproute2 "$(realpath "$package")"
}

image() {
    local architecture
    # Debian's package would create a server of its own.
    install -d /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    packages awscli chrony curl e2fsprogs jq "postgresql-$POSTGRESQL" "postgresql-client-$POSTGRESQL"
    install -d -m 755 /usr/local/lib/komainu /usr/lib/komainu /usr/share/komainu
    ln -sfn "/usr/lib/postgresql/$POSTGRESQL" /usr/local/lib/komainu/postgresql
    install -m 755 "$HERE/files/boot" /usr/lib/komainu/boot
    install -m 644 "$HERE"/files/{node,server} /usr/lib/komainu/
    install -m 644 "$HERE"/files/{roles.sql,cloudwatch-agent.json} /usr/share/komainu/
    install -m 644 "$HERE"/files/komainu-{postgresql,boot,refresh}.service "$HERE/files/komainu-refresh.timer" \
        /etc/systemd/system/
    # AWS's own clock, which needs no network; AWS refuses signatures that are minutes off.
    echo "server 169.254.169.123 prefer iburst minpoll 4 maxpoll 4" >/etc/chrony/sources.d/komainu.sources
    systemctl enable -q komainu-boot.service komainu-refresh.timer
    # The journal is kept, and never fills the disk.
    install -d /etc/systemd/journald.conf.d /var/log/journal
    printf '[Journal]\nSystemMaxUse=500M\n' >/etc/systemd/journald.conf.d/komainu.conf

    if [ -n "$aws" ]; then
        architecture=$(dpkg --print-architecture)
        aws_package "$ssm" "https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent/latest/debian_$architecture/amazon-ssm-agent.deb"
        aws_package "$cloudwatch" "https://amazoncloudwatch-agent.s3.amazonaws.com/debian/$architecture/latest/amazon-cloudwatch-agent.deb"
        systemctl enable -q amazon-ssm-agent.service
        curl -sS --fail --output /usr/share/komainu/rds-ca.pem "$RDS_BUNDLE"
    fi
}

# What makes an image somebody's own must not be in it.
forget() {
    systemctl disable -q ssh.service 2>/dev/null || true
    rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
    truncate -s 0 /etc/machine-id
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/lib/cloud/instances /var/lib/cloud/instance
}

base
if [ -n "$image" ]; then
    image
    forget
fi
# In a chroot there is no systemd to tell.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
komainu --version
