# The life of the Debian package under a real systemd: installed, used, killed,
# misconfigured, upgraded, removed, installed anew, purged. Run by boot.
set -u
. /shared/lib.sh
export QUOTAD_SERVER=unix:///run/quotad/quotad.sock
control=(quotactl --server unix:///run/quotad/control.sock)
data=/var/lib/quotad

running() { [ "$(systemctl show --property ActiveState,SubState --value quotad.service | xargs)" = 'active running' ]; }
pid() { systemctl show --property MainPID --value quotad.service; }
another() { running && [ "$(pid)" != "$1" ]; }
failed() { systemctl is-failed quotad.service; }
used() { "${control[@]}" get portfolio -o json | grep -o '"used": "[0-9]*"' | head -n 1; }
ours() { find /etc /lib /run /usr /var -xdev \( -iname '*quotad*' -o -iname '*quotactl*' \) 2>/dev/null | sort; }
in_etc() { grep -h quotad /etc/passwd /etc/group | cut -d : -f 1; }

ours >/tmp/before
rm -f /usr/sbin/policy-rc.d # containers have one that lets no package start anything
useradd --user-group app
useradd --user-group stranger

# Installed, it serves.
check 'the package installs' dpkg --install /shared/quotad.deb
usermod --append --groups quotad-clients app
check 'it runs after that' soon running
if ! running; then
	journalctl --unit quotad.service --unit quotad.socket --unit quotad-control.socket --no-pager
	exit
fi
same 'its sockets are open' "$(systemctl is-active quotad.socket quotad-control.socket | xargs)" 'active active'
same 'it will run after the next boot' "$(systemctl is-enabled quotad.service quotad.socket quotad-control.socket | xargs)" 'enabled enabled enabled'
same 'it runs as its user' "$(stat -c %U:%G "/proc/$(pid)")" quotad:quotad
same 'its directory is for that user alone' "$(stat -c '%A %U %G' $data)" 'drwx------ quotad quotad'
same 'so is its file' "$(stat -c '%A %U %G' $data/quotad.db)" '-rw------- quotad quotad'
check 'root may look' "${control[@]}" status

# Who may do what, by the modes of the sockets.
check 'a member of quotad-clients acquires' by app quotactl acquire portfolio
check 'and again' by app quotactl acquire portfolio
same 'which is counted' "$(used)" '"used": "2"'
refused 'another user does not acquire' by stranger quotactl --timeout 1s acquire portfolio
refused 'another user does not look' by stranger "${control[@]}" --timeout 1s status
refused 'a member of quotad-clients does not look' by app "${control[@]}" --timeout 1s status
refused 'nobody administers through the socket for applications' quotactl --timeout 1s reset portfolio
refused 'another user does not read the ledger' by stranger cat $data/quotad.db
refused 'nor where it is' by stranger ls $data
refused 'nor the configuration' by stranger cat /etc/quotad/quotad.yaml
mkdir -m 755 /var/backups/trial
check 'root makes a backup' "${control[@]}" backup /var/backups/trial/copy.db
refused 'which another user does not read' by stranger cat /var/backups/trial/copy.db
same 'and nothing of this was counted' "$(used)" '"used": "2"'

# The sandbox, as the kernel has it.
status() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$(pid)/status"; }
same 'it has no capability' "$(status CapEff) $(status CapBnd)" '0000000000000000 0000000000000000'
same 'it cannot get any' "$(status NoNewPrivs)" 1
same 'its system calls are filtered' "$(status Seccomp)" 2
same 'it leaves no core' "$(awk '/^Max core/ { print $5, $6 }' "/proc/$(pid)/limits")" '0 0'
within() { nsenter --target "$(pid)" --mount -- "$@"; }
touch /root/trial
refused 'it sees no home' within ls /root/trial
refused 'the system is read-only to it' within touch /usr/written /etc/written /var/written
check 'its directory is not' within touch $data/written
rm -f $data/written

# However it ends, it is started again, with its counts.
for signal in KILL QUIT ABRT; do
	old=$(pid)
	kill -s $signal "$old"
	check "it comes back after SIG$signal" soon another "$old"
	same "with its counts after SIG$signal" "$(used)" '"used": "2"'
done
mkdir -p /run/systemd/system/quotad.service.d
printf '[Service]\nWatchdogSec=1\n' >/run/systemd/system/quotad.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart quotad.service
old=$(pid)
sleep 2.5
same 'the watchdog leaves it alone while it works' "$(pid)" "$old"
kill -s STOP "$old"
check 'and starts it again when it hangs' soon another "$old"
rm -r /run/systemd/system/quotad.service.d
systemctl daemon-reload

# A restart refuses nobody: the sockets stay, and calls wait.
loop() {
	local n
	for n in $(seq 30); do
		by app quotactl acquire "restart/$n" --timeout 15s >/dev/null || return 1
	done
}
loop &
looping=$!
systemctl restart quotad.service
systemctl restart quotad.service
wait $looping
same 'no call fails during two restarts' $? 0
check 'it reads its files again when told' systemctl reload quotad.service

# A setting that is wrong is not tried again and again.
cp /etc/quotad/quotad.yaml /tmp/quotad.yaml
echo 'lisen: 127.0.0.1:7070' >>/etc/quotad/quotad.yaml
systemctl restart quotad.service >/dev/null 2>&1
check 'with a wrong setting it fails' soon failed
same 'with the code that says so' "$(systemctl show --property ExecMainStatus --value quotad.service)" 2
same 'and is not started again' "$(systemctl show --property NRestarts --value quotad.service)" 0
cp /tmp/quotad.yaml /etc/quotad/quotad.yaml
check 'it starts when that is mended' systemctl restart quotad.service
same 'with its counts' "$(used)" '"used": "2"'

# A ledger that is missing is never made anew by the unit, nor by an upgrade.
systemctl stop quotad.socket quotad-control.socket quotad.service
mkdir /tmp/away
mv $data/quotad.db /tmp/away/
rm -f $data/LOCK
timeout 10 systemctl start quotad.service >/dev/null 2>&1
refused 'without its ledger it does not run' running
check 'the package upgrades' dpkg --install /shared/quotad.deb
refused 'and makes no other ledger' test -e $data/quotad.db
systemctl stop quotad.socket quotad-control.socket quotad.service
rm -f $data/LOCK
mv /tmp/away/quotad.db $data/
check 'it runs with it' systemctl start quotad.service
same 'and its counts are there' "$(used)" '"used": "2"'
refused 'create-ledger replaces nothing' /usr/lib/quotad/create-ledger $data
old=$(pid)
check 'the package upgrades while it runs' dpkg --install /shared/quotad.deb
check 'which starts the new one' soon another "$old"
same 'with the counts of the old one' "$(used)" '"used": "2"'

# Another user's number in a policy.
cat >/etc/quotad/policy.yaml <<END
principals:
  app:
    is: ["uid:$(id -u app)"]
    may: {acquire: [portfolio]}
  root:
    is: ["uid:0"]
    may: {acquire: ["**"], settle: ["**"], inspect: ["**"], admin: ["**"]}
END
echo 'policy: /etc/quotad/policy.yaml' >>/etc/quotad/quotad.yaml
check 'it starts with a policy' systemctl restart quotad.service
check 'which lets the user acquire what it names' by app quotactl acquire portfolio
refused 'and nothing else' by app quotactl acquire other
same 'as counted' "$(used)" '"used": "3"'
cp /tmp/quotad.yaml /etc/quotad/quotad.yaml
systemctl restart quotad.service

# Removed and installed anew, it has its counts. Purged, it has left.
check 'the package is removed' dpkg --remove quotad
refused 'it runs no more' pgrep -x quotad
refused 'its sockets are gone' test -e /run/quotad
check 'its ledger is not' test -e $data/quotad.db
check 'the package installs anew' dpkg --install /shared/quotad.deb
check 'it runs again' soon running
same 'with the counts that it had' "$(used)" '"used": "3"'
check 'the package is purged' dpkg --purge quotad
refused 'its ledger is gone' test -e $data
ours >/tmp/after
same 'what somebody put into its directory stays, and nothing else' "$(comm -13 /tmp/before /tmp/after | xargs)" /etc/quotad
same 'but its user and groups' "$(in_etc | sort -u | xargs)" 'quotad quotad-clients'
echo end
