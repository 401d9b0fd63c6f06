package server

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	adminConnectionsMax = 64
	adminDrain          = time.Second
)

// newAdmin returns the server for metrics and probes. It changes nothing, and shows no names of buckets.
func (s *Server) newAdmin() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.c.Metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "alive\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "quotad: /metrics /healthz /readyz\n")
	})
	return &http.Server{
		Handler:           harden(s.c.AdminRemote || s.c.Admin.Addr().Network() == "unix", mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    HeaderBytesMax,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// readyz tells whether the daemon can do its work, and what is wrong, a line each.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	state, ready := s.state, s.ready
	s.mu.Unlock()
	code := http.StatusOK
	var text strings.Builder
	switch {
	case !ready:
		code = http.StatusServiceUnavailable
		text.WriteString("not ready: stopping\n")
	case len(state.Down) > 0:
		code = http.StatusServiceUnavailable
		text.WriteString("not ready\n")
	case len(state.Degraded) > 0:
		text.WriteString("ready, with problems\n")
	default:
		text.WriteString("ready\n")
	}
	for _, problem := range state.all() {
		fmt.Fprintf(&text, "- %s\n", problem)
	}
	answer(w, code, text.String())
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // the caller may have gone
}

// harden refuses requests that name another host than this machine, unless any is taken. A web page whose name was made to lead to
// loopback reaches the port, but its browser sends that name. No browser gets to a unix socket, and where other machines are to come in,
// their names for this one are not known.
func harden(any bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !any && !localHost(r.Host) {
			answer(w, http.StatusForbidden, "the Host header names another machine; ask for localhost or 127.0.0.1\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost tells whether a Host header, with or without a port, names this machine.
func localHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}
