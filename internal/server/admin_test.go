package server

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/metrics"
)

type adminOnly struct{ net.Listener }

func (adminOnly) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7071} }

func TestAdmin(t *testing.T) {
	t.Parallel()
	open := func(remote bool) *Server {
		s := New(Config{Admin: adminOnly{}, AdminRemote: remote, Metrics: metrics.New(metrics.Build{}), Now: time.Now})
		t.Cleanup(s.cut) // which was never run
		return s
	}
	local, remote := open(false), open(true)
	for _, test := range []struct {
		state    Health
		stopping bool
		request  string // method and path
		host     string
		remote   bool // other machines may ask
		code     int
		want     string
	}{
		{request: "GET /healthz", code: 200, want: "alive\n"},
		{request: "GET /readyz", code: 200, want: "ready\n"},
		{request: "HEAD /readyz", code: 200, want: "ready\n"},
		{request: "GET /readyz", state: Health{Degraded: []string{"a", "b"}}, code: 200, want: "ready, with problems\n- a\n- b\n"},
		{request: "GET /readyz", state: Health{Down: []string{"a"}, Degraded: []string{"b"}}, code: 503, want: "not ready\n- a\n- b\n"},
		{request: "GET /readyz", stopping: true, code: 503, want: "not ready: stopping\n"},
		{request: "GET /healthz", stopping: true, state: Health{Down: []string{"a"}}, code: 200, want: "alive\n"},
		{request: "GET /", code: 200, want: "quotad: /metrics /healthz /readyz\n"},
		{request: "GET /debug/pprof/", code: 404},
		{request: "POST /metrics", code: 405},
		{request: "GET /metrics", code: 200},
		{request: "GET /healthz", host: "localhost", code: 200},
		{request: "GET /healthz", host: "localhost:7071", code: 200},
		{request: "GET /healthz", host: "127.0.0.1:1", code: 200},
		{request: "GET /healthz", host: "[::1]:7071", code: 200},
		{request: "GET /healthz", host: "[::1]", code: 200},
		{request: "GET /metrics", host: "evil.example:7071", code: 403, want: "the Host header names another machine; ask for localhost or 127.0.0.1\n"},
		{request: "GET /metrics", host: "localhost.evil.example", code: 403},
		{request: "GET /metrics", host: "127.0.0.1.evil.example:7071", code: 403},
		{request: "GET /metrics", host: "10.0.0.1:7071", code: 403},
		{request: "GET /metrics", host: ":7071", code: 403},
		{request: "GET /metrics", remote: true, host: "quotad.monitoring.svc:7071", code: 200},
		{request: "GET /readyz", remote: true, host: "10.0.0.1:7071", code: 200, want: "ready\n"},
		{request: "GET /debug/pprof/", remote: true, host: "10.0.0.1:7071", code: 404},
		{request: "GET /debug/vars", remote: true, code: 404},
		{request: "POST /readyz", remote: true, code: 405},
		{request: "DELETE /metrics", remote: true, code: 405},
		{request: "GET /metrics/../debug/pprof/", remote: true, code: 307}, // to what is not there
	} {
		s := local
		if test.remote {
			s = remote
		}
		s.mu.Lock()
		s.state, s.ready = test.state, !test.stopping
		s.mu.Unlock()
		method, path, _ := strings.Cut(test.request, " ")
		request := httptest.NewRequest(method, path, http.NoBody)
		if request.Host = test.host; test.host == "" {
			request.Host = "127.0.0.1:7071"
		}
		w := httptest.NewRecorder()
		s.admin.Handler.ServeHTTP(w, request)
		body, _ := io.ReadAll(w.Result().Body)
		if w.Code != test.code || test.want != "" && string(body) != test.want {
			t.Errorf("%s of %q: %d %q, want %d %q", test.request, request.Host, w.Code, body, test.code, test.want)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: a browser may guess what it is", test.request)
		}
	}
}
