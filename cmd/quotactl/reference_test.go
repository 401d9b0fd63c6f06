package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const (
	docFile = "../../docs/quotactl.md"
	docMark = "<!-- What follows is written by: UPDATE=1 go test ./cmd/quotactl -run TestReference -->\n"
)

// ask runs quotactl where there is no daemon, and returns what it printed.
func ask(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, env{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, now: time.Now,
		getenv: func(string) string { return "" }, isTerminal: func(int) bool { return false },
	})
	return stdout.String(), stderr.String(), code
}

func testRoot() *cobra.Command {
	a := &app{env: env{getenv: func(string) string { return "" }}}
	root := a.rootCommand()
	root.InitDefaultHelpCmd()
	return root
}

// reference is what quotactl says about itself.
func reference(t *testing.T) string {
	t.Helper()
	var s strings.Builder
	section := func(args ...string) {
		help, errs, code := ask(t, append([]string{"help"}, args...)...)
		if code != 0 || errs != "" {
			t.Fatalf("quotactl help %v: exit %d, %s", args, code, errs)
		}
		again, _, _ := ask(t, append(args, "--help")...)
		if again != help {
			t.Errorf("quotactl help %v and quotactl %v --help differ:\n%s", args, args, cmp.Diff(help, again))
		}
		fmt.Fprintf(&s, "\n### quotactl %s\n\n```text\n%s```\n", strings.Join(args, " "), help)
	}
	section()
	for _, c := range testRoot().Commands() {
		if c.Name() != "help" {
			section(c.Name())
		}
		for _, below := range c.Commands() {
			section(c.Name(), below.Name())
		}
	}
	return strings.Replace(s.String(), "### quotactl \n", "### quotactl\n", 1)
}

// TestReference holds the second part of the document against the commands: all of them, with all their flags, and no others.
func TestReference(t *testing.T) {
	t.Parallel()
	want := reference(t)
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	guide, got, found := strings.Cut(string(text), docMark)
	if !found {
		t.Fatalf("%s has no line %q", docFile, docMark)
	}
	if os.Getenv("UPDATE") != "" && got != want {
		if err := os.WriteFile(docFile, []byte(guide+docMark+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is out of date; UPDATE=1 go test ./cmd/quotactl -run TestReference writes it anew (-want +got):\n%s", docFile, diff)
	}
}

// strangers returns the commands and flags of quotactl that a text names and that do not exist.
func strangers(root *cobra.Command, text string) []string {
	flags := map[string]bool{"--help": true}
	commands := map[string]bool{"quotactl help": true}
	note := func(c *cobra.Command) {
		for line := range strings.FieldsSeq(c.LocalFlags().FlagUsages() + c.PersistentFlags().FlagUsages()) {
			flags[line] = true
		}
	}
	note(root)
	for _, c := range root.Commands() {
		commands["quotactl "+c.Name()] = true
		note(c)
		for _, below := range c.Commands() {
			note(below)
		}
	}
	var found []string
	for _, name := range regexp.MustCompile("quotactl [a-z_]+").FindAllString(text, -1) {
		if !commands[name] {
			found = append(found, name)
		}
	}
	for _, name := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(text, -1) {
		if !flags[name] {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// TestGuide holds the first part of the document, and the hints, against the commands.
func TestGuide(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	guide, _, _ := strings.Cut(string(text), docMark)
	for _, hint := range reasonHints {
		guide += hint + "\n"
	}
	// What is the daemon's, or a word and no command.
	ours := strings.NewReplacer("quotad --dev", "", "quotad --buckets", "", "quotactl exits", "", "quotactl works", "", "quotactl was", "").Replace(guide)
	if found := strangers(testRoot(), ours); len(found) > 0 {
		t.Errorf("%s or a hint names what does not exist: %q", docFile, found)
	}
	if found := strangers(testRoot(), "quotactl aquire --celing 5, quotactl get --color never"); !slices.Equal(found, []string{"--celing", "quotactl aquire"}) {
		t.Errorf("control: found %q", found)
	}
}

// TestEveryCommandIsScripted wants each command, and each of its flags, worked by a script against a real daemon.
func TestEveryCommandIsScripted(t *testing.T) {
	t.Parallel()
	scripts, err := os.ReadDir("testdata/script")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, s := range scripts {
		text, err := os.ReadFile("testdata/script/" + s.Name())
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	commands := testRoot().Commands()
	for _, c := range commands {
		commands = append(commands, c.Commands()...)
	}
	for _, c := range commands {
		name := strings.TrimPrefix(c.CommandPath(), "quotactl ")
		calls := regexp.MustCompile(`(?m)^!? ?(ctl|exec quotactl)( -tty)? `+name+`\b.*$`).FindAllString(all.String(), -1)
		if len(calls) == 0 {
			t.Errorf("no script calls quotactl %s", name)
			continue
		}
		for _, flag := range flagsOf(c) {
			if !strings.Contains(strings.Join(calls, "\n")+" ", flag) {
				t.Errorf("no script calls quotactl %s with %s", name, flag)
			}
		}
	}
}

// flagsOf lists a command's own flags, by the name that scripts use.
func flagsOf(c *cobra.Command) []string {
	var names []string
	for word := range strings.FieldsSeq(c.LocalNonPersistentFlags().FlagUsages()) {
		if strings.HasPrefix(word, "--") && word != "--help" {
			names = append(names, word)
		}
	}
	return names
}
