package client

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzOpenJournal opens any bytes: no panic, nothing deleted but what a crash leaves behind the last whole line, and what was read is
// read again.
func FuzzOpenJournal(f *testing.F) {
	data, _ := written(f)
	f.Add(data, false)
	f.Add(data[:len(data)-5], false)
	f.Add([]byte(journalHeader+sumRoom+`{"seq":1,"release":{"requestId":"a"},"done":[1,18446744073709551615]}`+"\n"), true)
	f.Add([]byte("quotad-journal 2\n"), false)
	f.Add([]byte{}, false)
	path := filepath.Join(quickDir(f), "j")
	f.Fuzz(func(t *testing.T, data []byte, sum bool) {
		if sum { // get past the checksums
			var file []byte
			for line := range bytes.Lines(data) {
				line = bytes.Clone(line)
				if len(file) > 0 && len(line) > sumLength+1 && line[len(line)-1] == '\n' {
					line = summed(line)
				}
				file = append(file, line...)
			}
			data = file
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, got, err := openJournal(path)
		if err == nil {
			crash(t, j)
		}
		after, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if !bytes.Equal(after, data) {
				t.Fatalf("refused (%v), and changed", err)
			}
			return
		}
		if begun := strings.HasPrefix(journalHeader, string(data)) && string(after) == journalHeader; !begun {
			cut, shorter := bytes.CutPrefix(data, after)
			if !shorter || bytes.ContainsRune(cut[:max(0, len(cut)-1)], '\n') {
				t.Fatalf("%q was made of it", after)
			}
		}
		j, again := mustOpen(t, path)
		crash(t, j)
		if diff := different(got, again); diff != "" {
			t.Fatalf("read again (-first +second):\n%s", diff)
		}
	})
}
