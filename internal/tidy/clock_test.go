package tidy

import (
	"go/ast"
	"go/token"
)

// clockAllowed is where the wall clock may be read. Everywhere else an instant is
// a parameter, or comes from a Now field that tests set.
var clockAllowed = []exemption{
	{"cmd/", "main packages pass the clock on"},
	{"client/options.go", "the default of WithClock"},
	{"bedrock/guard.go", "the default of WithClock"},
	{"internal/store/boltengine/boltengine.go", "the default of Options.Now"},
	{"internal/server/tls.go", "the default of CertificateFiles.Now, as TLS goes by the machine's clock, too"},
	{"internal/store/store.go", "the defaults of Options.Now and Options.Uptime"},
}

func checkClock(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		for _, use := range uses(f, "time", "Now", "Since", "Until") {
			found = append(found, t.at(f, use.Pos(), "reads the clock by time."+use.Sel.Name, "take the instant as a parameter, or a Now func() time.Time in Options"))
		}
	}
	return t.except(clockAllowed, found)
}

// checkMidnight finds days that are taken to begin at midnight. In a score of
// zones some days do not: the clocks change then, and 00:00 comes twice or never.
func checkMidnight(t *tree) []violation {
	var found []violation
	for f := range t.shipped {
		if f.pkg() == "internal/window" || localName(f, "time") == "" {
			continue
		}
		dates := make(map[ast.Node]bool)
		for _, use := range uses(f, "time", "Date") {
			dates[use] = true
		}
		for n := range ast.Preorder(f.ast) {
			call, ok := n.(*ast.CallExpr)
			if ok && dates[call.Fun] && len(call.Args) == 8 && zero(call.Args[3]) && zero(call.Args[4]) && zero(call.Args[5]) {
				found = append(found, t.at(f, call.Pos(), "takes 00:00 for the start of a day", "ask internal/window, which knows the days that begin at another time"))
			}
		}
	}
	return found
}

func zero(e ast.Expr) bool {
	literal, ok := e.(*ast.BasicLit)
	return ok && literal.Value == "0"
}

// checkSleep finds tests that wait for the wall clock without a reason. A test
// with a synctest bubble is taken to sleep inside it, where time is free.
func checkSleep(t *tree) []violation {
	var found []violation
	for f := range t.written {
		if !f.test || localName(f, "testing/synctest") != "" {
			continue
		}
		for _, use := range uses(f, "time", "Sleep") {
			if !t.explained(f, use.Pos()) {
				found = append(found, t.at(f, use.Pos(), "a test that sleeps", "wait for a signal, use synctest, or say in a comment above why it must sleep"))
			}
		}
	}
	return found
}

// explained reports whether a comment stands on the line of pos or right above it.
func (t *tree) explained(f *file, pos token.Pos) bool {
	line := t.line(pos)
	for _, group := range f.ast.Comments {
		if end := t.line(group.End()); end == line || end == line-1 {
			return true
		}
	}
	return false
}
