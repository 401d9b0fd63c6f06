package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
)

// trailServer answers ListAudit from a trail that goes on while it is read.
type trailServer struct {
	quotadv1.UnimplementedInspectServiceServer
	mu      sync.Mutex
	base    quota.AuditPoint
	records []quota.AuditRecord
	pageMax int
	grows   int  // with each answer there are so many records more
	shrinks int  // with each answer so many of the oldest leave
	until   int  // and with that answer the last; 0 means with every one
	mute    bool // the answer says nothing of the chain
	spoil   func(*quotadv1.ListAuditResponse)
	asked   int
}

func (s *trailServer) head() quota.AuditPoint {
	if len(s.records) == 0 {
		return s.base
	}
	r := s.records[len(s.records)-1]
	return quota.AuditPoint{Sequence: r.Sequence, Hash: r.Hash}
}

func (s *trailServer) add() {
	head := s.head()
	r := quota.AuditRecord{Sequence: head.Sequence + 1, Time: time.UnixMilli(head.Sequence), Principal: "alice", Action: "access", After: fmt.Sprint(head.Sequence)}
	r.Hash = r.Link(head.Hash)
	s.records = append(s.records, r)
}

func (s *trailServer) leave() {
	s.base = quota.AuditPoint{Sequence: s.records[0].Sequence, Hash: s.records[0].Hash}
	s.records = s.records[1:]
}

func (s *trailServer) ListAudit(_ context.Context, req *quotadv1.ListAuditRequest) (*quotadv1.ListAuditResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	resp := &quotadv1.ListAuditResponse{}
	head := s.head()
	if !s.mute {
		resp.Chain = &quotadv1.AuditChain{BaseSequence: s.base.Sequence, HeadSequence: head.Sequence, HeadHash: head.Hash[:]}
		if s.base.Sequence > 0 {
			resp.Chain.BaseHash = slices.Clone(s.base.Hash[:])
		}
	}
	before, err := strconv.ParseInt(req.GetPageToken(), 10, 64)
	if err != nil {
		before = head.Sequence + 1
	}
	for _, r := range slices.Backward(s.records) {
		if r.Sequence >= before {
			continue
		}
		if len(resp.Records) == min(s.pageMax, int(req.GetPageSize())) {
			resp.NextPageToken = strconv.FormatInt(r.Sequence+1, 10)
			break
		}
		resp.Records = append(resp.Records, &quotadv1.AuditRecord{
			Sequence: r.Sequence, Time: timestamppb.New(r.Time), Principal: r.Principal, Action: r.Action, After: r.After, Hash: r.Hash[:],
		})
	}
	if s.spoil != nil {
		s.spoil(resp)
	}
	for range s.grows {
		s.add()
	}
	for range s.shrinks {
		if len(s.records) == 0 || s.until > 0 && s.asked > s.until {
			break
		}
		s.leave()
	}
	return resp, nil
}

// serveTrail serves a trail of n records, and returns where.
func serveTrail(t *testing.T, s *trailServer, n int) string {
	t.Helper()
	for range n {
		s.add()
	}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	quotadv1.RegisterInspectServiceServer(g, s)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	return "unix://" + path
}

// edit changes the record with a number on every page that has it.
func edit(n int64, change func(*quotadv1.AuditRecord)) func(*quotadv1.ListAuditResponse) {
	return func(resp *quotadv1.ListAuditResponse) {
		for _, r := range resp.GetRecords() {
			if r.GetSequence() == n {
				change(r)
			}
		}
	}
}

// TestAuditVerifyPages reads a trail of many pages, while it grows at one end and leaves at the other.
func TestAuditVerifyPages(t *testing.T) {
	t.Parallel()
	hundred := &trailServer{}
	for range 100 {
		hundred.add()
	}
	point := func(n int) string {
		r := hundred.records[n-1]
		return quota.AuditPoint{Sequence: r.Sequence, Hash: r.Hash}.String()
	}
	for name, c := range map[string]struct {
		s          *trailServer
		n, asked   int
		args       []string
		out, fault string
	}{
		"none":                  {&trailServer{pageMax: 7}, 0, 1, nil, "0 records, nothing was ever audited", ""},
		"one page":              {&trailServer{pageMax: 100}, 100, 1, nil, "100 records, chain whole from 1 to 100, head " + point(100), ""},
		"two pages":             {&trailServer{pageMax: 99}, 100, 2, nil, "100 records, chain whole from 1 to 100, head " + point(100), ""},
		"many pages":            {&trailServer{pageMax: 7}, 100, 28, nil, "100 records, chain whole from 1 to 100, head " + point(100), ""},
		"growing":               {&trailServer{pageMax: 7, grows: 1}, 100, 28, nil, "100 records, chain whole from 1 to 100, head " + point(100), ""},
		"leaving":               {&trailServer{pageMax: 7, shrinks: 1}, 100, 0, nil, ", head " + point(100), ""},
		"leaving for a while":   {&trailServer{pageMax: 2, shrinks: 2, until: 30, grows: 1}, 100, 0, nil, "chain whole from 61 to 1", ""},
		"leaving all the time":  {&trailServer{pageMax: 2, shrinks: 3, grows: 3}, 100, 0, nil, "", "error: records have left by their age while they were read"},
		"a head":                {&trailServer{pageMax: 7}, 100, 28, []string{"--head", point(50)}, "the head that was noted, 50, is in the chain", ""},
		"the newest head":       {&trailServer{pageMax: 7, grows: 1}, 100, 28, []string{"--head", point(100)}, "the head that was noted, 100, is in the chain", ""},
		"a head that has left":  {&trailServer{pageMax: 100, base: quota.AuditPoint{Sequence: 60}}, 10, 1, []string{"--head", point(50)}, "the head that was noted, 50, has left by its age", ""},
		"a head from elsewhere": {&trailServer{pageMax: 7}, 40, 0, []string{"--head", point(50)}, "", "the head that was noted, 50, is not in the chain: it ends with 40"},
		"another head": {
			&trailServer{pageMax: 7},
			100, 0,
			[]string{"--head", "49" + strings.TrimPrefix(point(50), "50")},
			"", "audit record 49 has another hash than the head that was noted",
		},

		"changed":      {&trailServer{pageMax: 7, spoil: edit(50, func(r *quotadv1.AuditRecord) { r.Principal = "eve" })}, 100, 0, nil, "chain not whole from 1 to 100", "audit record 50 does not match its hash"},
		"the newest":   {&trailServer{pageMax: 7, spoil: edit(100, func(r *quotadv1.AuditRecord) { r.After = "" })}, 100, 0, nil, "not whole", "audit record 100 does not match its hash"},
		"the oldest":   {&trailServer{pageMax: 7, spoil: edit(1, func(r *quotadv1.AuditRecord) { r.Reason = "x" })}, 100, 0, nil, "not whole", "audit record 1 does not match its hash"},
		"no hash":      {&trailServer{pageMax: 7, spoil: edit(50, func(r *quotadv1.AuditRecord) { r.Hash = nil })}, 100, 0, nil, "not whole", "audit record 50 has no hash"},
		"a short hash": {&trailServer{pageMax: 7, spoil: edit(50, func(r *quotadv1.AuditRecord) { r.Hash = r.Hash[:5] })}, 100, 0, nil, "", "a hash of 5 bytes for audit record 50; want 32"},
		"no chain":     {&trailServer{pageMax: 7, mute: true}, 100, 1, nil, "", "does not tell where the chain of its audit trail ends"},
		"one less": {&trailServer{pageMax: 100, spoil: func(resp *quotadv1.ListAuditResponse) {
			resp.Records = append(resp.Records[:10:10], resp.Records[11:]...)
		}}, 100, 0, nil, "99 records, chain not whole", "audit record 90 is missing before audit record 91"},
		"the tail less": {&trailServer{pageMax: 100, spoil: func(resp *quotadv1.ListAuditResponse) {
			resp.Records = resp.Records[10:]
		}}, 100, 0, nil, "90 records, chain not whole", "audit records 91 to 100 are missing at the end: the head is 100"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serveTrail(t, c.s, c.n)
			out, errs, code := ctl(t, server, append([]string{"audit", "verify"}, c.args...)...)
			if want := c.fault != ""; (code == exitError) != want || (code == exitOK) == want {
				t.Errorf("exit %d", code)
			}
			if !strings.Contains(out, c.out) || !strings.Contains(errs, c.fault) || c.fault == "" && errs != "" {
				t.Errorf("%s%s\nwant %q and %q", out, errs, c.out, c.fault)
			}
			if c.asked != 0 && c.s.asked != c.asked {
				t.Errorf("asked %d times, want %d", c.s.asked, c.asked)
			}
		})
	}
}
