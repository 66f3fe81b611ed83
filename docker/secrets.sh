#!/usr/bin/env bash
# Create the secrets that compose.yaml mounts: a password for PostgreSQL, an API key for Prometheus and one for you, printed once.
# Containers read the files as other users, so the files are world-readable; the folder is not.
set -euo pipefail
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir secrets || { echo "docker/secrets already exists; remove it to create new secrets" >&2; exit 1; }
cd secrets

random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
line() { printf '%s sha256:%s%s\n' "$1" "$(printf %s "$2" | sha256sum | cut -d ' ' -f 1)" "${3:-}"; }

password=$(random)
scraper=cpm-$(random)
writer=cpm-$(random)
printf %s "$password" > postgres_password
# libpq reads this file, so the password is in no setting
printf '[cpm-gen]\nhost=postgres\ndbname=cpm\nuser=cpm\npassword=%s\n' "$password" > postgres_service
printf %s "$scraper" > prometheus_key
{ line prometheus "$scraper" " streams=1"; line writer "$writer"; } > api_keys
chmod 0444 ./*
echo "your API key, shown once: $writer"
