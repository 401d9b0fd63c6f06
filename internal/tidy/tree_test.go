package tidy

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is the path that imports of our own packages begin with.
const module = "github.com/quotad/quotad"

// A tree is what the rules look at: the repository, or a control's few lines.
type tree struct {
	fset         *token.FileSet
	files        []*file
	architecture string // the text of ARCHITECTURE.md
}

// A file is one Go file, parsed with its comments.
type file struct {
	path      string // from the root of the repository, with slashes
	text      string
	ast       *ast.File
	test      bool // named *_test.go
	generated bool // has the "Code generated ... DO NOT EDIT." line
}

func (f *file) pkg() string { return path.Dir(f.path) }

// A violation is one place that breaks a rule: where, what is wrong there, and
// what would be right.
type violation struct {
	path string
	line int // 0: the file or folder as a whole
	what string
	want string
}

func (v violation) String() string {
	return fmt.Sprintf("%s:%d: %s; %s", v.path, v.line, v.what, v.want)
}

// A rule finds what breaks it.
type rule struct {
	name  string
	check func(*tree) []violation
}

// rules is all of them; each needs a control in controls.
var rules = []rule{
	{"rows", checkRows},
	{"third-parties", checkThirdParties},
	{"codes", checkCodes},
	{"architecture", checkArchitecture},
	{"clock", checkClock},
	{"midnight", checkMidnight},
	{"sleep", checkSleep},
	{"panic", checkPanic},
	{"globals", checkGlobals},
	{"errors", checkErrorTexts},
	{"function-length", checkFunctionLength},
	{"file-length", checkFileLength},
	{"package-docs", checkPackageDocs},
	{"docs", checkDocs},
	{"open-ends", checkOpenEnds},
}

func TestRepository(t *testing.T) {
	t.Parallel()
	repository := load(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			found := r.check(repository)
			slices.SortFunc(found, func(a, b violation) int {
				return cmp.Or(strings.Compare(a.path, b.path), cmp.Compare(a.line, b.line))
			})
			for _, v := range found {
				t.Error(v)
			}
		})
	}
}

// root is the folder of the module's go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// load reads every Go file of the module, for every platform.
func load(t *testing.T) *tree {
	t.Helper()
	top := root(t)
	repository := &tree{fset: token.NewFileSet()}
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != top && notOurs(name, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		return repository.add(filepath.ToSlash(rel), string(text))
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(top, "ARCHITECTURE.md"))
	if err != nil {
		t.Error(err)
	}
	repository.architecture = string(text)
	return repository
}

// notOurs reports whether a folder holds no package of this module.
func notOurs(dir, base string) bool {
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func (t *tree) add(name, text string) error {
	parsed, err := parser.ParseFile(t.fset, name, text, parser.ParseComments)
	if err != nil {
		return err
	}
	t.files = append(t.files, &file{
		path:      name,
		text:      text,
		ast:       parsed,
		test:      strings.HasSuffix(name, "_test.go"),
		generated: ast.IsGenerated(parsed),
	})
	return nil
}

// written yields the files that people write, tests among them.
func (t *tree) written(yield func(*file) bool) {
	for _, f := range t.files {
		if !f.generated && !yield(f) {
			return
		}
	}
}

// shipped yields the files that people write and that are not tests.
func (t *tree) shipped(yield func(*file) bool) {
	for f := range t.written {
		if !f.test && !yield(f) {
			return
		}
	}
}

// has reports whether the tree has a Go file in the folder pkg.
func (t *tree) has(pkg string) bool {
	return slices.ContainsFunc(t.files, func(f *file) bool { return f.pkg() == pkg })
}

func (t *tree) line(pos token.Pos) int { return t.fset.Position(pos).Line }

func (t *tree) at(f *file, pos token.Pos, what, want string) violation {
	return violation{f.path, t.line(pos), what, want}
}

// uses lists the places in f that name something of the package importPath.
// With no names it lists all of them.
func uses(f *file, importPath string, names ...string) []*ast.SelectorExpr {
	local := localName(f, importPath)
	if local == "" {
		return nil
	}
	var found []*ast.SelectorExpr
	for n := range ast.Preorder(f.ast) {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			continue
		}
		// An identifier that the parser resolved is a variable, not a package.
		if x, ok := selector.X.(*ast.Ident); ok && x.Name == local && x.Obj == nil &&
			(len(names) == 0 || slices.Contains(names, selector.Sel.Name)) {
			found = append(found, selector)
		}
	}
	return found
}

// localName is what f calls the package importPath, or "" if it does not import it.
func localName(f *file, importPath string) string {
	for _, spec := range f.ast.Imports {
		if strings.Trim(spec.Path.Value, `"`) != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// An exemption lets a file, or a folder with a slash at its end, break a rule.
type exemption struct {
	path string
	why  string
}

func (e exemption) covers(name string) bool {
	return name == e.path || strings.HasSuffix(e.path, "/") && strings.HasPrefix(name, e.path)
}

// except takes out what is exempt, and adds the exemptions that nobody needs.
func (t *tree) except(list []exemption, found []violation) []violation {
	needed := make([]bool, len(list))
	found = slices.DeleteFunc(found, func(v violation) bool {
		i := slices.IndexFunc(list, func(e exemption) bool { return e.covers(v.path) })
		if i >= 0 {
			needed[i] = true
		}
		return i >= 0
	})
	for i, e := range list {
		if !needed[i] && slices.ContainsFunc(t.files, func(f *file) bool { return e.covers(f.pkg()+"/") || f.pkg() == path.Dir(e.path) }) {
			found = append(found, violation{e.path, 0, "is exempt (" + e.why + ") but has no need of it", "take it off the list"})
		}
	}
	return found
}
