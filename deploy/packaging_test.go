package deploy_test

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// need skips a test without a tool, and fails it in CI, where .ci/run installs what there is in Debian.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" && runtime.GOOS == "linux" {
			t.Fatalf("%s is not here, and CI is set: .ci/run installs it", tool)
		}
		t.Skipf("%s is not here", tool)
	}
}

// run returns what a command prints, and fails the test if it fails.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// units writes the units into a directory, as systemd-analyze wants them, with a program that is there.
func units(t *testing.T, edit func(string) string) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"quotad.service", "quotad.socket", "quotad-control.socket"} {
		path := filepath.Join(dir, name)
		write(t, path, edit(strings.ReplaceAll(read(t, filepath.Join("systemd", name)), "/usr/bin/quotad", "/bin/true")))
		paths = append(paths, path)
	}
	return paths
}

// TestSandbox has systemd judge how much the unit exposes: at most 1.5 of 10.
func TestSandbox(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	judge := func(edit func(string) string) (string, error) {
		return try(t, "", "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", units(t, edit)[0])
	}
	if out, err := judge(func(s string) string { return s }); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := judge(func(s string) string { return strings.ReplaceAll(s, "SystemCallFilter=", "#") }); err == nil {
		t.Errorf("control: without a filter of system calls it passes\n%s", out)
	}
}

// TestUnits has systemd read the units.
func TestUnits(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	verify := func(edit func(string) string) string {
		out, err := try(t, "", "systemd-analyze", append([]string{"verify", "--man=no"}, units(t, edit)...)...)
		var lines []string
		for line := range strings.Lines(out) {
			if strings.Contains(line, "quotad") { // it speaks about the units of this machine, too
				lines = append(lines, line)
			}
		}
		if err != nil {
			lines = append(lines, err.Error())
		}
		return strings.Join(lines, "")
	}
	if out := verify(func(s string) string { return s }); out != "" {
		t.Error(out)
	}
	if out := verify(func(s string) string { return strings.Replace(s, "SocketMode=", "SocketMod=", 1) }); out == "" {
		t.Error("control: SocketMod= is taken")
	}
}

// binaries builds what the tests of the fast tier run.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "..", "go", "build", "-buildvcs=false", "-o", dir+"/", "./cmd/quotad", "./deploy/release/sbom")
	return dir
}

// TestBuilt looks at binaries, built once for all of its parts.
func TestBuilt(t *testing.T) {
	t.Parallel()
	dir := binaries(t)
	t.Run("floors", func(t *testing.T) { t.Parallel(); checkFloors(t, dir) })
	t.Run("sbom", func(t *testing.T) { t.Parallel(); checkSBOM(t, dir) })
	t.Run("settings", func(t *testing.T) { t.Parallel(); checkSettings(t, dir) })
	t.Run("activation", func(t *testing.T) { t.Parallel(); checkActivation(t, dir) })
}

// below returns the modules of a build that are older than the oldest version without an advisory that concerns us.
func below(info *buildinfo.BuildInfo, floors map[string]string) (found []string) {
	for _, m := range info.Deps {
		if floor, ok := floors[m.Path]; ok && older(m.Version, floor) {
			found = append(found, fmt.Sprintf("%s %s is older than %s", m.Path, m.Version, floor))
		}
	}
	return found
}

// older compares versions of three numbers; what follows them counts as equal.
func older(a, b string) bool {
	numbers := func(v string) (n []int) {
		v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "-")
		for part := range strings.SplitSeq(v, ".") {
			i, err := strconv.Atoi(part)
			if err != nil {
				return nil // older than all: a version that cannot be read is not taken for a new one
			}
			n = append(n, i)
		}
		return n
	}
	return slices.Compare(numbers(a), numbers(b)) < 0
}

// checkFloors holds what is linked in at or above the versions that mended what was known to be wrong in the parts that quotad uses:
// it needs no database to be reached.
func checkFloors(t *testing.T, dir string) {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(dir, "quotad"))
	if err != nil {
		t.Fatal(err)
	}
	floors := map[string]string{
		"google.golang.org/grpc":     "v1.83.2", // CVE-2026-84445, a panic on a missing authority; and what came before it
		"google.golang.org/protobuf": "v1.33.0", // GO-2024-2611, an endless loop in protojson
		"golang.org/x/net":           "v0.38.0", // GO-2025-3595; HTTP/2's floods of 2023 and 2024 were mended in 0.17 and 0.23
		"go.etcd.io/bbolt":           "v1.5.0",  // no advisory: its mends of WriteTo and of the freelist
	}
	for path := range floors {
		if !slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == path }) {
			t.Errorf("%s is not linked in: take its floor away", path)
		}
	}
	for _, v := range below(info, floors) {
		t.Error(v)
	}
	if found := below(info, map[string]string{"google.golang.org/grpc": "v1.9999.0"}); len(found) != 1 {
		t.Errorf("control: found %q, want grpc", found)
	}
	if !older("v1.9.0", "v1.10.0") || older("v1.10.0", "v1.9.9") || older("v1.5.0", "v1.5.0") {
		t.Error("control: versions are not compared by number")
	}
}

// bom is what a reader of CycloneDX looks for.
type bom struct {
	Format, Spec, Serial string
	Metadata             struct{ Component bomComponent }
	Components           []bomComponent
	Dependencies         []struct {
		Ref       string
		DependsOn []string
	}
}

type bomComponent struct {
	Ref                       string `json:"bom-ref"`
	Type, Name, Version, PURL string
	Hashes                    []struct{ Alg, Content string }
}

func checkSBOM(t *testing.T, dir string) {
	t.Helper()
	quotad := filepath.Join(dir, "quotad")
	text := run(t, "", filepath.Join(dir, "sbom"), quotad)
	if again := run(t, "", filepath.Join(dir, "sbom"), quotad); again != text {
		t.Error("it is another the second time")
	}
	var head struct {
		BomFormat, SpecVersion, SerialNumber string
		Version                              int
	}
	var b bom
	if err := errors.Join(json.Unmarshal([]byte(text), &head), json.Unmarshal([]byte(text), &b)); err != nil {
		t.Fatal(err)
	}
	if head.BomFormat != "CycloneDX" || head.SpecVersion != "1.6" || head.Version != 1 ||
		!regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(head.SerialNumber) {
		t.Errorf("it begins with %+v", head)
	}
	sum, _, _ := strings.Cut(run(t, "", "sha256sum", quotad), " ")
	if c := b.Metadata.Component; c.Type != "application" || c.Name != "quotad" || len(c.Hashes) != 1 || c.Hashes[0].Content != sum {
		t.Errorf("it is about %+v, want quotad with the hash %s", c, sum)
	}
	listed := make(map[string]string) // version by path
	refs := make(map[string]bool)
	for _, c := range b.Components {
		listed[c.Name] = c.Version
		if refs[c.Ref] || c.Type != "library" || !strings.HasPrefix(c.PURL, "pkg:golang/") {
			t.Errorf("%+v is listed twice, or is no library", c)
		}
		refs[c.Ref] = true
	}
	if want := strings.TrimPrefix(runtime.Version(), "go"); listed["std"] != want {
		t.Errorf("the standard library is %q, want %s", listed["std"], want)
	}
	deps := 0
	for line := range strings.Lines(run(t, "", "go", "version", "-m", quotad)) {
		if f := strings.Fields(line); f[0] == "dep" {
			deps++
			if listed[f[1]] != f[2] {
				t.Errorf("%s is listed with %q, want %s", f[1], listed[f[1]], f[2])
			}
		}
	}
	if deps == 0 || len(b.Components) != deps+1 {
		t.Errorf("%d components, want %d modules and the standard library", len(b.Components), deps)
	}
	if len(b.Dependencies) == 0 || len(b.Dependencies[0].DependsOn) != len(refs) {
		t.Error("quotad does not depend on all that is listed")
	}
	if out, err := try(t, "", filepath.Join(dir, "sbom"), "packaging_test.go"); err == nil {
		t.Errorf("control: what is no binary has an SBOM\n%s", out)
	}
}

// checkSettings reads the file that packages install as it is, and with each of the settings that it shows switched on.
func checkSettings(t *testing.T, dir string) {
	t.Helper()
	quotad, text := filepath.Join(dir, "quotad"), read(t, "systemd/quotad.yaml")
	shown := regexp.MustCompile(`(?m)^#([a-z-]+:)`)
	if n := len(shown.FindAllString(text, -1)); n < 5 {
		t.Errorf("it shows %d settings, want some", n)
	}
	for name, text := range map[string]string{"as it is": text, "all of it": shown.ReplaceAllString(text, "$1")} {
		path := filepath.Join(t.TempDir(), "quotad.yaml")
		write(t, path, text)
		out := run(t, "", quotad, "--config", path, "--data", "/var/lib/quotad", "--print-config")
		for _, want := range []string{`listen: [fd://quotad]`, `control-listen: [fd://control]`} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %s in\n%s", name, want, out)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "quotad.yaml")
	write(t, path, text+"lisen: 127.0.0.1:7070\n")
	if out, err := try(t, "", quotad, "--config", path, "--dev", "--print-config"); err == nil {
		t.Errorf("control: an unknown key is taken\n%s", out)
	}
}

// checkActivation has systemd's own tool open the sockets and start the daemon when somebody connects, with the settings and the
// buckets that packages install; and waits for the daemon to say that it is ready.
func checkActivation(t *testing.T, dir string) {
	t.Helper()
	need(t, "systemd-socket-activate")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	app, control := filepath.Join(dir, "app"), filepath.Join(dir, "control")
	command := exec.CommandContext(ctx, "systemd-socket-activate", "--listen="+app, "--listen="+control, "--fdname=quotad:control",
		"--setenv=NOTIFY_SOCKET="+filepath.Join(dir, "notify"),
		filepath.Join(dir, "quotad"), "--config", "systemd/quotad.yaml", "--buckets", "systemd/buckets.yaml",
		"--data", filepath.Join(dir, "data"), "--create", "--admin-listen", "off")
	var log strings.Builder
	command.Stdout, command.Stderr = &log, &log
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 20 * time.Second
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	var conn net.Conn
	for conn == nil && time.Now().Before(deadline) {
		var d net.Dialer
		if conn, err = d.DialContext(ctx, "unix", app); err != nil {
			// Another process opens the socket, and tells nobody.
			time.Sleep(10 * time.Millisecond)
		}
	}
	if conn == nil {
		t.Fatalf("nobody listens: %v", err)
	}
	_ = conn.Close() // the daemon was started by then
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if err := notify.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 256)
		n, err := notify.Read(buffer)
		if got := string(buffer[:n]); err != nil || got != want {
			t.Errorf("the service manager is told %q (%v), want %s", got, err, want)
		}
		stop() // it exec'd the daemon, whose process this is by now
	}
	if err := command.Wait(); command.ProcessState.ExitCode() != 0 {
		t.Errorf("it ends with %v\n%s", err, &log)
	}
	for _, want := range []string{"unix://" + app, "unix://" + control, `"declared":2`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in its log\n%s", want, &log)
		}
	}
}
