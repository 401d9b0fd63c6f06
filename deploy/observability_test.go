// Package deploy_test checks that the files to run quotad with, and to watch it, are what they say.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// rules is quotad.rules.yaml, as far as it is looked at.
type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

const pageURL = "https://github.com/quotad/quotad/blob/main/docs/runbooks/%s.md"

// headings are those of each page, in this order.
var headings = []string{"What it means", "What to look at", "What to do", "What not to do"}

// watched is all that belongs together: alerts, their tests and pages, the dashboard, and the metrics that there are.
type watched struct {
	rules     []byte
	tests     string
	dashboard []byte
	pages     map[string]string // by the alert that each is named for
	index     string
	metrics   map[string]bool
	commands  string // the reference of quotactl
	sources   string // the daemon's, for what it logs
}

func load(t *testing.T) watched {
	t.Helper()
	w := watched{pages: map[string]string{}, metrics: map[string]bool{}}
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	w.rules, w.dashboard = read("prometheus/quotad.rules.yaml"), read("grafana/quotad.json")
	w.tests, w.commands = string(read("prometheus/quotad.rules.test.yaml")), string(read("../docs/quotactl.md"))
	w.index = string(read("../docs/runbooks/README.md"))
	pages, err := filepath.Glob("../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pages {
		if name := strings.TrimSuffix(filepath.Base(path), ".md"); name != "README" {
			w.pages[name] = string(read(path))
		}
	}
	list := string(read("../internal/metrics/testdata/metrics.golden"))
	for _, match := range regexp.MustCompile(`(?m)^(quotad_\w+) (\w+) `).FindAllStringSubmatch(list, -1) {
		w.metrics[match[1]] = match[2] != "histogram"
		if match[2] == "histogram" {
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				w.metrics[match[1]+part] = true
			}
		}
	}
	var sources strings.Builder
	for _, dir := range []string{"../cmd/quotad", "../internal/server", "../internal/store", "../internal/notify"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				sources.Write(read(path))
			}
		}
	}
	w.sources = sources.String()
	return w
}

var ours = regexp.MustCompile(`\bquotad_\w+`)

// unknown returns the metrics of ours in an expression that cannot be read as they stand there.
func (w watched) unknown(expr string) (names []string) {
	// What stands in quotes is a label's value.
	for _, name := range ours.FindAllString(regexp.MustCompile(`"[^"]*"`).ReplaceAllString(expr, ""), -1) {
		if !w.metrics[name] {
			names = append(names, name)
		}
	}
	return names
}

// faults tells all that does not fit together.
func (w watched) faults() (found []string) {
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	var r rules
	if err := yaml.UnmarshalWithOptions(w.rules, &r, yaml.Strict()); err != nil {
		add("the rules: %v", err)
	}
	alerts := map[string]bool{}
	for _, group := range r.Groups {
		for _, a := range group.Rules {
			if alerts[a.Alert] {
				add("%s is there twice", a.Alert)
			}
			alerts[a.Alert] = true
			found = append(found, w.faultsOf(a)...)
		}
	}
	for name, page := range w.pages {
		if !alerts[name] {
			add("%s.md is the page of no alert", name)
		}
		found = append(found, w.faultsOfPage(name, page)...)
	}
	return append(found, w.faultsOfDashboard()...)
}

func (w watched) faultsOf(a rule) (found []string) {
	add := func(format string, args ...any) { found = append(found, a.Alert+": "+fmt.Sprintf(format, args...)) }
	for _, name := range w.unknown(a.Expr) {
		add("%s is not exported", name)
	}
	if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
		add("its severity is %q; want critical, warning or info", a.Labels["severity"])
	}
	for _, name := range []string{"summary", "description"} {
		if a.Annotations[name] == "" {
			add("it has no %s", name)
		}
	}
	if want := fmt.Sprintf(pageURL, a.Alert); a.Annotations["runbook_url"] != want {
		add("its runbook_url is %q, want %q", a.Annotations["runbook_url"], want)
	}
	if _, ok := w.pages[a.Alert]; !ok {
		add("it has no page")
	}
	if !strings.Contains(w.index, "["+a.Alert+"]("+a.Alert+".md) | "+a.Labels["severity"]+" |") {
		add("the index of the pages does not have it with its severity")
	}
	if !strings.Contains(w.tests, `alertname="`+a.Alert+`"`) {
		add("no test has it fire")
	}
	return found
}

func (w watched) faultsOfPage(name, page string) (found []string) {
	add := func(format string, args ...any) { found = append(found, name+".md: "+fmt.Sprintf(format, args...)) }
	if !strings.HasPrefix(page, "# "+name+"\n") {
		add("its title is not its alert")
	}
	var got []string
	for _, match := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(page, -1) {
		got = append(got, match[1])
	}
	if !slices.Equal(got, headings) {
		add("its headings are %q, want %q", got, headings)
	}
	for _, metric := range ours.FindAllString(page, -1) {
		if !w.metrics[metric] && !w.metrics[metric+"_bucket"] {
			add("%s is not exported", metric)
		}
	}
	for _, match := range regexp.MustCompile("`quotactl (\\w+)").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(w.commands, "\n### quotactl "+match[1]+"\n") {
			add("quotactl has no command %s", match[1])
		}
	}
	flat := strings.Join(strings.Fields(page), " ")
	for _, match := range regexp.MustCompile("log says `([^`]+)`").FindAllStringSubmatch(flat, -1) {
		if !strings.Contains(w.sources, match[1]) {
			add("nothing logs %q", match[1])
		}
	}
	for _, match := range regexp.MustCompile(`\]\((Quotad\w+)\.md\)`).FindAllStringSubmatch(page, -1) {
		if _, ok := w.pages[match[1]]; !ok {
			add("it leads to %s, which has no page", match[1])
		}
	}
	return found
}

// faultsOfDashboard looks at each panel: that it has a title, and a source that a person can choose, and asks for what there is.
func (w watched) faultsOfDashboard() (found []string) {
	var d struct {
		Title         string `json:"title"`
		UID           string `json:"uid"`
		SchemaVersion int    `json:"schemaVersion"`
		Templating    struct {
			List []struct{ Name, Type string } `json:"list"`
		} `json:"templating"`
		Panels []struct {
			ID      int                      `json:"id"`
			Type    string                   `json:"type"`
			Title   string                   `json:"title"`
			GridPos struct{ X, Y, W, H int } `json:"gridPos"`
			Targets []struct {
				Expr       string                     `json:"expr"`
				Datasource struct{ UID, Type string } `json:"datasource"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(w.dashboard, &d); err != nil {
		return []string{"the dashboard: " + err.Error()}
	}
	add := func(format string, args ...any) {
		found = append(found, "the dashboard: "+fmt.Sprintf(format, args...))
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 36 || len(d.Panels) < 20 || len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" {
		add("it lacks a title, a uid, a schema of Grafana 10, panels, or the choice of a source")
	}
	seen := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		if seen[p.ID] || p.Title == "" {
			add("panel %d (%q) has another's id, or no title", p.ID, p.Title)
		}
		seen[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					add("%q lies over %q, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			add("%q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range w.unknown(target.Expr) {
				add("%q: %s is not exported", p.Title, name)
			}
			if target.Datasource.UID != "${datasource}" || !strings.Contains(target.Expr, `instance=~"$instance"`) {
				add("%q does not ask the source or the instances that were chosen", p.Title)
			}
		}
	}
	return found
}

// TestWatched: alerts, their tests and pages, the dashboard, the metrics, the commands and the log fit together.
func TestWatched(t *testing.T) {
	t.Parallel()
	w := load(t)
	if len(w.pages) < 20 || len(w.metrics) < 40 {
		t.Fatalf("only %d pages and %d metrics were read", len(w.pages), len(w.metrics))
	}
	for _, fault := range w.faults() {
		t.Error(fault)
	}
}

// Control: each thing that does not fit is found.
func TestWatchedControl(t *testing.T) {
	t.Parallel()
	good := load(t)
	for name, c := range map[string]struct {
		spoil func(*watched)
		want  string
	}{
		"unknown metric": {func(w *watched) { w.rules = replace(w.rules, "quotad_queue_ops >", "quotad_queue_length >") }, "quotad_queue_length is not exported"},
		"a histogram without its part": {func(w *watched) {
			w.rules = replace(w.rules, "quotad_commit_duration_seconds_bucket", "quotad_commit_duration_seconds")
		}, "quotad_commit_duration_seconds is not exported"},
		"no page":  {func(w *watched) { delete(w.pages, "QuotadFull") }, "QuotadFull: it has no page"},
		"no alert": {func(w *watched) { w.pages["QuotadBored"] = w.pages["QuotadFull"] }, "QuotadBored.md is the page of no alert"},
		"no test":  {func(w *watched) { w.tests = "" }, "QuotadFull: no test has it fire"},
		"severity": {func(w *watched) { w.rules = replace(w.rules, "severity: info", "severity: bad") }, `its severity is "bad"`},
		"field":    {func(w *watched) { w.rules = replace(w.rules, "labels:", "label:") }, "the rules: "},
		"heading": {func(w *watched) {
			w.pages["QuotadFull"] = strings.Replace(w.pages["QuotadFull"], "## What to do", "## What you do", 1)
		}, "its headings are"},
		"command":        {func(w *watched) { w.pages["QuotadFull"] += "`quotactl mend`" }, "quotactl has no command mend"},
		"log":            {func(w *watched) { w.pages["QuotadFull"] += "log says `all is well with the disk`" }, "nothing logs"},
		"metric of page": {func(w *watched) { w.pages["QuotadFull"] += "`quotad_nothing`" }, "QuotadFull.md: quotad_nothing is not exported"},
		"panel":          {func(w *watched) { w.dashboard = replace(w.dashboard, "quotad_queue_ops{", "quotad_nothing{") }, "quotad_nothing is not exported"},
		"source":         {func(w *watched) { w.dashboard = replace(w.dashboard, "${datasource}", "mine") }, "does not ask the source"},
		"layout":         {func(w *watched) { w.dashboard = replace(w.dashboard, `"x": 0`, `"x": 8`) }, "lies over"},
	} {
		w := good
		w.pages = maps.Clone(good.pages)
		c.spoil(&w)
		if found := w.faults(); !slices.ContainsFunc(found, func(fault string) bool { return strings.Contains(fault, c.want) }) {
			t.Errorf("%s: found %q, want %q among it", name, found, c.want)
		}
	}
}

func replace(text []byte, from, to string) []byte {
	return []byte(strings.ReplaceAll(string(text), from, to))
}

// promtool finds Prometheus's own judge. Without it a test is skipped, but for CI, which has to have it.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal("there is no promtool: install Debian's package prometheus, or another that has it")
	default:
		t.Skip("there is no promtool here (Debian's package prometheus has it): what Prometheus makes of the alerts is not tested")
	}
	return path
}

// TestPromtool has Prometheus read the rules and the example of a scrape, and run the tests of the alerts.
func TestPromtool(t *testing.T) {
	t.Parallel()
	tool := promtool(t)
	for _, args := range [][]string{
		{"check", "rules", "quotad.rules.yaml"},
		{"check", "config", "--syntax-only", "scrape.example.yaml"},
		{"test", "rules", "quotad.rules.test.yaml"},
	} {
		command := exec.CommandContext(t.Context(), tool, args...)
		command.Dir = "prometheus"
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}

// Control: an alert that asks for a little more does not fire when its test says, and promtool says so.
func TestPromtoolControl(t *testing.T) {
	t.Parallel()
	tool := promtool(t)
	dir := t.TempDir()
	for _, name := range []string{"quotad.rules.yaml", "quotad.rules.test.yaml"} {
		text, err := os.ReadFile(filepath.Join("prometheus", name))
		if err != nil {
			t.Fatal(err)
		}
		if text = replace(text, "quotad_queue_ops > 1000", "quotad_queue_ops > 1001"); name == "quotad.rules.test.yaml" {
			text = only(t, string(text), "QuotadQueueGrows")
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), tool, "test", "rules", "quotad.rules.test.yaml")
	command.Dir = dir
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "QuotadQueueGrows") {
		t.Errorf("promtool did not notice: %v\n%s", err, out)
	}
}

// only returns the tests with the one of that name alone.
func only(t *testing.T, tests, name string) []byte {
	t.Helper()
	parts := strings.Split(tests, "  - name: ")
	i := slices.IndexFunc(parts, func(part string) bool { return strings.HasPrefix(part, name+"\n") })
	if i < 0 {
		t.Fatalf("there is no test %s", name)
	}
	return []byte(parts[0] + "  - name: " + parts[i])
}
