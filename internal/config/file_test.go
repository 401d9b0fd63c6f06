package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestFaults reads files in which something is wrong. What is said of each is in the .want file beside it, as a person has
// read it.
func TestFaults(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(name string, src []byte) error{
		"config": func(name string, src []byte) error {
			return (&Config{origins: map[string]string{}}).applyFile(name, src)
		},
		"buckets": func(name string, src []byte) error {
			_, err := ParseBuckets(name, src)
			return err
		},
	}
	for kind, parse := range kinds {
		paths, err := filepath.Glob(filepath.Join("testdata", kind, "*.yaml"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: no files (%v)", kind, err)
		}
		for _, path := range paths {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			err = parse(filepath.Base(path), src)
			if err == nil {
				t.Errorf("%s: no error", path)
				continue
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".want", []byte(err.Error()+"\n"))
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s (-update writes it anew):\n got %s\nwant %s", path, got, want)
	}
}

// FuzzConfigFile: no file makes the parser fall over, and each fault points into the file.
func FuzzConfigFile(f *testing.F) {
	seed(f, "config")
	f.Add([]byte("data: /var/lib/quotad\nlisten: [127.0.0.1:0, unix:///run/q.sock]\ndefault: off\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c := &Config{origins: map[string]string{}}
		checkFaults(t, src, c.applyFile("x.yaml", src))
	})
}

func seed(f *testing.F, kind string) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", kind, "*.yaml"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if len(src) < 10_000 {
			f.Add(src)
		}
	}
}

func checkFaults(t *testing.T, src []byte, err error) {
	t.Helper()
	if err == nil {
		return
	}
	faults, ok := err.(strictyaml.Faults)
	if !ok || len(faults) == 0 {
		t.Fatalf("error is a %T: %v", err, err)
	}
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(src)), "\n")
	for _, fault := range faults {
		if fault.Text == "" || fault.Line < 0 || fault.Line > len(lines) || fault.Line > 0 && fault.Column < 1 {
			t.Errorf("fault %+v in a file of %d lines", fault, len(lines))
		}
		if text := fault.String(); strings.ContainsAny(text, "\x00\x1b\x7f") {
			t.Errorf("a terminal would obey %q", text)
		}
	}
}
