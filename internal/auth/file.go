package auth

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/quotad/quotad/internal/strictyaml"
)

// readFile returns the content of a file that is not larger than most bytes.
func readFile(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // names the act and the path
	}
	defer f.Close() //nolint:errcheck // only read
	src, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return src, nil
}

// form is what makes a kind of file.
type form struct {
	key      string         // the only one at the top
	bytesMax int            // how large it may be
	empty    string         // what to say about a file with nothing in it
	secret   *regexp.Regexp // what must not stand in it
	masked   *regexp.Regexp // what is not shown of it besides tokens
}

// open parses a file of a form and returns what stands below its key.
func (form form) open(name string, src []byte) (*strictyaml.File, []strictyaml.Entry) {
	if len(src) > form.bytesMax {
		f, _ := strictyaml.Parse(name, nil)
		f.Fault(strictyaml.Place{}, "is too large: at most %d bytes", form.bytesMax)
		return f, nil
	}
	f, top := strictyaml.Parse(name, src)
	form.noSecrets(f, src)
	if top.Kind == strictyaml.Nothing {
		if f.Err() == nil {
			// A file that is empty is more likely a slip (a truncated write, a wrong path) than the wish to lock everybody out.
			f.Fault(strictyaml.Place{}, "%s", form.empty)
		}
		return f, nil
	}
	var entries []strictyaml.Entry
	keys := f.Mapping(top, "the file")
	if len(keys) == 0 && f.Err() == nil {
		f.Fault(strictyaml.Place{}, "%s", form.empty)
	}
	for _, e := range keys {
		if e.Key != form.key {
			f.Fault(e.At, "unknown key %q%s", shorten(e.Key), strictyaml.Instead(e.Key, []string{form.key}, strconv.Quote))
			continue
		}
		entries = f.Mapping(e.Value, form.key)
	}
	return f, entries
}

// noSecrets finds tokens in a text, also in its comments. Who may read a file that holds one may use it.
func (form form) noSecrets(f *strictyaml.File, src []byte) {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(src))
	for i, line := range strings.Split(text, "\n") {
		if at := form.secret.FindStringIndex(line); at != nil {
			f.Fault(strictyaml.Place{Line: i + 1, Column: utf8.RuneCountInString(line[:at[0]]) + 1, Width: at[1] - at[0]},
				"looks like a token; take it out, and revoke it if it is one: whoever has seen this file could use it")
		}
	}
}

// err returns what is wrong in a file, without anything that may be a token; nil if nothing is.
func (form form) err(f *strictyaml.File) error {
	faults, ok := errors.AsType[strictyaml.Faults](f.Err())
	if !ok {
		return f.Err()
	}
	for i := range faults {
		for _, text := range []*string{&faults[i].Text, &faults[i].Source} {
			*text = stars(form.masked, stars(secretLike, *text))
		}
	}
	return faults
}
