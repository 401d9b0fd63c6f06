package metrics

import (
	"strings"
	"testing"
	"time"
)

// TestEdge: what is counted at the door, and that no text from elsewhere becomes a label.
func TestEdge(t *testing.T) {
	t.Parallel()
	m := New(Build{})
	text := scrape(t, m)
	for _, absent := range []string{"quotad_access_last", "quotad_tls_certificate"} {
		if strings.Contains(text, absent) {
			t.Errorf("%s is shown before there is any", absent)
		}
	}
	closed := m.ConnectionOpened()
	m.ConnectionOpened()()
	m.ConnectionRefused(RefusedPeer)
	m.ConnectionRefused("evil\nname")
	m.CallRefused(RefusedInFlight)
	m.CallRefused("evil\nname")
	m.ObserveAccess(time.Unix(1_700_000_000, 0), false)
	if text := scrape(t, m); !strings.Contains(text, "\nquotad_access_last_load_ok 0\n") || strings.Contains(text, "quotad_access_last_taken") {
		t.Errorf("a first policy that is bad:\n%s", text)
	}
	m.ObserveAccess(time.Unix(1_700_000_060, 0), true)
	m.ObserveAccess(time.Unix(1_700_000_120, 0), false)
	m.SetCertificate(func() time.Time { return time.Unix(1_900_000_000, 0) })
	text = scrape(t, m)
	for _, want := range []string{
		"quotad_connections_open 1", `quotad_connections_refused_total{reason="peer"} 1`, `quotad_connections_refused_total{reason="other"} 1`,
		`quotad_connections_refused_total{reason="full"} 0`, `quotad_calls_refused_total{reason="in_flight"} 1`,
		`quotad_calls_refused_total{reason="unauthenticated"} 0`, `quotad_access_loads_total{result="bad"} 2`,
		`quotad_access_loads_total{result="ok"} 1`, "quotad_access_last_load_ok 0", "quotad_access_last_taken_time_seconds 1.70000006e+09",
		"quotad_tls_certificate_expiry_time_seconds 1.9e+09",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "evil") {
		t.Error("a label has a text from elsewhere")
	}
	closed()
	m.SetCertificate(func() time.Time { return time.Time{} })
	if text := scrape(t, m); !strings.Contains(text, "\nquotad_connections_open 0\n") || strings.Contains(text, "quotad_tls_certificate") {
		t.Errorf("after the last connection and the certificate:\n%s", text)
	}
}
