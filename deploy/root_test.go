package deploy_test

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRelease makes all that a release has, in two places, compares the bytes, and then lives with it: the package under a systemd
// that it boots, the image as a container runs it. It takes minutes and needs root: make test-root.
func TestRelease(t *testing.T) {
	if os.Getenv("QUOTAD_ROOT") == "" {
		t.Skip("takes minutes, and needs root; QUOTAD_ROOT=1 runs it (make test-root)")
	}
	need(t, "git", "dpkg-deb")
	const version = "v1.98.7-rc.1"
	here, there := tree(t, version), tree(t, version)
	// The second has an empty cache: what is compared was compiled twice.
	release(t, here, "ARCHES=amd64 arm64")
	release(t, there, "ARCHES=amd64", "GOCACHE="+filepath.Join(t.TempDir(), "cache"))

	t.Run("version", func(t *testing.T) { checkVersion(t, here, version) })
	t.Run("static", func(t *testing.T) { checkStatic(t, here) })
	t.Run("package", func(t *testing.T) { checkPackage(t, here, there) })
	t.Run("image", func(t *testing.T) { checkImage(t, here, there) })
	t.Run("same", func(t *testing.T) { checkSame(t, here, there) })
}

// tree copies the files of the repository, with what is not committed yet, into a repository of their own with a tag: so that what
// is built is what is here, with a version that is known.
func tree(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	files := strings.SplitSeq(run(t, "..", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00")
	for name := range files {
		from, to := filepath.Join("..", name), filepath.Join(dir, name)
		info, err := os.Lstat(from)
		if name == "" || errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil && info.Mode().IsRegular() {
			var text []byte
			if text, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(to, text, info.Mode().Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const when = "2026-01-02T03:04:05Z"
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "--all"}, {"commit", "--quiet", "--message=all"}, {"tag", version}} {
		command := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=quotad", "-c", "user.email=quotad@quotad.invalid"}, args...)...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+when, "GIT_COMMITTER_DATE="+when)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	return dir
}

func release(t *testing.T, dir string, env ...string) {
	t.Helper()
	script(t, dir, "release", env...)
}

// script runs deploy/NAME/build in a copy of the repository.
func script(t *testing.T, dir, name string, env ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(dir, "deploy", name, "build"))
	command.Env = append(os.Environ(), append([]string{"VERSION=", "DIST=dist"}, env...)...)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("deploy/%s/build: %v\n%s", name, err, out)
	}
}

func checkVersion(t *testing.T, dir, version string) {
	t.Helper()
	if out := run(t, dir, "dist/linux-amd64/quotad", "--version"); !strings.HasPrefix(out, "quotad "+version+" (commit ") {
		t.Errorf("quotad says %q, want %s", out, version)
	}
	if out := run(t, dir, "dist/linux-amd64/quotactl", "--server", "127.0.0.1:1", "version"); !strings.HasPrefix(out, "quotactl "+version+"\n") {
		t.Errorf("quotactl says %q, want %s", out, version)
	}
	command := exec.CommandContext(t.Context(), filepath.Join(dir, "deploy/release/build"))
	command.Env = append(os.Environ(), "VERSION=v1.98.8", "ARCHES=amd64", "DIST="+t.TempDir())
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "this is "+version+", not v1.98.8") {
		t.Errorf("a release that is called another version: %v\n%s", err, out)
	}
}

// checkStatic wants binaries that need no library and no loader of the system they run on.
func checkStatic(t *testing.T, dir string) {
	t.Helper()
	dynamic := func(path string) (found []string) {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_INTERP {
				found = append(found, p.Type.String())
			}
		}
		return found
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for arch, machine := range machines {
		for _, name := range []string{"quotad", "quotactl"} {
			path := filepath.Join(dir, "dist", "linux-"+arch, name)
			if found := dynamic(path); len(found) > 0 {
				t.Errorf("%s has %s", path, found)
			}
			f, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if f.Machine != machine {
				t.Errorf("%s is for %s", path, f.Machine)
			}
			f.Close()
		}
	}
	if found := dynamic("/bin/sh"); len(found) == 0 {
		t.Error("control: /bin/sh is static")
	}
}

// checkSame compares all that came out of the two places, and shows that places can be told apart at all.
func checkSame(t *testing.T, here, there string) {
	t.Helper()
	sums := func(dir string) map[string]string {
		byName := make(map[string]string)
		for line := range strings.Lines(run(t, filepath.Join(dir, "dist"), "bash", "-c", "sha256sum quotad_* linux-*/*")) {
			f := strings.Fields(line)
			byName[f[1]] = f[0]
		}
		return byName
	}
	a, b := sums(here), sums(there)
	if len(b) < 6 {
		t.Errorf("only %d files are compared", len(b))
	}
	for name, sum := range b {
		if a[name] != sum {
			t.Errorf("%s is %s in one place and %s in another", name, a[name], sum)
		}
	}
	run(t, filepath.Join(here, "dist"), "sha256sum", "--check", "--strict", "SHA256SUMS")
	var untrimmed []string
	for _, dir := range []string{here, there} {
		path := filepath.Join(t.TempDir(), "sbom")
		run(t, dir, "go", "build", "-o", path, "./deploy/release/sbom")
		sum := sha256.Sum256([]byte(read(t, path)))
		untrimmed = append(untrimmed, hex.EncodeToString(sum[:]))
	}
	if untrimmed[0] == untrimmed[1] {
		t.Error("control: without -trimpath a program is the same in both places")
	}
}

// verdicts turns what a trial printed into tests.
func verdicts(t *testing.T, out string) {
	t.Helper()
	if !strings.HasSuffix(out, "\nend\n") {
		t.Error("it did not come to its end")
	}
	n := 0
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "ok "):
			n++
		case strings.HasPrefix(line, "not ok "):
			t.Error(strings.TrimSpace(line))
		}
	}
	t.Logf("%d are ok", n)
	if t.Failed() || n == 0 {
		t.Errorf("all of it:\n%s", out)
	}
}

// trial lays out what a script of testdata needs.
func trial(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "lib.sh"), read(t, "testdata/lib.sh"))
	write(t, filepath.Join(dir, "script"), read(t, filepath.Join("testdata", name)))
	return dir
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// checkPackage boots a systemd in namespaces, over a layer that is thrown away, and lets the package have its life there.
func checkPackage(t *testing.T, here, there string) {
	t.Helper()
	script(t, here, "debian", "ARCHES=amd64")
	script(t, there, "debian", "ARCHES=amd64")
	asRoot(t)
	need(t, "unshare", "setpriv", "nsenter", "systemd-sysusers")
	dir := trial(t, "package.sh")
	made, err := filepath.Glob(filepath.Join(here, "dist", "*_amd64.deb"))
	if err != nil || len(made) != 1 {
		t.Fatalf("the packages are %q (%v), want one", made, err)
	}
	if filepath.Base(made[0]) != "quotad_1.98.7~rc.1_amd64.deb" {
		t.Errorf("the package is %s", made[0])
	}
	write(t, filepath.Join(dir, "quotad.deb"), read(t, made[0]))
	command := exec.CommandContext(t.Context(), "bash", "testdata/boot", dir)
	command.Env = append(os.Environ(), "TRIAL_SECONDS=240")
	said, err := command.CombinedOutput()
	if command.ProcessState.ExitCode() == 75 {
		t.Skipf("systemd cannot be booted in namespaces here\n%s", said)
	}
	if err != nil {
		t.Errorf("%v\n%s\n%s", err, said, read(t, filepath.Join(dir, "console")))
	}
	verdicts(t, read(t, filepath.Join(dir, "out")))
}

// ociIndex, ociManifest and ociConfig are what is looked at of an image.
type (
	ociRef   struct{ Digest string }
	ociIndex struct {
		Manifests []ociRef
	}
	ociManifest struct {
		Config ociRef
		Layers []ociRef
	}
	ociConfig struct {
		Created, Architecture, OS string
		Config                    struct {
			User            string
			Env, Entrypoint []string
			Volumes         map[string]any
			Labels          map[string]string
		}
	}
)

func checkImage(t *testing.T, here, there string) {
	t.Helper()
	need(t, "buildah")
	script(t, here, "image", "ARCHES=amd64 arm64")
	script(t, there, "image", "ARCHES=amd64")
	asRoot(t)
	need(t, "unshare", "setpriv", "ip")
	dir := trial(t, "image.sh")
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := unpack(t, filepath.Join(here, "dist", "quotad_v1.98.7-rc.1_linux_amd64.oci.tar"), filepath.Join(dir, "root"))
	if config.Architecture != "amd64" || config.OS != "linux" || config.Created != "2026-01-02T03:04:05Z" {
		t.Errorf("it is for %s/%s, of %s", config.OS, config.Architecture, config.Created)
	}
	c := config.Config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/quotad"}) || !slices.Contains(c.Env, "QUOTAD_DATA=/data") || c.Volumes != nil {
		t.Errorf("it runs as %+v", c)
	}
	if c.Labels["org.opencontainers.image.version"] != "v1.98.7-rc.1" {
		t.Errorf("its labels are %v", c.Labels)
	}
	var names []string
	for line := range strings.Lines(run(t, filepath.Join(dir, "root"), "find", ".", "-mindepth", "1", "-printf", "%P %m %U:%G\n")) {
		names = append(names, strings.TrimSpace(line))
	}
	slices.Sort(names)
	if want := []string{"data 700 65532:65532", "quotactl 755 0:0", "quotad 755 0:0"}; !slices.Equal(names, want) {
		t.Errorf("it has %q, want %q", names, want)
	}
	out, err := try(t, "", "unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "--",
		"bash", filepath.Join(dir, "script"), dir)
	if err != nil {
		t.Error(err)
	}
	verdicts(t, out)
}

// unpack writes the files of an image into a directory, and returns how it is to be run.
func unpack(t *testing.T, archive, root string) (config ociConfig) {
	t.Helper()
	dir := t.TempDir()
	run(t, dir, "tar", "--extract", "--file", archive)
	blob := func(ref ociRef) string { return filepath.Join(dir, "blobs", strings.ReplaceAll(ref.Digest, ":", "/")) }
	parse := func(path string, v any) {
		if err := json.Unmarshal([]byte(read(t, path)), v); err != nil {
			t.Fatal(err)
		}
	}
	var index ociIndex
	var manifest ociManifest
	parse(filepath.Join(dir, "index.json"), &index)
	parse(blob(index.Manifests[0]), &manifest)
	parse(blob(manifest.Config), &config)
	for _, layer := range manifest.Layers {
		run(t, root, "tar", "--extract", "--same-owner", "--same-permissions", "--numeric-owner", "--file", blob(layer))
	}
	return config
}
