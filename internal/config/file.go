package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/quotad/quotad/internal/strictyaml"
)

// file is a file of ours while it is read.
type file struct{ *strictyaml.File }

// readFile returns the content of a file that is not larger than most bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // names the act and the path
	}
	defer f.Close() //nolint:errcheck // only read
	src, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(src)) > most {
		return nil, fmt.Errorf("%s is too large: at most %s", path, formatSize(most))
	}
	return src, nil
}

// parseFile returns the top mapping of a YAML text; none of an empty one.
func parseFile(name string, src []byte) (file, []strictyaml.Entry) {
	f, top := strictyaml.Parse(name, src)
	if top.Kind == strictyaml.Nothing {
		return file{f}, nil
	}
	return file{f}, f.Mapping(top, "the file")
}

// What is not shown of a configuration file, wherever it stands: the values of keys that are unsaid, tokens, and URLs, which may be
// that of a webhook in the wrong place or under a name that is no key.
var (
	afterUnsaid = regexp.MustCompile(`(?:webhook|otlp-endpoint)["']?[ \t]*:[ \t]*(.*)`)
	tokenLike   = regexp.MustCompile(`(quotad_[A-Za-z0-9_-]{16,})`)
	urlLike     = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://([^ \t"']+)`)
)

// masked returns what is wrong in a configuration file without what may be a secret in it. Columns stay as they are.
func masked(err error) error {
	faults, ok := errors.AsType[strictyaml.Faults](err)
	if !ok {
		return err
	}
	faults = slices.Clone(faults)
	for i := range faults {
		for _, text := range []*string{&faults[i].Text, &faults[i].Source} {
			*text = stars(urlLike, stars(tokenLike, *text))
		}
		faults[i].Source = stars(afterUnsaid, faults[i].Source)
	}
	return faults
}

// stars puts a star in place of each character of what a pattern's group matches. Addresses of sockets look like URLs, and are none.
func stars(what *regexp.Regexp, text string) string {
	var s strings.Builder
	end := 0
	for _, at := range what.FindAllStringSubmatchIndex(text, -1) {
		if whole := text[at[0]:at[1]]; strings.HasPrefix(whole, "unix://") || strings.HasPrefix(whole, "fd://") {
			continue
		}
		s.WriteString(text[end:at[2]])
		s.WriteString(strings.Repeat("*", utf8.RuneCountInString(text[at[2]:at[3]])))
		end = at[3]
	}
	return s.String() + text[end:]
}
