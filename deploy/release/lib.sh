# What the scripts of a release share. Sourced by bash, in the root of the repository.

out=${DIST:-dist}

# version_of prints the version that the go command stamped into a binary.
version_of() {
	go version -m "$1" | awk '$1 == "mod" { print $3 }'
}

# commit_time prints when the commit was made, in seconds: the one time that anything in a release has.
commit_time() {
	git log -1 --format=%ct
}

# archive packs a directory into a tar that is the same wherever and by whomever it is made.
archive() {
	tar --create --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
		--mtime="@$(commit_time)" --directory "$1" "${@:2}"
}

# sums writes SHA256SUMS anew, over all that is to be handed out.
sums() {
	(cd "$out" && find . -maxdepth 1 -name 'quotad_*' -type f -printf '%f\0' | LC_ALL=C sort -z | xargs -0 sha256sum >SHA256SUMS)
}
