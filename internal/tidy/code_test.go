package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

const (
	maxFunctionLines = 70
	maxFileLines     = 600
)

// checkFunctionLength counts from the line of "func" to that of the last brace.
// Docs do not count, comments inside do.
func checkFunctionLength(t *tree) []violation {
	var found []violation
	for f := range t.written {
		for _, decl := range f.ast.Decls {
			for n := range ast.Preorder(decl) {
				var name string
				switch n := n.(type) {
				case *ast.FuncDecl:
					name = n.Name.Name
				case *ast.FuncLit:
					name = "a function literal"
				default:
					continue
				}
				if lines := t.line(n.End()) - t.line(n.Pos()) + 1; lines > maxFunctionLines {
					found = append(found, t.at(f, n.Pos(), fmt.Sprintf("%s has %d lines", name, lines), fmt.Sprintf("%d at most: give a part of it a name", maxFunctionLines)))
					break // what it holds is part of the same finding
				}
			}
		}
	}
	return found
}

func checkFileLength(t *tree) []violation {
	var found []violation
	for f := range t.written {
		if lines := strings.Count(f.text, "\n"); lines >= maxFileLines {
			found = append(found, violation{f.path, 0, fmt.Sprintf("has %d lines", lines), fmt.Sprintf("fewer than %d: would it be easier as two rooms?", maxFileLines)})
		}
	}
	return found
}

// checkErrorTexts keeps errors short when they are wrapped again and again: each
// says what was being done, and that it failed is what makes it an error.
func checkErrorTexts(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		for n := range ast.Preorder(f.ast) {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				continue
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "Errorf" && fun.Sel.Name != "New" {
				continue
			}
			if x, ok := fun.X.(*ast.Ident); !ok || x.Name != "fmt" && x.Name != "errors" {
				continue
			}
			for _, filler := range []string{"failed to", "unable to", "could not", "error while", "error when"} {
				if text, ok := call.Args[0].(*ast.BasicLit); ok && strings.Contains(strings.ToLower(text.Value), filler) {
					found = append(found, t.at(f, text.Pos(), "an error says "+strconv.Quote(filler), `name the act alone, as in "opening %s: %w"`))
				}
			}
		}
	}
	return found
}

// panicAllowed is where functions panic for a living.
var panicAllowed = []exemption{
	{"internal/store/enginetest/", "it panics inside transactions, to see what engines make of it"},
}

// checkPanic finds panics that do not say what was taken for certain. A panic ends
// the daemon, so that it must be an assertion and not an error: its text begins
// with the package's name, or a comment above it gives the reason. What was
// recovered may go on.
func checkPanic(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		caught := recovered(f)
		for n := range ast.Preorder(f.ast) {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				continue
			}
			if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != "panic" || name.Obj != nil {
				continue
			}
			if value, ok := call.Args[0].(*ast.Ident); ok && value.Obj != nil && caught[value.Obj.Decl] {
				continue
			}
			if !strings.HasPrefix(firstText(call.Args[0]), `"`+f.ast.Name.Name+": ") && !t.explained(f, call.Pos()) {
				found = append(found, t.at(f, call.Pos(), "panics",
					`return an error; or, if it cannot happen, say "`+f.ast.Name.Name+`: " and what was taken for certain, or say so in a comment above`))
			}
		}
	}
	return t.except(panicAllowed, found)
}

// recovered holds the declarations in f of the form r := recover().
func recovered(f *file) map[any]bool {
	caught := make(map[any]bool)
	for n := range ast.Preorder(f.ast) {
		set, ok := n.(*ast.AssignStmt)
		if !ok || len(set.Lhs) != 1 || len(set.Rhs) != 1 {
			continue
		}
		call, ok := set.Rhs[0].(*ast.CallExpr)
		if !ok {
			continue
		}
		if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "recover" {
			caught[set] = true
		}
	}
	return caught
}

// firstText is the string literal that e begins with, in its quotes: that of
// "a" + b, and of fmt.Sprintf("a %d", b).
func firstText(e ast.Expr) string {
	for {
		switch inner := e.(type) {
		case *ast.BasicLit:
			return inner.Value
		case *ast.BinaryExpr:
			e = inner.X
		case *ast.CallExpr:
			if len(inner.Args) == 0 {
				return ""
			}
			e = inner.Args[0]
		default:
			return ""
		}
	}
}

// globalsAllowed is where a variable of a package may change.
var globalsAllowed = []exemption{
	{"internal/window/zone.go", "a bounded cache of zones, which are the same for everyone and never change"},
}

// checkGlobals finds functions that run before main, and variables of a package
// that change: both make a test depend on the ones before it.
func checkGlobals(t *tree) []violation {
	var found []violation
	variables := make(map[string]bool) // package and name
	for f := range t.shipped {
		for _, decl := range f.ast.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil && decl.Name.Name == "init" {
					found = append(found, t.at(f, decl.Pos(), "has an init function", "let main, or a constructor, do it"))
				}
			case *ast.GenDecl:
				for name := range declared(decl, token.VAR) {
					variables[f.pkg()+" "+name.Name] = name.Name != "_"
				}
			}
		}
	}
	for f := range t.shipped {
		for n := range ast.Preorder(f.ast) {
			for _, target := range assigned(n) {
				if variables[f.pkg()+" "+target.Name] && ofPackage(f, target) {
					found = append(found, t.at(f, target.Pos(), "changes the package variable "+target.Name, "make it a field of what uses it"))
				}
			}
		}
	}
	return t.except(globalsAllowed, found)
}

// declared yields the names that decl declares, if it is of the kind tok.
func declared(decl *ast.GenDecl, tok token.Token) func(func(*ast.Ident) bool) {
	return func(yield func(*ast.Ident) bool) {
		if decl.Tok != tok {
			return
		}
		for _, spec := range decl.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if !yield(name) {
					return
				}
			}
		}
	}
}

// assigned lists the variables that n changes: x = 1, x++, x[k] = 1, x.f = 1.
func assigned(n ast.Node) []*ast.Ident {
	var targets []ast.Expr
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			targets = n.Lhs
		}
	case *ast.IncDecStmt:
		targets = []ast.Expr{n.X}
	}
	var names []*ast.Ident
	for _, target := range targets {
		if name := base(target); name != nil {
			names = append(names, name)
		}
	}
	return names
}

// base is the variable at the bottom of an expression such as x.f[k].
func base(e ast.Expr) *ast.Ident {
	for {
		switch inner := e.(type) {
		case *ast.Ident:
			return inner
		case *ast.IndexExpr:
			e = inner.X
		case *ast.SelectorExpr:
			e = inner.X
		case *ast.StarExpr:
			e = inner.X
		case *ast.ParenExpr:
			e = inner.X
		default:
			return nil
		}
	}
}

// ofPackage reports whether name is not a local variable. The parser resolves
// names within a file, so one that it left open is declared in another file.
func ofPackage(f *file, name *ast.Ident) bool {
	return name.Obj == nil || f.ast.Scope.Lookup(name.Name) == name.Obj
}
