package tidy

import (
	"go/ast"
	"go/token"
	"go/types"
	"iter"
	"path"
	"regexp"
	"strings"
)

// checkPackageDocs wants one doc for each package, in the form that go doc shows
// well: "Package store makes ...", "Command quotad serves ...".
func checkPackageDocs(t *tree) []violation {
	var found []violation
	documented := make(map[string]bool)
	first := make(map[string]*file)
	for f := range t.written {
		if f.ast.Name.Name == "main" || !strings.HasSuffix(f.ast.Name.Name, "_test") {
			if first[f.pkg()] == nil {
				first[f.pkg()] = f
			}
		}
		if f.ast.Doc != nil {
			if text := f.ast.Doc.Text(); strings.HasPrefix(text, docStart(f)) {
				documented[f.pkg()] = true
			}
		}
	}
	for pkg, f := range first {
		if !documented[pkg] {
			found = append(found, t.at(f, f.ast.Package, pkg+" has no doc", `begin one with "`+docStart(f)+`" and say in a sentence what it is for`))
		}
	}
	return found
}

func docStart(f *file) string {
	if f.ast.Name.Name == "main" {
		return "Command " + path.Base(f.pkg()) + " "
	}
	return "Package " + f.ast.Name.Name + " "
}

// checkDocs wants a doc on all that other packages can name: types, functions,
// methods, constants, variables, fields, and the methods of interfaces. A group
// of constants or variables may share the doc above it. A field may have its doc
// at the end of its line, in the doc of its struct, with its type if that has the
// same name (as in "Limits []Limit"), or with a field of the same name in the
// package, which then means the same.
func checkDocs(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		if f.ast.Name.Name == "main" {
			continue // nobody imports it
		}
		for _, decl := range f.ast.Decls {
			for _, name := range undocumented(decl) {
				found = append(found, t.at(f, name.Pos(), name.Name+" has no doc", wantDoc))
			}
		}
	}
	return append(found, t.undocumentedFields()...)
}

const wantDoc = "say what it is, its unit and bounds, its errors, and what its zero value means"

func undocumented(decl ast.Decl) []*ast.Ident {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		if decl.Doc == nil && decl.Name.IsExported() && exportedReceiver(decl) {
			return []*ast.Ident{decl.Name}
		}
	case *ast.GenDecl:
		var names []*ast.Ident
		for _, spec := range decl.Specs {
			names = append(names, undocumentedSpec(decl, spec)...)
		}
		return names
	}
	return nil
}

// exportedReceiver reports whether decl is a function, or a method of a type that
// other packages can name.
func exportedReceiver(decl *ast.FuncDecl) bool {
	if decl.Recv == nil {
		return true
	}
	typ := decl.Recv.List[0].Type
	for {
		switch inner := typ.(type) {
		case *ast.StarExpr:
			typ = inner.X
		case *ast.IndexExpr:
			typ = inner.X
		case *ast.IndexListExpr:
			typ = inner.X
		case *ast.Ident:
			return inner.IsExported()
		default:
			return true
		}
	}
}

func undocumentedSpec(decl *ast.GenDecl, spec ast.Spec) []*ast.Ident {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		if decl.Doc != nil || spec.Doc != nil || spec.Comment != nil {
			return nil
		}
		var names []*ast.Ident
		for _, name := range spec.Names {
			if name.IsExported() {
				names = append(names, name)
			}
		}
		return names
	case *ast.TypeSpec:
		if spec.Name.IsExported() && typeDoc(decl, spec) == "" {
			return []*ast.Ident{spec.Name}
		}
	}
	return nil
}

func typeDoc(decl *ast.GenDecl, spec *ast.TypeSpec) string {
	if spec.Doc == nil && len(decl.Specs) == 1 {
		return decl.Doc.Text()
	}
	return spec.Doc.Text()
}

func (t *tree) undocumentedFields() []violation {
	var found []violation
	told := make(map[string]bool) // package and name
	var bare []violation
	var keys []string
	for f := range t.shipped {
		for _, decl := range f.ast.Decls {
			for name, documented := range fieldsOf(decl) {
				key := f.pkg() + " " + name.Name
				if documented {
					told[key] = true
				} else {
					keys = append(keys, key)
					bare = append(bare, t.at(f, name.Pos(), name.Name+" has no doc", wantDoc))
				}
			}
		}
	}
	for i, v := range bare {
		if !told[keys[i]] {
			found = append(found, v)
		}
	}
	return found
}

// fieldsOf yields the exported fields and interface methods of the exported types
// that decl declares, and whether each has a doc.
func fieldsOf(decl ast.Decl) iter.Seq2[*ast.Ident, bool] {
	return func(yield func(*ast.Ident, bool) bool) {
		group, ok := decl.(*ast.GenDecl)
		if !ok {
			return
		}
		for _, spec := range group.Specs {
			spec, ok := spec.(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() {
				continue
			}
			var list *ast.FieldList
			switch typ := spec.Type.(type) {
			case *ast.StructType:
				list = typ.Fields
			case *ast.InterfaceType:
				list = typ.Methods
			default:
				continue
			}
			for _, field := range list.List {
				for _, name := range field.Names {
					if name.IsExported() && !yield(name, fieldDocumented(field, name.Name, typeDoc(group, spec))) {
						return
					}
				}
			}
		}
	}
}

func fieldDocumented(field *ast.Field, name, doc string) bool {
	if field.Doc != nil || field.Comment != nil {
		return true
	}
	typ := types.ExprString(field.Type)
	typ = typ[strings.LastIndexAny(typ, ".]*")+1:]
	return name == typ || name == typ+"s" || regexp.MustCompile(`\b`+name+`\b`).MatchString(doc)
}

// openEnd matches a note to do something later, unless it names an issue.
var openEnd = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b(\(#\d+\): )?`)

func checkOpenEnds(t *tree) []violation {
	var found []violation
	for f := range t.written {
		for _, group := range f.ast.Comments {
			for _, comment := range group.List {
				for _, match := range openEnd.FindAllStringSubmatchIndex(comment.Text, -1) {
					if match[4] < 0 {
						found = append(found, t.at(f, comment.Pos()+token.Pos(match[0]), "leaves something open", "do it now, or open an issue and write TODO(#12): with what is missing"))
					}
				}
			}
		}
	}
	return found
}
