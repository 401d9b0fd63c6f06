package tidy

import (
	"fmt"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// A control is a few lines that break a rule in one or more places, next to lines
// that come close and do not. The rule must find those places and no others.
type control struct {
	rule  string
	files map[string]string // path to source, tabs and all
	want  []string          // "path:line: what", as far as it goes
}

var controls = []control{
	{
		rule: "rows",
		files: map[string]string{
			"internal/store/store.go": `package store

import (
	"fmt"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
)
`,
			"internal/store/memengine/mem.go":      "package memengine\n\nimport _ \"github.com/quotad/quotad/internal/store/enginetest\"\n",
			"internal/store/memengine/mem_test.go": "package memengine\n\nimport _ \"github.com/quotad/quotad/internal/store/enginetest\"\n",
			"internal/server/server.go":            "package server\n\nimport _ \"github.com/quotad/quotad/internal/systemtest\"\n",
			"internal/novel/novel.go":              "package novel\n",
		},
		want: []string{
			"internal/novel:0: this package has no row",
			"internal/server/server.go:3: internal/server (row 5) imports internal/systemtest (row test)",
			"internal/store/memengine/mem.go:3: internal/store/memengine (row 3) imports internal/store/enginetest (row 3)",
			"internal/store/store.go:7: internal/store (row 2) imports internal/service (row 4)",
		},
	},
	{
		rule: "third-parties",
		files: map[string]string{
			"internal/store/store.go":           "package store\n\nimport (\n\t\"fmt\"\n\t\"go.etcd.io/bbolt\"\n)\n",
			"internal/store/store_test.go":      "package store\n\nimport \"go.etcd.io/bbolt\"\n",
			"internal/store/boltengine/bolt.go": "package boltengine\n\nimport (\n\t\"go.etcd.io/bbolt\"\n\tberrors \"go.etcd.io/bbolt/errors\"\n\t\"golang.org/x/sys/unix\"\n)\n",
			"internal/strictyaml/file.go":       "package strictyaml\n",
		},
		want: []string{
			"internal/strictyaml:0: may import github.com/goccy/go-yaml but does not",
			"internal/store/store.go:5: internal/store imports go.etcd.io/bbolt",
		},
	},
	{
		rule: "codes",
		files: map[string]string{
			"internal/service/status.go":     "package service\n\nimport \"google.golang.org/grpc/codes\"\n",
			"internal/service/quota.go":      "package service\n\nimport \"google.golang.org/grpc/codes\"\n",
			"internal/service/quota_test.go": "package service\n\nimport \"google.golang.org/grpc/codes\"\n",
			"cmd/quotactl/main.go":           "package main\n",
		},
		want: []string{
			"cmd/:0: is exempt (programs read the codes that servers answer) but has no need of it",
			"internal/service/quota.go:3: names status codes",
		},
	},
	{
		rule: "clock",
		files: map[string]string{
			"cmd/quotad/main.go": "package main\n\nimport \"time\"\n\nvar start = time.Now()\n",
			"internal/quota/quota.go": `package quota

import "time"

var now = time.Now

func age(t time.Time) time.Duration {
	var time struct{ Now func() }
	time.Now()
	return 0
}
`,
			"internal/quota/renamed.go":    "package quota\n\nimport clock \"time\"\n\nvar age = clock.Since(then)\n",
			"internal/quota/quota_test.go": "package quota\n\nimport \"time\"\n\nvar x = time.Now()\n",
		},
		want: []string{
			"internal/quota/quota.go:5: reads the clock by time.Now",
			"internal/quota/renamed.go:5: reads the clock by time.Since",
		},
	},
	{
		rule: "midnight",
		files: map[string]string{
			"internal/quota/quota.go": `package quota

import "time"

var (
	wrong = time.Date(2026, 11, 22, 0, 0, 0, 0, zone)
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, zone)
)
`,
			"internal/window/window.go": "package window\n\nimport \"time\"\n\nvar x = time.Date(2026, 11, 22, 0, 0, 0, 0, zone)\n",
		},
		want: []string{"internal/quota/quota.go:6: takes 00:00 for the start of a day"},
	},
	{
		rule: "sleep",
		files: map[string]string{
			"internal/quota/a_test.go": `package quota

import "time"

func a() {
	time.Sleep(1)

	// The kernel gives no signal for this.
	time.Sleep(1)
}
`,
			"internal/quota/b_test.go": "package quota\n\nimport (\n\t\"testing/synctest\"\n\t\"time\"\n)\n\nfunc b() { time.Sleep(1) }\n",
		},
		want: []string{"internal/quota/a_test.go:6: a test that sleeps"},
	},
	{
		rule: "panic",
		files: map[string]string{"internal/quota/quota.go": `package quota

func a(n int) {
	if n == 1 {
		panic("one")
	}

	// Names were checked when they were read.
	panic("two")

	panic(err)
	panic(fmt.Sprintf("quota: %d is more than three", n))
	panic("quota: more than " + three)
	defer func() {
		if r := recover(); r != n {
			panic(r)
		}
	}()
}
`},
		want: []string{
			"internal/quota/quota.go:5: panics",
			"internal/quota/quota.go:11: panics",
		},
	},
	{
		rule: "globals",
		files: map[string]string{
			"internal/quota/a.go": `package quota

var (
	_      = a
	count  int
	byName = map[string]int{}
	fixed  = 3
)

func init() {}

func a() {
	count++
	fixed := 1
	fixed = 2
	byName["a"] = fixed
	_ = fixed
}
`,
			"internal/quota/b.go": "package quota\n\nfunc b(fixed int) {\n\tcount = 2\n\tfixed = 3\n}\n",
		},
		want: []string{
			"internal/quota/a.go:10: has an init function",
			"internal/quota/a.go:13: changes the package variable count",
			"internal/quota/a.go:16: changes the package variable byName",
			"internal/quota/b.go:4: changes the package variable count",
		},
	},
	{
		rule: "errors",
		files: map[string]string{"internal/quota/a.go": `package quota

var (
	wrong = fmt.Errorf("failed to open %s: %w", path, err)
	right = fmt.Errorf("opening %s: %w", path, err)
	other = errors.New("Unable to think")
)
`},
		want: []string{
			"internal/quota/a.go:4: an error says \"failed to\"",
			"internal/quota/a.go:6: an error says \"unable to\"",
		},
	},
	{
		rule: "function-length",
		files: map[string]string{
			"internal/quota/a.go":      "package quota\n\nfunc fits() {\n" + strings.Repeat("\tx()\n", 68) + "}\n\nfunc long() {\n" + strings.Repeat("\tx()\n", 69) + "}\n",
			"internal/quota/a_test.go": "package quota\n\nvar f = func() {\n" + strings.Repeat("\tx()\n", 69) + "}\n",
			"internal/quota/gen.go":    "// Code generated by x. DO NOT EDIT.\n\npackage quota\n\nfunc long() {\n" + strings.Repeat("\tx()\n", 69) + "}\n",
		},
		want: []string{
			"internal/quota/a.go:74: long has 71 lines",
			"internal/quota/a_test.go:3: a function literal has 71 lines",
		},
	},
	{
		rule: "file-length",
		files: map[string]string{
			"internal/quota/a.go": "package quota\n" + strings.Repeat("\n", 598),
			"internal/quota/b.go": "package quota\n" + strings.Repeat("\n", 599),
		},
		want: []string{"internal/quota/b.go:0: has 600 lines"},
	},
	{
		rule: "package-docs",
		files: map[string]string{
			"internal/quota/a.go":           "// Package quota decides.\npackage quota\n",
			"internal/quota/b.go":           "package quota\n",
			"internal/store/a.go":           "// Store, a package.\npackage store\n",
			"internal/store/a_test.go":      "package store_test\n",
			"cmd/quotad/main.go":            "// Command quotad serves.\npackage main\n",
			"cmd/quotactl/main.go":          "// Package main is a program.\npackage main\n",
			"internal/systemtest/a_test.go": "package systemtest\n",
		},
		want: []string{
			"cmd/quotactl/main.go:2: cmd/quotactl has no doc",
			"internal/store/a.go:2: internal/store has no doc",
			"internal/systemtest/a_test.go:1: internal/systemtest has no doc",
		},
	},
	{
		rule: "docs",
		files: map[string]string{
			"internal/quota/a.go": `package quota

// Has one, and speaks of Told.
type Has struct {
	// Doc is above.
	Doc   int
	Line  int // at the end
	Told  int
	Kinds []*other.Kind
	own   int
	Other
	Bare int
}

type Lacks interface {
	Bare()
	Line() // at the end
}

// Kinds share a doc.
const (
	KindA = iota
	KindB
)

const Single = 1

var own = 1

func Lost() {}

func (h *Has) Method() {}

func (o own) Method() {}

func (l List[T]) Method() {}
`,
			"internal/quota/a_test.go": "package quota\n\nfunc TestX() {}\n",
			"internal/quota/b.go":      "package quota\n\n// B is like Has.\ntype B struct {\n\tLine int\n\tBare int\n}\n",
			"internal/store/b.go":      "package store\n\n// B is like Has, elsewhere.\ntype B struct {\n\tLine int\n}\n",
			"cmd/quotad/main.go":       "package main\n\nfunc Run() {}\n",
		},
		want: []string{
			"internal/quota/a.go:12: Bare has no doc",
			"internal/quota/a.go:15: Lacks has no doc",
			"internal/quota/a.go:16: Bare has no doc",
			"internal/quota/a.go:26: Single has no doc",
			"internal/quota/a.go:30: Lost has no doc",
			"internal/quota/a.go:32: Method has no doc",
			"internal/quota/a.go:36: Method has no doc",
			"internal/quota/b.go:6: Bare has no doc",
			"internal/store/b.go:5: Line has no doc",
		},
	},
	{
		rule: "open-ends",
		files: map[string]string{"internal/quota/a.go": strings.ReplaceAll(`package quota

// LATER: think.
var a = "LATER in a string"

// LATER(#12): think, once the issue is done.
var b int // LATER(me): soon
`, "LATER", "TODO")},
		want: []string{
			"internal/quota/a.go:3: leaves something open",
			"internal/quota/a.go:7: leaves something open",
		},
	},
}

func TestControls(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		if r.name == "architecture" {
			continue // its control is TestArchitectureControl: it reads no source
		}
		i := slices.IndexFunc(controls, func(c control) bool { return c.rule == r.name })
		if i < 0 {
			t.Errorf("rule %s has no control", r.name)
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			sources := &tree{fset: token.NewFileSet()}
			for name, text := range controls[i].files {
				if err := sources.add(name, text); err != nil {
					t.Fatal(err)
				}
			}
			match(t, r.check(sources), controls[i].want)
		})
	}
}

// match compares what was found with the beginnings of what was to be found.
func match(t *testing.T, found []violation, want []string) {
	t.Helper()
	for _, v := range found {
		if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(v.String(), w) }) {
			t.Errorf("found what breaks no rule: %s", v)
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(found, func(v violation) bool { return strings.HasPrefix(v.String(), w) }) {
			t.Errorf("missed %s", w)
		}
	}
}

func TestArchitectureControl(t *testing.T) {
	t.Parallel()
	sources := &tree{fset: token.NewFileSet()}
	var doc strings.Builder
	doc.WriteString("| row | package | one sentence | third party |\n|---|---|---|---|\n")
	for _, r := range table {
		if r.pkg == "internal/server" {
			continue
		}
		row := r.label()
		if r.pkg == "internal/config" {
			row = "1"
		}
		fmt.Fprintf(&doc, "| %s | `%s`, `proto/quotad/v1` | does things | – |\n", row, r.pkg)
		if r.pkg == "internal/quota" {
			continue
		}
		if err := sources.add(r.pkg+"/a.go", "package a\n"); err != nil {
			t.Fatal(err)
		}
	}
	doc.WriteString("| 3 | `internal/novel` | is new | – |\n")
	sources.architecture = doc.String()
	match(t, checkArchitecture(sources), []string{
		"ARCHITECTURE.md:0: internal/server is missing from its table",
		"ARCHITECTURE.md:17: internal/config is said to be in row 1",
		fmt.Sprintf("ARCHITECTURE.md:%d: internal/novel is not in the table", strings.Count(doc.String(), "\n")),
		"internal/quota:0: has a row but no Go files",
		"internal/server:0: has a row but no Go files",
	})
}
