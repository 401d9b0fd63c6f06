package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// TestEmit writes texts that formats like to take for something else, and reads them again.
func TestEmit(t *testing.T) {
	t.Parallel()
	texts := []string{
		"2026-11-22", "yes", "null", "~", "1e3", "0x1", "007", "a: b", "# no", "- x", "a\nb", `"quoted"`, "<b> & 'c'", "", " ", "é", "*", "&a", "!t", "{}", "[",
	}
	for _, text := range texts {
		m := &quotadv1.AuditRecord{Sequence: 1<<63 - 1, Reason: text, Bucket: "acme/*"}
		want := map[string]any{
			"sequence": "9223372036854775807", "principal": "", "action": "", "bucket": "acme/*", "before": "", "after": "", "reason": text, "hash": "",
		}
		for format, read := range map[string]func([]byte, any) error{
			"json": json.Unmarshal,
			"yaml": func(b []byte, v any) error { return yaml.Unmarshal(b, v) },
		} {
			var out bytes.Buffer
			a := &app{env: env{stdout: &out}, output: format}
			var got map[string]any
			if err := a.emit(m, nil); err != nil {
				t.Errorf("%s of %q: %v", format, text, err)
			}
			if err := read(out.Bytes(), &got); err != nil {
				t.Errorf("reading %s of %q: %v\n%s", format, text, err, out.String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s of %q: -want +got:\n%s", format, text, diff)
			}
		}
	}
}

// TestEmitIsStable prints the same message again and again: protojson alone would vary.
func TestEmitIsStable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{env: env{stdout: &out}, output: "json"}
	if err := a.emitLine(&quotadv1.WatchUsageResponse{Full: true}); err != nil {
		t.Fatal(err)
	}
	if want := `{"balances":[],"full":true,"events":[]}` + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	a := &app{env: env{isTerminal: func(int) bool { return false }}, color: "always"}
	table := a.newTable("NAME", "N", "END")
	table.add(words("é"), number(5), words(""))
	table.add(words("longer"), number(1234), cell{text: "x", style: red})
	var s strings.Builder
	table.write(&s)
	plainText := strings.NewReplacer("\x1b[1m", "", "\x1b[31m", "", "\x1b[0m", "").Replace(s.String())
	want := `NAME       N  END
é          5  -
longer  1234  x
`
	if diff := cmp.Diff(want, plainText); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !strings.Contains(s.String(), "\x1b[31mx\x1b[0m\n") {
		t.Errorf("no colour in %q", s.String())
	}
	s.Reset()
	a.newTable("NAME").write(&s)
	if s.String() != "" {
		t.Errorf("a table without rows prints %q", s.String())
	}
}
