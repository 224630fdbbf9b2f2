#!/bin/sh
# Makes the certificates of the tests again, with openssl: of two CAs ("good" and "other"), and one of a node by each.
# They are good from 2020 to 2120, so that no clock of a machine that runs the tests makes a difference.
set -e
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in good other; do
    mkdir "$work/$name"
    touch "$work/$name/index.txt"
    cat >"$work/$name.cnf" <<CONFIG
[ca]
default_ca = this
[this]
database = $work/$name/index.txt
new_certs_dir = $work/$name
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[node]
basicConstraints = CA:false
CONFIG
    new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    sign="openssl ca -batch -notext -config $work/$name.cnf -startdate 20200101000000Z -enddate 21200101000000Z"
    $new -subj "/CN=tests of asyncray, $name CA" -keyout "$name-ca.key" -out "$work/ca.csr"
    $sign -selfsign -keyfile "$name-ca.key" -in "$work/ca.csr" -extensions authority -out "$name-ca.pem"
    $new -subj "/CN=tests of asyncray, a node" -keyout "$name-node.key" -out "$work/node.csr"
    $sign -cert "$name-ca.pem" -keyfile "$name-ca.key" -in "$work/node.csr" -extensions node -out "$name-node.pem"
done 2>/dev/null
rm ./*-ca.key
