#!/usr/bin/env bash
# `release-version.sh TAG` prints the version that a tag releases, or says why it releases none: v0.2.0 is 0.2.0, as
# Cargo.toml has it, and CHANGELOG.md has a dated section for it. With --notes first it prints that section.
set -euo pipefail
cd -P "$(dirname "$0")/.."

die() { echo "release: $*" >&2; exit 1; }

notes=
[ "${1:-}" != --notes ] || { notes=1; shift; }
tag=${1:?release-version.sh [--notes] TAG}
number=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ "$tag" = "v$number" ] || die "the tag is $tag, the version in Cargo.toml $number: they must agree, as v$number"
heading=$(grep -F "## [$number]" CHANGELOG.md | head -n 1) || die "CHANGELOG.md has no section [$number]"
case $heading in
*[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]) ;;
*) die "CHANGELOG.md says \"$heading\": it needs the date of the release" ;;
esac
[ -n "$notes" ] || { echo "$number"; exit; }
awk -v heading="$heading" '$0 == heading { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md
