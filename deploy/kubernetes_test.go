package deploy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
)

// quotadUser is who quotad is in its image and in the manifests: user, group and fsGroup.
const quotadUser = 65532

// manifests are the directories with quotad's files: those of kustomize, and in QUOTAD_RENDERED those that helm made
// (make kubernetes-check).
func manifests(t *testing.T) []string {
	t.Helper()
	dirs := []string{"kubernetes/shared", "kubernetes/sidecar"}
	if rendered := os.Getenv("QUOTAD_RENDERED"); rendered != "" {
		more, err := filepath.Glob(filepath.Join(rendered, "*"))
		if err != nil || len(more) == 0 {
			t.Fatalf("QUOTAD_RENDERED: nothing in %s (%v)", rendered, err)
		}
		dirs = append(dirs, more...)
	}
	return dirs
}

// TestKubernetesFiles has quotad's own parsers read what the manifests mount.
func TestKubernetesFiles(t *testing.T) {
	t.Parallel()
	parse := func(dir string) error {
		if _, err := config.Parse([]string{"--config", filepath.Join(dir, "quotad.yaml")}, func(string) string { return "" }); err != nil {
			return err
		}
		if _, err := config.LoadBuckets(filepath.Join(dir, "buckets.yaml")); err != nil {
			return err
		}
		_, err := auth.LoadPolicy(filepath.Join(dir, "policy.yaml"))
		return err
	}
	for _, dir := range manifests(t) {
		if err := parse(dir); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, name := range []string{"quotad.yaml", "buckets.yaml", "policy.yaml"} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("kubernetes/shared")); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), read(t, filepath.Join(dir, name))+"\nunknown: 1\n")
		if err := parse(dir); err == nil {
			t.Errorf("control: an unknown key in %s is taken", name)
		}
	}
}

// TestChartKeys holds the chart to the settings that quotad has: those that the chart leaves to its users are in the schema, and no
// others.
func TestChartKeys(t *testing.T) {
	t.Parallel()
	var schema struct {
		Properties struct {
			Config struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "helm/quotad/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `--[^|]*\\|[^|]*\\| `([a-z-]+)`")
	for _, m := range row.FindAllStringSubmatch(read(t, "../docs/configuration.md"), -1) {
		want[m[1]] = true
	}
	helpers := read(t, "helm/quotad/templates/_helpers.tpl")
	for key := range want {
		if strings.Contains(helpers, `"`+key+`"`) || key == "dev" || key == "addr-file" { // set by the chart, or for people who try
			delete(want, key)
		}
	}
	got, all := slices.Sorted(maps.Keys(schema.Properties.Config.Properties)), slices.Sorted(maps.Keys(want))
	if !slices.Equal(got, all) || len(got) < 10 {
		t.Errorf("the schema takes in config\n%v, want\n%v", got, all)
	}
}

// programs builds the daemon and its tool where every user can run them.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// Of the test alone by default, and the daemon is another user.
	for _, open := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "..", "go", "build", "-buildvcs=false", "-o", dir+"/", "./cmd/quotad", "./cmd/quotactl")
	return dir
}

// TestDrills holds the drills of docs/deploy/drills.md. Both releases are the present one, but not the same to the byte.
func TestDrills(t *testing.T) {
	t.Parallel()
	if os.Getenv("QUOTAD_ROOT") == "" {
		t.Skip("takes ten seconds; QUOTAD_ROOT=1 runs it (make test-root)")
	}
	need(t, "bash")
	dir, other := programs(t), t.TempDir()
	for _, name := range []string{"quotad", "quotactl"} {
		write(t, filepath.Join(other, name), read(t, filepath.Join(dir, name))+"\n")
		run(t, other, "chmod", "755", name)
	}
	out := run(t, "", "drills/run", dir, other)
	for _, want := range []string{
		"60 granted", "60 are still used", "every record is sound", "its layout did not change", "refused to begin anew", "all drills passed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// A control: a release that forgets what was used.
	write(t, filepath.Join(other, "quotad"), "#!/bin/sh\n[ \"$1\" != --data ] || rm -rf \"$2\"\nQUOTAD_CREATE=true exec "+dir+"/quotad \"$@\"\n")
	if out, err := try(t, "", "drills/run", other, other); err == nil || !strings.Contains(out, "FAILED: after the crash") {
		t.Errorf("control: a daemon with a new file at each start passes the crash: %v\n%s", err, out)
	}
}

// A pod is quotad as the manifests run it, but for the kubelet: the settings of a manifest, with its volumes in directories that
// belong to whom a kubelet would give them.
type pod struct {
	t        *testing.T
	dir, bin string
	ports    map[string]string // what was bound, by setting
	command  *exec.Cmd
	log      *strings.Builder
}

// TestKubernetesPods runs what the manifests run, as their users, and calls it as they say.
func TestKubernetesPods(t *testing.T) {
	if os.Getenv("QUOTAD_ROOT") == "" {
		t.Skip("needs root, to be several users; QUOTAD_ROOT=1 runs it (make test-root)")
	}
	bin := programs(t)
	t.Run("shared", func(t *testing.T) { checkShared(t, newPod(t, bin, "shared")) })
	t.Run("sidecar", func(t *testing.T) { checkSidecar(t, newPod(t, bin, "sidecar")) })
}

func newPod(t *testing.T, bin, name string) *pod {
	t.Helper()
	p := &pod{t: t, dir: filepath.Join(filepath.Dir(bin), name), bin: bin, log: &strings.Builder{}}
	for volume, mode := range map[string]fs.FileMode{
		"": 0o755, "data": 0o775 | fs.ModeSetgid, "config": 0o777 | fs.ModeSetgid, "tls": 0o777 | fs.ModeSetgid,
		"run/quotad": 0o777 | fs.ModeSetgid, "run/quotad-control": 0o777 | fs.ModeSetgid, "out": 0o777,
	} {
		p.volume(volume, mode)
	}
	settings := read(t, filepath.Join("kubernetes", name, "quotad.yaml"))
	for _, path := range []string{"/data", "/config/", "/tls/", "/run/"} {
		settings = strings.ReplaceAll(settings, " "+path, " "+p.dir+path)
		settings = strings.ReplaceAll(settings, "//"+path[1:], "//"+p.dir[1:]+path)
	}
	settings = strings.ReplaceAll(settings, "unix://"+p.dir[1:], "unix://"+p.dir)
	settings = regexp.MustCompile(`0\.0\.0\.0:\d+`).ReplaceAllString(settings, "0.0.0.0:0")
	files := map[string]string{"quotad.yaml": settings}
	for _, file := range []string{"buckets.yaml", "policy.yaml"} {
		files[file] = read(t, filepath.Join("kubernetes", name, file))
	}
	p.mount("config", files, 0o644)
	return p
}

// volume makes a directory as a kubelet does for an fsGroup.
func (p *pod) volume(name string, mode fs.FileMode) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chown(path, 0, quotadUser); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		p.t.Fatal(err)
	}
}

// mount puts files into a volume as a kubelet does with a ConfigMap or a Secret: into a directory of their own, to which a link
// leads that is replaced in one step.
func (p *pod) mount(name string, files map[string]string, mode fs.FileMode) {
	p.t.Helper()
	version, err := os.MkdirTemp(filepath.Join(p.dir, name), "..2026_")
	if err != nil {
		p.t.Fatal(err)
	}
	p.volume(strings.TrimPrefix(version, p.dir), 0o755)
	link := func(to, path string) {
		if err := os.Symlink(to, path); err != nil && !os.IsExist(err) {
			p.t.Fatal(err)
		}
	}
	link(filepath.Base(version), filepath.Join(p.dir, name, "..data_tmp"))
	for file, text := range files {
		path := filepath.Join(version, file)
		write(p.t, path, text)
		if err := os.Chmod(path, mode); err != nil {
			p.t.Fatal(err)
		}
		if err := os.Chown(path, 0, quotadUser); err != nil {
			p.t.Fatal(err)
		}
		link(filepath.Join("..data", file), filepath.Join(p.dir, name, file))
	}
	if err := os.Rename(filepath.Join(p.dir, name, "..data_tmp"), filepath.Join(p.dir, name, "..data")); err != nil {
		p.t.Fatal(err)
	}
}

// as is a command of another user, with what the kernel gives to containers of that user in a pod: the fsGroup besides.
func as(ctx context.Context, uid uint32, groups []uint32, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	return command
}

// start runs quotad until it answers its probe.
func (p *pod) start(flags ...string) {
	p.t.Helper()
	addresses := filepath.Join(p.dir, "out", "addresses")
	_ = os.Remove(addresses)
	args := append([]string{"--config", filepath.Join(p.dir, "config", "quotad.yaml"), "--addr-file", addresses}, flags...)
	p.command = as(p.t.Context(), quotadUser, []uint32{quotadUser}, filepath.Join(p.bin, "quotad"), args...)
	p.command.Stderr = p.log
	if err := p.command.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.until("quotad serves", func() bool {
		text, err := os.ReadFile(addresses)
		p.ports = map[string]string{}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 {
				p.ports[f[0]] = strings.NewReplacer("0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1").Replace(f[1])
			}
		}
		if err != nil || p.ports["probe-listen"] == "" {
			return false
		}
		_, err = p.call(quotadUser, p.ports["probe-listen"], "health")
		return err == nil
	})
}

func (p *pod) until(what string, done func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("not within 20 s: %s", what)
		}
		// Another process does it, and tells nobody.
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *pod) stop(signal syscall.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	if err := p.command.Wait(); err != nil && signal != syscall.SIGKILL {
		p.t.Fatalf("it ends with %v\n%s", err, p.log)
	}
}

// call runs quotactl as a user of the pod.
func (p *pod) call(uid uint32, server string, args ...string) (string, error) {
	args = append([]string{"--server", server, "--timeout", "5s"}, args...)
	out, err := as(p.t.Context(), uid, []uint32{quotadUser}, filepath.Join(p.bin, "quotactl"), args...).CombinedOutput()
	return string(out), err
}

// wants fails the test unless a call succeeds, or fails with these words where there are any.
func (p *pod) wants(refusal string, uid uint32, server string, args ...string) string {
	p.t.Helper()
	out, err := p.call(uid, server, args...)
	if (err != nil) != (refusal != "") || !strings.Contains(out, refusal) {
		p.t.Errorf("uid %d: %s %s: %v, want %q\n%s", uid, server, strings.Join(args, " "), err, refusal, out)
	}
	return out
}

// begin is a pod's first day: without --create it does not start, with it once, and from then on without.
func (p *pod) begin() {
	p.t.Helper()
	out, err := as(p.t.Context(), quotadUser, nil, filepath.Join(p.bin, "quotad"), "--config", filepath.Join(p.dir, "config", "quotad.yaml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--create") {
		p.t.Fatalf("control: on an empty volume it starts, or says nothing of --create: %v\n%s", err, out)
	}
	p.start("--create")
	p.stop(syscall.SIGTERM)
	p.start()
}

func checkShared(t *testing.T, p *pod) {
	t.Helper()
	ca := newAuthority(t)
	server := ca.issue("DNS:quotad.default.svc", "")
	p.mount("tls", map[string]string{"tls.crt": server.cert, "tls.key": server.key, "ca.crt": ca.cert}, 0o440)
	p.begin()
	defer p.stop(syscall.SIGTERM)

	dir := filepath.Join(p.dir, "out")
	client := func(name, uri string) []string {
		pair := ca.issue("", uri)
		write(t, filepath.Join(dir, name+".pem"), pair.cert)
		write(t, filepath.Join(dir, name+".key"), pair.key)
		return []string{"--tls-cert", filepath.Join(dir, name+".pem"), "--tls-key", filepath.Join(dir, name+".key")}
	}
	write(t, filepath.Join(dir, "ca.pem"), ca.cert)
	trust := []string{"--tls-ca", filepath.Join(dir, "ca.pem"), "--tls-server-name", "quotad.default.svc"}
	app := func(refusal string, own []string, args ...string) {
		t.Helper()
		p.wants(refusal, 1000, p.ports["listen"], slices.Concat(trust, own, args)...)
	}
	teamA, stranger := client("team-a", "spiffe://cluster.local/ns/team-a/sa/app"), client("stranger", "spiffe://cluster.local/ns/team-c/sa/app")
	app("", teamA, "acquire", "team-a")
	app("the policy does not let team-a", teamA, "acquire", "team-b")
	app("who is no principal", stranger, "acquire", "team-a")
	// A handshake of TLS 1.3 is over for a client before the server has looked for its certificate: it may hear why it was refused, or
	// only that the connection has gone.
	app("no answer from quotad", nil, "acquire", "team-a")
	app("control listener", teamA, "status") // looking and changing is for the control socket

	p.wants("", 1000, p.ports["probe-listen"], "health")
	p.wants("unknown service", 1000, p.ports["probe-listen"], "acquire", "team-a")
	for _, host := range []string{"localhost", "10.1.2.3:7071"} {
		for _, path := range []string{"/healthz", "/metrics"} {
			if code := fetch(t, p.ports["admin-listen"], path, host); code != http.StatusOK {
				t.Errorf("%s for %s: %d", path, host, code)
			}
		}
	}
	control := "unix://" + filepath.Join(p.dir, "run/quotad/control.sock")
	p.wants("", quotadUser, control, "doctor")
	p.wants("permission denied", 1000, control, "status")

	// A ConfigMap that changes is read without a restart.
	files := map[string]string{}
	for _, name := range []string{"quotad.yaml", "buckets.yaml", "policy.yaml"} {
		files[name] = read(t, filepath.Join(p.dir, "config", name))
	}
	files["buckets.yaml"] = strings.Replace(files["buckets.yaml"], "1000 calls/day", "1 calls/day", 1)
	p.mount("config", files, 0o644)
	p.until("the new limit holds", func() bool {
		out, err := p.call(quotadUser, control, "get", "team-a")
		return err == nil && strings.Contains(out, "1 calls/day")
	})
	app("denied", teamA, "acquire", "team-a")
	p.wants("", quotadUser, control, "backup", filepath.Join(dir, "quotad.db"))
	p.volume("restored", 0o775|fs.ModeSetgid)
	restored := filepath.Join(p.dir, "restored")
	p.wants("", quotadUser, control, "restore", filepath.Join(dir, "quotad.db"), "--data", restored, "--reason", "the volume was lost")
	p.wants("", quotadUser, control, "verify", restored)
}

// fetch asks a kubelet's way: of an address, with a Host header of its own.
func fetch(t *testing.T, address, path, host string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

func checkSidecar(t *testing.T, p *pod) {
	t.Helper()
	p.begin()
	defer func() { p.stop(syscall.SIGTERM) }()
	path := filepath.Join(p.dir, "run/quotad/quotad.sock")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Gid != quotadUser || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket has mode %v and group %d, want 0660 and %d", info.Mode(), owner.Gid, quotadUser)
	}
	socket, control := "unix://"+path, "unix://"+filepath.Join(p.dir, "run/quotad-control/control.sock")
	p.wants("", 1000, socket, "acquire", "app")
	p.wants("the policy does not let app", 1000, socket, "acquire", "other")
	p.wants("who is no principal", 1001, socket, "acquire", "app") // in the pod, and nobody the policy knows
	p.wants("control listener", 1000, socket, "status")
	p.wants("", quotadUser, control, "status")
	p.wants("permission denied", 1000, control, "status")
	outsider := as(t.Context(), 1000, nil, filepath.Join(p.bin, "quotactl"), "--server", socket, "--timeout", "2s", "acquire", "app")
	if out, err := outsider.CombinedOutput(); err == nil {
		t.Errorf("control: without the group the socket lets in\n%s", out)
	}

	// The app mounts the socket's directory read-only, and the socket still takes calls.
	script := `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && ! touch "$1/x" 2>/dev/null &&
		exec setpriv --reuid 1000 --regid 1000 --groups 65532 "$2" --server "unix://$1/quotad.sock" acquire app`
	need(t, "unshare", "setpriv")
	if out, err := try(t, "", "unshare", "--mount", "sh", "-c", script, "sh", filepath.Dir(path), filepath.Join(p.bin, "quotactl")); err != nil {
		t.Errorf("on a read-only mount: %v\n%s", err, out)
	}

	// A container that was killed starts again beside its app: on the socket that it left, with the counts that it had.
	p.stop(syscall.SIGKILL)
	p.start()
	p.wants("", 1000, socket, "acquire", "app")
	if out := p.wants("", quotadUser, control, "get", "app"); !strings.Contains(out, "3") {
		t.Errorf("want 3 calls used:\n%s", out)
	}
}

// An authority signs certificates for a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	self *x509.Certificate
	cert string
}

type certificate struct{ cert, key string }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, key, self, encode("CERTIFICATE", der)}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue makes a pair: a server's with a DNS name, or a client's with a URI.
func (a *authority) issue(dns, uri string) certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: fmt.Sprint(dns, uri)},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name, ok := strings.CutPrefix(dns, "DNS:"); ok {
		leaf.DNSNames = []string{name}
	}
	if uri != "" {
		id, err := url.Parse(uri)
		if err != nil {
			a.t.Fatal(err)
		}
		leaf.URIs, leaf.ExtKeyUsage = []*url.URL{id}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.self, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificate{encode("CERTIFICATE", der), encode("PRIVATE KEY", private)}
}
