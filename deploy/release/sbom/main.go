// Command sbom writes what a Go binary is made of, as a CycloneDX document: from what the go command noted in the binary itself, so
// that the document is about these bytes and not about a repository.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 || strings.HasPrefix(os.Args[1], "-") {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY >FILE")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// The parts of CycloneDX 1.6 that are used, by the names that they have there.
type (
	document struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp,omitempty"` // of the commit: a document about the same bytes is the same
		Component component `json:"component"`
	}
	component struct {
		Ref        string     `json:"bom-ref"`
		Type       string     `json:"type"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		Scope      string     `json:"scope,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		PURL       string     `json:"purl,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

// write writes the document about the binary at path.
func write(w io.Writer, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("what %s was built from: %w", path, err)
	}
	text, err := json.MarshalIndent(describe(filepath.Base(path), sha256.Sum256(content), info), "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// describe makes the document: the binary, and each module that something was linked in from, the standard library among them.
func describe(name string, sum [sha256.Size]byte, info *debug.BuildInfo) document {
	root := moduleComponent(info.Main)
	root.Type, root.Name = "application", name
	root.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum[:])}}
	d := document{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial: "urn:uuid:" + uuid(sum),
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			d.Metadata.Timestamp = s.Value
		}
		if strings.HasPrefix(s.Key, "-") || strings.HasPrefix(s.Key, "vcs") || strings.HasPrefix(s.Key, "GO") || s.Key == "CGO_ENABLED" {
			root.Properties = append(root.Properties, property{"go:build:" + s.Key, s.Value})
		}
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	d.Components = []component{{
		Ref: "pkg:golang/std@" + version, PURL: "pkg:golang/std@" + version,
		Type: "library", Name: "std", Version: version, Scope: "required",
	}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		d.Components = append(d.Components, moduleComponent(*m))
	}
	slices.SortFunc(d.Components, func(a, b component) int { return strings.Compare(a.Ref, b.Ref) })
	all := make([]string, len(d.Components))
	for i, c := range d.Components {
		all[i] = c.Ref
	}
	// Which module asked for which is not in a binary: all that is in it is what it depends on.
	d.Dependencies = []dependency{{Ref: root.Ref, DependsOn: all}}
	for _, ref := range all {
		d.Dependencies = append(d.Dependencies, dependency{Ref: ref})
	}
	d.Metadata.Component = root
	return d
}

func moduleComponent(m debug.Module) component {
	purl := "pkg:golang/" + escape(m.Path) + "@" + url.QueryEscape(m.Version)
	c := component{Ref: purl, PURL: purl, Type: "library", Name: m.Path, Version: m.Version, Scope: "required"}
	if m.Sum != "" {
		// A hash over a module's files, as go.sum has it, which none of CycloneDX's algorithms is.
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c
}

// escape encodes each segment of a module's path, as a package URL has it.
func escape(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

// uuid makes an identifier of the document from the binary's hash, in the form of version 8 of RFC 9562: another binary has another.
func uuid(sum [sha256.Size]byte) string {
	id := sum[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	x := hex.EncodeToString(id)
	return strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
}
