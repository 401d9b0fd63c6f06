# What the trials share. Each line of "ok NAME" or "not ok NAME" that they print becomes a test.

# check NAME COMMAND...: it succeeds.
check() {
	local name=$1 said
	shift
	if said=$("$@" 2>&1); then
		echo "ok $name"
	else
		echo "not ok $name: $* ended with $?"
		sed 's/^/  /' <<<"$said"
	fi
}

# refused NAME COMMAND...: it does not.
refused() {
	local name=$1 said
	shift
	if said=$("$@" 2>&1); then
		echo "not ok $name: $* succeeded"
		sed 's/^/  /' <<<"$said"
	else
		echo "ok $name"
	fi
}

# same NAME GOT WANT: both are the same text.
same() {
	if [ "$2" = "$3" ]; then
		echo "ok $1"
	else
		printf 'not ok %s: got %q, want %q\n' "$1" "$2" "$3"
	fi
}

# soon COMMAND...: it succeeds within 20 s.
soon() {
	local tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 200 ] || return 1
		sleep 0.1
	done
}

# by USER COMMAND...: runs it as that user, with the groups that the user has.
by() {
	local user=$1
	shift
	setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
}
