package tidy

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A room is one package of ours and where it stands.
type room struct {
	row   int
	pkg   string
	third []string // the third parties it may import, by prefix; nil: none
}

const (
	programs = 6
	tests    = 100 // no row: they serve tests alone, import what they like, and nobody imports them
)

const (
	grpc     = "google.golang.org/grpc"
	protobuf = "google.golang.org/protobuf"
	rpcTypes = "google.golang.org/genproto/googleapis/rpc"
	xsys     = "golang.org/x/sys"
	aws      = "github.com/aws"
	uuid     = "github.com/google/uuid"
)

// table is the architecture: a package imports only from rows above its own
// (smaller numbers), and nothing inside its row. Its tests may import more.
// ARCHITECTURE.md shows the same table to people, and must agree with it.
var table = []room{
	{row: 0, pkg: "gen/quotad/v1", third: []string{grpc, protobuf}},
	{row: 0, pkg: "internal/window"},
	{row: 0, pkg: "internal/groupcommit"},
	{row: 0, pkg: "internal/strictyaml", third: []string{"github.com/goccy/go-yaml"}},
	{row: 1, pkg: "internal/quota"},
	{row: 1, pkg: "client", third: []string{grpc, protobuf, rpcTypes, uuid, "github.com/gofrs/flock"}},
	{row: 2, pkg: "internal/store"},
	{row: 2, pkg: "bedrock", third: []string{aws}},
	{row: 3, pkg: "internal/store/boltengine", third: []string{"go.etcd.io/bbolt", xsys}},
	{row: 3, pkg: "internal/store/memengine"},
	{row: 3, pkg: "internal/store/enginetest", third: []string{"pgregory.net/rapid"}},
	{row: 3, pkg: "internal/auth"},
	{row: 3, pkg: "internal/metrics", third: []string{"github.com/prometheus"}},
	{row: 4, pkg: "internal/service", third: []string{grpc, protobuf, rpcTypes}},
	{row: 4, pkg: "internal/config"},
	{row: 4, pkg: "internal/notify"},
	{row: 4, pkg: "internal/tracing", third: []string{grpc, "go.opentelemetry.io"}},
	{row: 5, pkg: "internal/server", third: []string{grpc, rpcTypes, xsys, "github.com/coreos/go-systemd/v22/activation"}},
	{row: programs, pkg: "cmd/quotad", third: []string{"github.com/fsnotify/fsnotify", "golang.org/x/term"}},
	{row: programs, pkg: "cmd/quotactl", third: []string{"github.com/spf13/cobra", "github.com/goccy/go-yaml", "golang.org/x/term", "github.com/gofrs/flock", uuid, grpc, protobuf, rpcTypes}},
	{row: programs, pkg: "cmd/quotabench", third: []string{grpc, protobuf, xsys}},
	{row: programs, pkg: "cmd/quotademo", third: []string{grpc}},
	{row: programs, pkg: "client/quotatest", third: []string{grpc}},
	{row: programs, pkg: "examples/go-chat", third: []string{aws}},
	{row: tests, pkg: "internal/tidy"},
	{row: tests, pkg: "internal/systemtest"},
	{row: tests, pkg: "internal/bedrocktest"},
	{row: tests, pkg: "examples"},
	{row: tests, pkg: "deploy"},
	{row: tests, pkg: "deploy/release/sbom"},
}

func find(pkg string) (room, bool) {
	i := slices.IndexFunc(table, func(r room) bool { return r.pkg == pkg })
	if i < 0 {
		return room{}, false
	}
	return table[i], true
}

// may reports whether a file of r that is not a test may import the room to.
func (r room) may(to room) bool {
	return to.row < r.row
}

func (r room) label() string {
	if r.row == tests {
		return "test"
	}
	return strconv.Itoa(r.row)
}

func checkRows(t *tree) []violation {
	var found []violation
	unlisted := make(map[string]bool)
	for _, f := range t.files {
		from, listed := find(f.pkg())
		if !listed && !unlisted[f.pkg()] {
			unlisted[f.pkg()] = true
			found = append(found, violation{f.pkg(), 0, "this package has no row", "give it one in internal/tidy/imports_test.go and in ARCHITECTURE.md"})
		}
		if f.test || !listed {
			continue
		}
		for _, spec := range f.ast.Imports {
			name, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module+"/")
			if !ours {
				continue
			}
			if to, ok := find(name); ok && !from.may(to) {
				found = append(found, t.at(f, spec.Pos(),
					fmt.Sprintf("%s (row %s) imports %s (row %s)", from.pkg, from.label(), to.pkg, to.label()),
					"import only from rows above, and let the caller join the two"))
			}
		}
	}
	return found
}

// checkThirdParties keeps each dependency in the rooms that are there for it: a
// package that decides or counts must not come to lean on a network or a disk.
func checkThirdParties(t *tree) []violation {
	var found []violation
	needed := make(map[string]bool) // package and third party
	for _, f := range t.files {
		from, listed := find(f.pkg())
		if f.test || !listed || from.row == tests {
			continue
		}
		for _, spec := range f.ast.Imports {
			name := strings.Trim(spec.Path.Value, `"`)
			if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") || strings.HasPrefix(name, module+"/") {
				continue
			}
			i := slices.IndexFunc(from.third, func(prefix string) bool { return name == prefix || strings.HasPrefix(name, prefix+"/") })
			if i < 0 {
				found = append(found, t.at(f, spec.Pos(), fmt.Sprintf("%s imports %s", from.pkg, name),
					fmt.Sprintf("its third parties are %q; use the package of ours that is there for it", from.third)))
				continue
			}
			needed[from.pkg+" "+from.third[i]] = true
		}
	}
	for _, r := range table {
		for _, third := range r.third {
			if t.has(r.pkg) && !needed[r.pkg+" "+third] {
				found = append(found, violation{r.pkg, 0, "may import " + third + " but does not", "take it off the table"})
			}
		}
	}
	return found
}

// codesAllowed is where a status code may be named.
var codesAllowed = []exemption{
	{"internal/service/status.go", "the one place that turns outcomes into codes"},
	{"internal/server/guard.go", "what ends a call before a service sees it: no permission, too many streams, a panic"},
	{"cmd/", "programs read the codes that servers answer"},
	{"client/", "and so does the client"},
}

func checkCodes(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		for _, spec := range f.ast.Imports {
			if spec.Path.Value == `"`+grpc+`/codes"` {
				found = append(found, t.at(f, spec.Pos(), "names status codes", "return an outcome or an error, and translate it in internal/service/status.go"))
			}
		}
	}
	return t.except(codesAllowed, found)
}

// tableLine matches a line of ARCHITECTURE.md's table, as in
// "| 3 | `internal/auth`, `internal/metrics` | what they do | third parties |".
var (
	tableLine = regexp.MustCompile("^\\| *(\\d+|test) *\\| *(`[^|]+`) *\\|")
	quoted    = regexp.MustCompile("`([^`]+)`")
)

func checkArchitecture(t *tree) []violation {
	const doc = "ARCHITECTURE.md"
	var found []violation
	written := make(map[string]bool)
	for i, line := range strings.Split(t.architecture, "\n") {
		match := tableLine.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		for _, name := range quoted.FindAllStringSubmatch(match[2], -1) {
			pkg := name[1]
			if strings.HasPrefix(pkg, "proto/") {
				continue // not Go
			}
			written[pkg] = true
			r, ok := find(pkg)
			switch {
			case !ok:
				found = append(found, violation{doc, i + 1, pkg + " is not in the table of internal/tidy/imports_test.go", "add it there or take it out here"})
			case r.label() != match[1]:
				found = append(found, violation{doc, i + 1, fmt.Sprintf("%s is said to be in row %s", pkg, match[1]), "internal/tidy/imports_test.go says " + r.label()})
			}
		}
	}
	for _, r := range table {
		if !written[r.pkg] {
			found = append(found, violation{doc, 0, r.pkg + " is missing from its table", fmt.Sprintf("add a line \"| %s | `%s` | what it does | its third parties |\"", r.label(), r.pkg)})
		}
		if !t.has(r.pkg) {
			found = append(found, violation{r.pkg, 0, "has a row but no Go files", "write the package or take it off the table"})
		}
	}
	return found
}

// neverShipped are dependencies that must not be linked into what users run, and why.
var neverShipped = map[string]string{
	"github.com/aws":                    "a daemon that counts needs no cloud SDK: size, start time, advisories",
	"testing":                           "it registers flags, and shows that a helper of the tests leaked into the program",
	"pgregory.net/rapid":                "serves tests alone",
	"github.com/anishathalye/porcupine": "serves tests alone",
	"github.com/rogpeppe/go-internal":   "serves tests alone",
	"go.uber.org/goleak":                "serves tests alone",
}

func linkedInVain(deps []string) []string {
	var found []string
	for _, dep := range deps {
		for prefix, why := range neverShipped {
			if dep == prefix || strings.HasPrefix(dep, prefix+"/") {
				found = append(found, dep+" must not be linked in: "+why)
			}
		}
	}
	return found
}

// TestBinaries asks the go command, because what is linked in depends on third
// parties too.
func TestBinaries(t *testing.T) {
	t.Parallel()
	if found := linkedInVain([]string{"fmt", "testing/iotest", "github.com/aws/smithy-go", "github.com/awsome/x"}); len(found) != 2 {
		t.Errorf("control: found %q, want testing/iotest and smithy-go", found)
	}
	for _, binary := range []string{"cmd/quotad", "cmd/quotactl"} {
		command := exec.CommandContext(t.Context(), "go", "list", "-deps", "./"+binary)
		command.Dir = root(t)
		out, err := command.Output()
		if err != nil {
			t.Errorf("%s: go list -deps: %v", binary, err)
			continue
		}
		for _, v := range linkedInVain(strings.Fields(string(out))) {
			t.Errorf("%s: %s", binary, v)
		}
	}
}
