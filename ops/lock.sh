#!/usr/bin/env bash
# Writes each service's requirements.lock and the development locks from the pyproject files: hashes, no addresses.
# Needs uv (pip install uv). With --check it changes nothing and fails where a lock is out of date.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
"$uv" lock --quiet
export_lock() { # file, arguments of uv export
    local file=$1
    shift
    local target=$file
    [ "${check:-}" ] && target=$(mktemp)
    "$uv" export --quiet --frozen --no-default-groups --no-emit-workspace --no-annotate --no-header "$@" --output-file "$target" >/dev/null
    if [ "${check:-}" ] && ! diff -q "$file" "$target" >/dev/null; then
        echo "$file is out of date: run make lock" >&2
        exit 1
    fi
}
[ "${1:-}" = "--check" ] && check=1
for service in ocr ai persister sweeper console; do
    export_lock "services/$service/requirements.lock" --package "chartloom-$service"
done
export_lock requirements/run.lock --package chartloom --group build
export_lock requirements/browser.lock --package chartloom --only-group browser
export_lock requirements/dev.lock --package chartloom --group build --group test --group train --group lint
