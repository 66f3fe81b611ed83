#!/usr/bin/env bash
# What compose.yaml mounts as secrets: a password for PostgreSQL, a key for Prometheus and one for you, which is printed once.
# Containers read the files as users of their own, so the files are readable and their folder is not.
set -euo pipefail
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir secrets || { echo "there are secrets already; remove docker/secrets to have new ones" >&2; exit 1; }
cd secrets

random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
line() { printf '%s sha256:%s%s\n' "$1" "$(printf %s "$2" | sha256sum | cut -d ' ' -f 1)" "${3:-}"; }

password=$(random)
scraper=cpm-$(random)
writer=cpm-$(random)
printf %s "$password" > postgres_password
# libpq reads it, so the password stands in no setting
printf '[cpm-gen]\nhost=postgres\ndbname=cpm\nuser=cpm\npassword=%s\n' "$password" > postgres_service
printf %s "$scraper" > prometheus_key
{ line prometheus "$scraper" " streams=1"; line writer "$writer"; } > api_keys
chmod 0444 ./*
echo "your API key, shown once: $writer"
