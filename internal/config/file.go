package config

import (
	"fmt"
	"io"
	"os"

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
