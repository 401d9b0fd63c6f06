package auth

import (
	"fmt"
	"strconv"
	"strings"
)

// Identity is one thing that a call shows about its caller, as a policy writes it: "token:NAME", "spiffe://DOMAIN/PATH", "dns:HOST",
// "uid:N", "gid:N", or Loopback. The zero value is none.
type Identity string

// Loopback is what everybody shows who comes over plain TCP from this machine: the kernel does not tell who they are.
const Loopback Identity = "loopback"

const (
	tokenScheme  = "token:"
	spiffeScheme = "spiffe://"
)

const (
	nameBytesMax   = 64
	spiffeBytesMax = 2048
	domainBytesMax = 255
	hostBytesMax   = 253
	labelBytesMax  = 63
	idMax          = 1<<32 - 2 // the highest number means nobody in system calls
)

// Check tells what is wrong with the identity; nil if nothing is. One that passes is written in the only way that there is, so that
// two are the same if their texts are.
func (id Identity) Check() error {
	text := string(id)
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case id == Loopback:
		return nil
	case strings.HasPrefix(text, spiffeScheme):
		return checkSPIFFE(text)
	case kind == "token":
		return CheckTokenName(rest)
	case kind == "dns":
		return checkHost(rest)
	case kind == "uid" || kind == "gid":
		return checkID(kind, rest)
	}
	return fmt.Errorf("%q is no identity; want token:NAME, spiffe://DOMAIN/PATH, dns:HOST, uid:N, gid:N or loopback", shorten(text))
}

// token returns the name of the token that the identity is.
func (id Identity) token() (string, bool) { return strings.CutPrefix(string(id), tokenScheme) }

// CheckTokenName tells what is wrong with the name of a token; nil if nothing is. It is 1 to 64 bytes of a-z, 0-9 and ._-, and
// nothing that may be a token itself.
func CheckTokenName(name string) error {
	if strings.Contains(name, secretPrefix) {
		return fmt.Errorf("%s is how a token itself begins; want the token's name", secretPrefix)
	}
	return checkName("token", name)
}

// checkPrincipalName tells what is wrong with the name of a principal. Some names are taken: by who calls where there is no policy,
// by quotad itself in the audit trail, and by an identity.
func checkPrincipalName(name string) error {
	switch name {
	case "local", "quotad", string(Loopback):
		return fmt.Errorf("the name %q is taken; give the principal another", name)
	}
	return checkName("principal", name)
}

func checkName(what, name string) error {
	const right = "want 1 to 64 bytes of a-z, 0-9 and ._-"
	switch {
	case name == "":
		return fmt.Errorf("a %s without a name; %s", what, right)
	case len(name) > nameBytesMax:
		return fmt.Errorf("a %s whose name has %d bytes; %s", what, len(name), right)
	case !only(name, lower+"._-"):
		return fmt.Errorf("a %s named %q; %s", what, name, right)
	}
	return nil
}

const (
	lower = "abcdefghijklmnopqrstuvwxyz0123456789"
	upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// only tells whether a text is made of these bytes alone.
func only(s, bytes string) bool { return strings.Trim(s, bytes) == "" }

// checkSPIFFE holds an id against the SPIFFE ID standard. It has no user, port, query or fragment, and nothing is escaped.
func checkSPIFFE(id string) error {
	const right = "; want spiffe://DOMAIN/PATH, as in spiffe://acme.example/chat"
	if len(id) > spiffeBytesMax {
		return fmt.Errorf("a SPIFFE ID of %d bytes; at most %d", len(id), spiffeBytesMax)
	}
	domain, path, found := strings.Cut(strings.TrimPrefix(id, spiffeScheme), "/")
	switch {
	case domain == "" || len(domain) > domainBytesMax || !only(domain, lower+"._-"):
		return fmt.Errorf("%q: a trust domain is 1 to %d bytes of a-z, 0-9 and ._-%s", shorten(id), domainBytesMax, right)
	case !found:
		return fmt.Errorf("%q names a trust domain, and nobody in it%s", shorten(id), right)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || !only(segment, lower+upper+"._-") {
			return fmt.Errorf("%q: a path has segments of letters, digits and ._- parted by /, none of them empty, . or ..%s", shorten(id), right)
		}
	}
	return nil
}

func checkHost(host string) error {
	const right = "; want a host's full name in lower case, as in dns:chat.acme.example"
	if host == "" || len(host) > hostBytesMax {
		return fmt.Errorf("dns: a name of %d bytes, of 1 to %d%s", len(host), hostBytesMax, right)
	}
	if strings.Contains(host, "*") {
		return fmt.Errorf("%q: a wildcard stands for hosts that nobody has named%s", "dns:"+host, right)
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > labelBytesMax || !only(label, lower+"-") || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q: %q is no part of a host's name%s", "dns:"+host, label, right)
		}
		last = label
	}
	if only(last, "0123456789") {
		return fmt.Errorf("%q is an address%s", "dns:"+host, right)
	}
	return nil
}

func checkID(kind, text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > idMax || strconv.FormatUint(n, 10) != text {
		return fmt.Errorf("%q: want a number from 0 to %d, as in %s:1000", kind+":"+shorten(text), uint64(idMax), kind)
	}
	return nil
}

// shorten returns a text as an error shows it.
func shorten(s string) string {
	const shown = 100
	if len(s) <= shown {
		return s
	}
	return strings.ToValidUTF8(s[:shown], "") + "..."
}
