// The check program renders deploy/kubernetes and deploy/helm as an installation would, reads every document strictly as the API's
// types, and holds them to what docs/deploy says of them. Each rule has a control that it has to catch.
//
//	go run . [-out DIR]
//
// It is run in its own directory. With -out it leaves the files of each ConfigMap in DIR/NAME for quotad's own parsers.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	chart = "../../helm/quotad"
	// kubeVersion is the oldest that the chart claims to do with.
	kubeVersion = "1.29.0"
)

func main() {
	out := flag.String("out", "", "leave the files of each ConfigMap in `DIR`")
	flag.Parse()
	if err := check(os.Stdout, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(log io.Writer, out string) error {
	helm, err := findHelm()
	if err != nil {
		return err
	}
	rendered, err := render(helm)
	if err != nil {
		return err
	}
	var faults []error
	for _, r := range rendered {
		all, errs := judge(r.text)
		for _, err := range errs {
			faults = append(faults, fmt.Errorf("%s: %w", r.name, err))
		}
		fmt.Fprintf(log, "%s: %d documents\n", r.name, len(all))
		faults = append(faults, leave(out, r.name, all))
	}
	faults = append(faults, refuse(log, helm), controls(log, rendered))
	return errors.Join(faults...)
}

// A rendering is what one installation would send to a cluster.
type rendering struct {
	name, text string
}

// findHelm returns the program that the go.mod pins, built if need be.
func findHelm() (string, error) {
	path, err := exec.Command("go", "tool", "-n", "helm").Output()
	if err != nil {
		return "", fmt.Errorf("building helm: %w", err)
	}
	return strings.TrimSpace(string(path)), nil
}

func run(program string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	command := exec.Command(program, args...)
	command.Stdout, command.Stderr = &out, &complaint
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, &out, &complaint)
	}
	return out.String(), nil
}

func render(helm string) (all []rendering, err error) {
	for _, name := range []string{"shared", "sidecar"} {
		text, err := kustomize("../" + name)
		if err != nil {
			return nil, err
		}
		all = append(all, rendering{"kustomize-" + name, text})
	}
	values, err := filepath.Glob("values/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, path := range values {
		if _, err := run(helm, "lint", "--strict", chart, "--kube-version", kubeVersion, "--values", path); err != nil {
			return nil, err
		}
		text, err := template(helm, "--values", path)
		if err != nil {
			return nil, err
		}
		all = append(all, rendering{"helm-" + strings.TrimSuffix(filepath.Base(path), ".yaml"), text})
	}
	told, err := documented(helm)
	if err != nil {
		return nil, err
	}
	all = append(all, told...)
	restore, err := os.ReadFile("../restore/pod.yaml")
	if err != nil {
		return nil, err
	}
	return append(all, rendering{"restore", string(restore)}), nil
}

func kustomize(dir string) (string, error) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return "", fmt.Errorf("kustomize %s: %w", dir, err)
	}
	text, err := made.AsYaml()
	return string(text), err
}

// documented renders the overlay and the values that docs/deploy/kubernetes.md shows.
func documented(helm string) ([]rendering, error) {
	page, err := os.ReadFile("../../../docs/deploy/kubernetes.md")
	if err != nil {
		return nil, err
	}
	block := func(first string) string {
		_, text, _ := strings.Cut(string(page), "```yaml\n"+first)
		text, _, _ = strings.Cut(text, "```")
		return first + text
	}
	work, err := os.MkdirTemp("", "quotad-check-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work) //nolint:errcheck // it is for this run alone
	base, overlay := filepath.Join(work, "quotad/deploy/kubernetes/shared"), filepath.Join(work, "production")
	shared := os.DirFS(filepath.Join("..", "shared"))
	err = errors.Join(os.CopyFS(base, shared), os.CopyFS(overlay, shared),
		os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(block("apiVersion: kustomize")), 0o600),
		os.WriteFile(filepath.Join(work, "values.yaml"), []byte(block("image: {repository")), 0o600))
	if err != nil {
		return nil, err
	}
	overlaid, err := kustomize(overlay)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(overlaid, "- --create") || !strings.Contains(overlaid, "registry.acme.example/quotad:v1.2.3") {
		return nil, errors.New("the documented overlay does not do what it says")
	}
	valued, err := template(helm, "--values", filepath.Join(work, "values.yaml"), "--set", "createDataFile=true")
	return []rendering{{"docs-kustomize", overlaid}, {"docs-helm", valued}}, err
}

func template(helm string, args ...string) (string, error) {
	return run(helm, append([]string{"template", "prod", chart, "--namespace", "quota", "--kube-version", kubeVersion}, args...)...)
}

// refuse has helm refuse each of the values in refused/, laid over values that are good, with the words of the file's first line.
func refuse(log io.Writer, helm string) error {
	values, err := filepath.Glob("refused/*.yaml")
	if err == nil && len(values) == 0 {
		err = errors.New("refused/ is empty")
	}
	for _, path := range values {
		text, reading := os.ReadFile(path)
		first, _, _ := strings.Cut(string(text), "\n")
		want := strings.TrimPrefix(first, "# ")
		_, refusal := template(helm, "--values", "values/shared.yaml", "--values", path)
		if reading != nil || refusal == nil || !strings.Contains(refusal.Error(), want) {
			err = errors.Join(err, reading, fmt.Errorf("%s has to be refused for %q: %s", path, want, fmt.Sprint(refusal)))
		}
	}
	fmt.Fprintf(log, "%d values tried that have to be refused\n", len(values))
	return err
}

// leave writes the files of the ConfigMaps.
func leave(out, name string, all []any) error {
	for _, object := range all {
		files, ok := object.(*corev1.ConfigMap)
		if !ok || out == "" {
			continue
		}
		dir := filepath.Join(out, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		for file, text := range files.Data {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// control is a slip in one of the renderings, and what has to be said about it.
type control struct {
	in, old, slip, want string
}

func controls(log io.Writer, rendered []rendering) error {
	texts := make(map[string]string)
	for _, r := range rendered {
		texts[r.name] = r.text
	}
	tried := []control{
		{"kustomize-shared", "replicas: 1", "replica: 1", "unknown field"},
		{"kustomize-shared", "replicas: 1", "replicas: 1\n  replicas: 1", "already set"},
		{"kustomize-shared", "replicas: 1", "replicas: 2", "replicas"},
		{"kustomize-shared", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: false\n          privileged: true", "privileged"},
		{"kustomize-shared", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "escalat"},
		{"kustomize-shared", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only"},
		{"kustomize-shared", "runAsNonRoot: true", "runAsNonRoot: false", "root"},
		{"kustomize-shared", "type: RuntimeDefault", "type: Unconfined", "seccomp"},
		{"kustomize-shared", "- ALL", "- NET_RAW", "capabilities"},
		{"kustomize-shared", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "token"},
		{"kustomize-shared", "memory: 512Mi", "cpu: 1", "memory"},
		{"kustomize-shared", "value: 460MiB", "value: 600MiB", "GOMEMLIMIT"},
		{"kustomize-shared", "port: 7072", "port: 7070", "probe"},
		{"kustomize-shared", "ReadWriteOncePod", "ReadWriteMany", "ReadWriteMany"},
		{"kustomize-shared", "mountPath: /tls\n          name: tls", "mountPath: /tls\n          name: tsl", "volume"},
		{"kustomize-shared", "quotad-client: \"true\"", "quotad-client: \"true\"\n          app.kubernetes.io/name: quotad", "callers"},
		{"kustomize-shared", "targetPort: grpc", "targetPort: http", "targetPort"},
		{"kustomize-shared", "/tls/ca.crt", "/tsl/ca.crt", "mounted"},
		{"kustomize-sidecar", "type: Recreate", "type: RollingUpdate", "Recreate"},
		{"kustomize-sidecar", "restartPolicy: Always", "restartPolicy: OnFailure", "sidecar"},
		{"helm-sidecar", "replicas: 1", "replicas: 3", "replicas"},
		{"helm-shared", "serviceName:", "serviceNam:", "unknown field"},
		{"restore", "drop: [ALL]", "drop: []", "capabilities"},
	}
	var missed []error
	for _, c := range tried {
		if !strings.Contains(texts[c.in], c.old) {
			missed = append(missed, fmt.Errorf("control: %s has no %q", c.in, c.old))
			continue
		}
		_, errs := judge(strings.ReplaceAll(texts[c.in], c.old, c.slip))
		if err := errors.Join(errs...); err == nil || !strings.Contains(err.Error(), c.want) {
			missed = append(missed, fmt.Errorf("control: %s with %q instead of %q is not caught: want %q, got: %s", c.in, c.slip, c.old, c.want, fmt.Sprint(err)))
		}
	}
	fmt.Fprintf(log, "%d controls tried\n", len(tried))
	return errors.Join(missed...)
}
