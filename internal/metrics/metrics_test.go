package metrics

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

func code(n uint32) string { return fmt.Sprintf("Code%d", n) }

// used returns metrics of which every one has been touched.
func used() *Metrics {
	m := New(Build{Version: "v1.2.3", Commit: "abc"})
	m.SetStatus(func() store.Status {
		return store.Status{
			Queue: 3, Bytes: 1 << 20, Most: 1 << 30, Undeclared: 7, Defaults: quota.Defaults{UndeclaredLive: 100}, Declared: 5,
			LedgerTime: time.Unix(1_800_000_000, 0), ClockHeld: true, RetentionLag: 2,
		}
	})
	m.Method("/quotad.v1.QuotaService/Acquire", code).Observe(0, 3*time.Millisecond)
	m.ObserveLoad(time.Unix(1_700_000_000, 0), true)
	m.ObserveLoad(time.Unix(1_700_000_060, 0), false)
	m.ObserveAccess(time.Unix(1_700_000_120, 0), true)
	m.SetEventsPending(func() int64 { return 3 })
	m.SetCertificate(func() time.Time { return time.Unix(1_900_000_000, 0) })
	return m
}

// TestNames compares the names, labels and helps of all that is exported with a list that a person has read. Dashboards and
// alerts depend on them.
func TestNames(t *testing.T) {
	t.Parallel()
	families, err := used().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "quotad_") {
			continue // Go's own
		}
		var labels []string
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				if !slices.Contains(labels, l.GetName()) {
					labels = append(labels, l.GetName())
				}
			}
		}
		slices.Sort(labels)
		fmt.Fprintf(&got, "%s %s {%s}\n  %s\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","), f.GetHelp())
	}
	const path = "testdata/metrics.golden"
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s (-update writes it anew):\n got %s\nwant %s", path, &got, want)
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(used().Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// golden returns the labels and the type of each metric in the list that a person has read, by its name.
func golden(t *testing.T) map[string]string {
	t.Helper()
	list, err := os.ReadFile("testdata/metrics.golden")
	if err != nil {
		t.Fatal(err)
	}
	metrics := make(map[string]string)
	for _, match := range regexp.MustCompile(`(?m)^(quotad_\w+) (\w+) \{(.*)\}$`).FindAllStringSubmatch(string(list), -1) {
		metrics[match[1]] = match[3] + " " + match[2]
	}
	return metrics
}

// undocumented tells what a page for operators says wrong about the metrics: its tables have each of them, once, with its labels, type,
// and what it is, and none that does not exist.
func undocumented(page string, metrics map[string]string) (wrong []string) {
	said := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(quotad_\\w+)(?:\\{([^}]*)\\})?` \\| (\\w+) \\| (.*?) \\|(.*)\\|$").FindAllStringSubmatch(page, -1) {
		name, got, what := row[1], row[2]+" "+row[3], row[4]
		labels := strings.Split(row[2], ",")
		slices.Sort(labels)
		switch want, ok := metrics[name]; {
		case !ok:
			wrong = append(wrong, name+" is not exported")
		case said[name]:
			wrong = append(wrong, name+" is there twice")
		case strings.Join(labels, ",")+" "+row[3] != want:
			wrong = append(wrong, fmt.Sprintf("%s is {%s}, want {%s}", name, got, want))
		case len(what) < 10:
			wrong = append(wrong, name+" has no word about what it is")
		}
		said[name] = true
	}
	for name := range metrics {
		if !said[name] {
			wrong = append(wrong, name+" is missing")
		}
	}
	slices.Sort(wrong)
	return wrong
}

// TestDocs: the page of the metrics has every one of ours, as it is, and no page for operators names one that does not exist.
func TestDocs(t *testing.T) {
	t.Parallel()
	metrics := golden(t)
	if len(metrics) < 20 {
		t.Fatalf("only %d metrics were read", len(metrics))
	}
	for _, path := range []string{"../../docs/metrics.md", "../../docs/operations.md"} {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "/metrics.md") {
			for _, what := range undocumented(string(page), metrics) {
				t.Errorf("%s: %s", path, what)
			}
		}
		for _, name := range regexp.MustCompile(`\bquotad_[a-z_]+[a-z]`).FindAllString(string(page), -1) {
			if metrics[name] == "" && metrics[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] == "" {
				t.Errorf("%s has %s, which is not exported", path, name)
			}
		}
	}
}

// Control: a page that is wrong is found wrong.
func TestDocsControl(t *testing.T) {
	t.Parallel()
	page := "| `quotad_a{y,x}` | gauge | What it is. | |\n| `quotad_b` | gauge | What it is. | |\n| `quotad_c` | counter | What it is. | Now. |\n" +
		"| `quotad_c` | counter | What it is. | |\n| `quotad_d` | counter |  | |\n| `quotad_x` | counter | What it is. | |\n"
	want := []string{
		"quotad_b is { gauge}, want { counter}", "quotad_c is there twice", "quotad_d has no word about what it is", "quotad_e is missing",
		"quotad_x is not exported",
	}
	got := undocumented(page, map[string]string{
		"quotad_a": "x,y gauge", "quotad_b": " counter", "quotad_c": " counter", "quotad_d": " counter", "quotad_e": " gauge",
	})
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

// TestOpsAreKnown reads which ops there are from their package: a new one needs a kind.
func TestOpsAreKnown(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../quota/op.go")
	if err != nil {
		t.Fatal(err)
	}
	known := []quota.Op{
		quota.Acquire{},
		quota.SetBucket{},
		quota.DeleteBucket{},
		quota.ApplySet{},
		quota.SetOverride{},
		quota.Reset{},
		quota.Exhaust{},
		quota.Configure{},
		quota.Note{},
		quota.Adopt{},
		quota.Settle{},
		quota.Release{},
		quota.Extend{},
		quota.Expire{},
	}
	kindsOf := make(map[string]int)
	for _, op := range known {
		kindsOf[strings.TrimPrefix(fmt.Sprintf("%T", op), "quota.")] = kindOf(op)
	}
	found := regexp.MustCompile(`func \((\w+)\) isOp\(\)`).FindAllStringSubmatch(string(source), -1)
	if len(found) < len(known) {
		t.Fatalf("found only %d ops in op.go", len(found))
	}
	seen := make(map[int]string)
	for _, match := range found {
		kind, ok := kindsOf[match[1]]
		switch {
		case !ok || kind == kindOther:
			t.Errorf("%s has no kind: give it one, and add it to this test", match[1])
		case seen[kind] != "":
			t.Errorf("%s and %s are both %s", match[1], seen[kind], kindNames[kind])
		}
		seen[kind] = match[1]
	}
	for _, o := range quota.Outcomes() {
		if int(o) >= outcomes {
			t.Errorf("%s has no counter", o)
		}
	}
	if slices.Contains(kindNames[:], "") {
		t.Error("a kind has no name")
	}
}

func TestObserveBatch(t *testing.T) {
	t.Parallel()
	m := New(Build{})
	m.ObserveBatch(store.Batch{Ops: 4, Wrote: true, Took: 2 * time.Millisecond, Outcomes: []store.Tally{
		{Op: quota.Acquire{}, Outcome: quota.Done},
		{Op: quota.Acquire{}, Outcome: quota.Done, Replayed: true},
		{Op: quota.Acquire{}, Outcome: quota.Denied},
		{Op: quota.Reset{}, Outcome: quota.Done},
	}})
	m.ObserveBatch(store.Batch{Ops: 1, Outcomes: []store.Tally{{Op: quota.Acquire{}, Outcome: quota.Denied}}})
	m.ObserveBatch(store.Batch{Ops: 1, Err: errors.New("no room"), Outcomes: []store.Tally{{Op: quota.Acquire{}}}})
	m.ObserveBatch(store.Batch{Ops: 1, Outcomes: []store.Tally{{Op: quota.Acquire{}, Outcome: 200}}}) // counted, not a fault
	text := scrape(t, m)
	for _, want := range []string{
		`quotad_ops_total{kind="acquire",outcome="done"} 2`,
		`quotad_ops_total{kind="acquire",outcome="denied"} 2`,
		`quotad_ops_total{kind="acquire",outcome="failed"} 2`,
		`quotad_ops_total{kind="reset",outcome="done"} 1`,
		`quotad_ops_total{kind="note",outcome="done"} 0`,
		`quotad_replays_total 1`,
		`quotad_batch_ops_count 4`,
		`quotad_batch_ops_sum 7`,
		`quotad_commit_duration_seconds_count 1`,
		`quotad_commit_failures_total 1`,
		`quotad_build_info{commit="unknown",goversion=`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "quotad_queue_ops ") {
		t.Error("the ledger's state is shown before there is a ledger")
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	m := used()
	text := scrape(t, m)
	for _, want := range []string{
		"quotad_queue_ops 3", "quotad_data_file_bytes 1.048576e+06", "quotad_undeclared_names 7", "quotad_undeclared_names_max 100",
		"quotad_declared_buckets 5", "quotad_ledger_time_seconds 1.8e+09", "quotad_retention_due_spaces 2",
		`quotad_problem{kind="clock_held"} 1`, `quotad_problem{kind="full"} 0`, `quotad_problem{kind="corrupt"} 0`,
		`quotad_problem{kind="buckets_file_bad"} 1`, "quotad_buckets_file_last_load_ok 0", "quotad_buckets_file_last_taken_time_seconds 1.7e+09",
		`quotad_buckets_file_loads_total{result="bad"} 1`, `quotad_buckets_file_loads_total{result="ok"} 1`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	m.ObserveLoad(time.Unix(1_700_000_120, 0), true)
	if text := scrape(t, m); !strings.Contains(text, `quotad_problem{kind="buckets_file_bad"} 0`) {
		t.Error("a good buckets file does not end the problem")
	}
}

// TestManyAtOnce: what is counted by many at once is counted, also while a series comes into being.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 500
	m := New(Build{})
	method := m.Method("/x", code)
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for i := range each {
				method.Observe(uint32(i%30), time.Millisecond)
				closed := m.StreamOpened()
				m.ObserveBatch(store.Batch{Ops: 1, Outcomes: []store.Tally{{Op: quota.Acquire{}, Outcome: quota.Done}}})
				closed()
			}
		})
	}
	_ = scrape(t, m)
	calling.Wait()
	text := scrape(t, m)
	total := 0
	for _, match := range regexp.MustCompile(`quotad_rpc_duration_seconds_count\{code="(\w+)",method="/x"\} (\d+)`).FindAllStringSubmatch(text, -1) {
		var n int
		if _, err := fmt.Sscan(match[2], &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total != callers*each || strings.Contains(text, `"Code17"`) {
		t.Errorf("%d calls were counted, want %d, under 17 codes:\n%s", total, callers*each, text)
	}
	if want := fmt.Sprintf(`quotad_ops_total{kind="acquire",outcome="done"} %d`, callers*each); !strings.Contains(text, want) || !strings.Contains(text, "quotad_streams_open 0") {
		t.Errorf("want %s and no stream open:\n%s", want, text)
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d, %v: %s", w.Code, err, body)
	}
	return string(body)
}

func BenchmarkObserveBatch(b *testing.B) {
	m := New(Build{})
	batch := store.Batch{Ops: 64, Wrote: true, Took: time.Millisecond}
	for range batch.Ops {
		batch.Outcomes = append(batch.Outcomes, store.Tally{Op: quota.Acquire{}, Outcome: quota.Done})
	}
	b.ReportAllocs()
	for b.Loop() {
		m.ObserveBatch(batch)
	}
}

func BenchmarkObserveRPC(b *testing.B) {
	method := New(Build{}).Method("/x", code)
	b.ReportAllocs()
	for b.Loop() {
		method.Observe(0, time.Millisecond)
	}
}
