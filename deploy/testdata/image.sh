# The image as a container runtime runs it: its files read-only, its user, its
# environment, a network of its own, and a directory to write to. Run as root, as
# bash image.sh DIR, where DIR/root has the image's files, in namespaces of its own.
set -u
shared=$1
. "$shared/lib.sh"
mount --make-rprivate /
ip link set lo up
same 'the image has a directory for the ledger, for its user' "$(stat -c '%u:%g %a' "$shared/root/data")" '65532:65532 700'
mkdir "$shared/data"
chown 65532:65532 "$shared/data"
chmod 700 "$shared/data"
mount --bind "$shared/root" "$shared/root"
mount --bind "$shared/data" "$shared/root/data"
mount -o remount,bind,ro "$shared/root"

enter=$(command -v chroot) # by its path: the environment is that of the image
inside() { env -i QUOTAD_DATA=/data "$enter" --userspec=65532:65532 "$shared/root" "$@"; }
serves() { inside /quotactl --timeout 1s health; }
used() { inside /quotactl get portfolio -o json | grep -o '"used": "[0-9]*"' | head -n 1; }
# start runs quotad in the background, as the container's one process.
start() {
	setpriv --no-new-privs env -i QUOTAD_DATA=/data "$enter" --userspec=65532:65532 "$shared/root" /quotad "$@" 2>>"$shared/log" &
	pid=$!
}

refused 'its files are read-only' touch "$shared/root/written"
refused 'without a ledger it does not start' inside timeout 10 /quotad
start --create
check 'it serves' soon serves
same 'as its user' "$(stat -c %u:%g "/proc/$pid")" 65532:65532
same 'without capabilities' "$(awk '$1 == "CapPrm:" || $1 == "CapEff:" || $1 == "NoNewPrivs:" { print $2 }' "/proc/$pid/status" | xargs)" \
	'0000000000000000 0000000000000000 1'
check 'quotactl acquires' inside /quotactl acquire portfolio
check 'in any zone, as zones are in the program' inside /quotactl set zoned '50 calls/day' --zone Europe/Berlin
check 'a backup has room' inside /quotactl backup /data/copy.db
kill "$pid"
wait "$pid"
same 'it stops in order' $? 0
start
check 'it serves again, and makes nothing' soon serves
same 'with its counts' "$(used)" '"used": "1"'
kill "$pid"
wait "$pid"
echo end
