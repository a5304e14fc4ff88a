#!/bin/sh
# The volumes of docker-compose.yml as files: sh deploy/compose/volumes.sh save FOLDER | restore FOLDER
#
# All containers are stopped meanwhile, as volumes that are copied while they are written do not fit together; `save` starts
# those that ran. `restore` wants volumes that do not exist. `docker compose` finds the project by the usual variables.
set -eu
how=${1:-} folder=${2:-}
cd "$(dirname "$0")/../.."
fail() { printf 'volumes: %s\n' "$@" >&2; exit 1; }

case $how in save | restore) ;; *) fail "wanted save FOLDER or restore FOLDER, found: $*" ;; esac
[ -n "$folder" ] || fail "wanted a folder"
project=$(docker compose config --format json | sed -n 's/^  "name": "\(.*\)",*$/\1/p' | head -n 1)
image=$(docker compose config --images | grep '^headrace:' | head -n 1)
volumes=$(docker compose config --volumes | sort)
# tar of the image, as its own user cannot read what other users wrote.
in_volume() { docker run --rm --interactive --user 0 --network none --volume "${project}_$1:/volume$2" --entrypoint tar "$image" $3; }

if [ "$how" = save ]; then
    mkdir -p "$folder"
    [ -z "$(ls -A "$folder")" ] || fail "$folder: wanted an empty folder"
    chmod 700 "$folder"
    running=$(docker compose ps --services --status running)
    docker compose stop
    for volume in $volumes; do
        docker volume inspect "${project}_$volume" >/dev/null 2>&1 || continue
        in_volume "$volume" :ro "-C /volume -czf - ." >"$folder/$volume.tar.gz"
        echo "volumes: $volume saved"
    done
    [ -z "$running" ] || docker compose start $running
else
    for volume in $volumes; do
        ! docker volume inspect "${project}_$volume" >/dev/null 2>&1 || fail "volume ${project}_$volume exists: docker compose down --volumes"
    done
    for volume in $volumes; do
        [ -e "$folder/$volume.tar.gz" ] || continue
        docker volume create --label "com.docker.compose.project=$project" --label "com.docker.compose.volume=$volume" "${project}_$volume" >/dev/null
        in_volume "$volume" "" "-C /volume -xzpf -" <"$folder/$volume.tar.gz"
        echo "volumes: $volume restored"
    done
fi
