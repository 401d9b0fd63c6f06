package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

// When the doctor warns, and when it calls something wrong.
const (
	skewWarn   = 2 * time.Second // between two clocks that are kept by NTP there are milliseconds
	skewFail   = time.Minute     // minute windows of the daemon are not the app's any more
	slowAnswer = 250 * time.Millisecond
	certWarn   = 14 * 24 * time.Hour
	fullWarn   = 80 // percent of what the file may grow to
	fullFail   = 95
)

// reach tells whether quotad can be reached at all.
func (d *doctor) reach(ctx context.Context) bool {
	ctx, cancel := d.a.within(ctx)
	defer cancel()
	var from peer.Peer
	began := d.a.now()
	resp, err := grpc_health_v1.NewHealthClient(d.a.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Peer(&from))
	took := d.a.now().Sub(began)
	if err != nil {
		r := d.a.explain(err)
		d.say("reachable", failV, strings.Join(r.lines, "; "), cmp.Or(strings.Join(r.hints, "; "), "is it running, and is --server where it listens?"))
		return false
	}
	if took > slowAnswer {
		d.say("reachable", warnV, fmt.Sprintf("%s answered after %v", d.a.server, took.Round(time.Millisecond)), "an acquire waits as long: look at the way there, and at the daemon's load")
	} else {
		d.well("reachable", "%s answered", d.a.server)
	}
	if resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING {
		d.well("serving", "yes")
	} else {
		d.say("serving", failV, "it answers, and does not serve", "see the problems below; quotactl status repeats them")
	}
	d.certificate(from.AuthInfo)
	return true
}

// certificate looks at how long the server's certificate is good.
func (d *doctor) certificate(info credentials.AuthInfo) {
	secured, ok := info.(credentials.TLSInfo)
	if !ok {
		d.well("transport", "in the clear, on this machine")
		return
	}
	left := secured.State.PeerCertificates[0].NotAfter.Sub(d.a.now())
	found := fmt.Sprintf("%s; the certificate is good for %s", tls.VersionName(secured.State.Version), span(left))
	if left < certWarn {
		d.say("transport", warnV, found, "renew it; quotad reads the new one by itself")
		return
	}
	d.well("transport", "%s", found)
}

// identity tells who quotad takes its caller for.
func (d *doctor) identity(ctx context.Context) {
	ctx, cancel := d.a.within(ctx)
	defer cancel()
	who, err := d.a.inspect().WhoAmI(ctx, &quotadv1.WhoAmIRequest{})
	for _, g := range who.GetGrants() {
		d.seesAll = d.seesAll || g.GetVerb() == auth.Inspect.String() && slices.Contains(g.GetBuckets(), string(auth.Everything))
	}
	switch {
	case err != nil:
		d.say("identity", skipV, strings.Join(d.a.explain(err).lines, "; "), controlHint)
	case !who.GetPolicy():
		d.say("identity", warnV, "there is no policy: whoever reaches quotad may do everything", "fine on your own machine; with other users or containers beside it give quotad --policy")
	case who.GetPrincipal() == "":
		d.say("identity", failV, "you are nobody: "+cmp.Or(strings.Join(who.GetIdentities(), ", "), "you showed nothing"), "name one of these in the policy, or give --tls-cert or --token-file")
	default:
		var may []string
		for _, g := range who.GetGrants() {
			may = append(may, g.GetVerb()+" "+strings.Join(g.GetBuckets(), ", "))
		}
		d.well("identity", "%s, by %s; may %s", who.GetPrincipal(), strings.Join(who.GetIdentities(), ", "), strings.Join(may, "; "))
	}
}

// status asks the daemon how it is; nil if it does not say.
func (d *doctor) status(ctx context.Context) *quotadv1.GetStatusResponse {
	ctx, cancel := d.a.within(ctx)
	defer cancel()
	resp, err := d.a.inspect().GetStatus(ctx, &quotadv1.GetStatusRequest{})
	if err != nil {
		advice := "the doctor sees more with inspect on some bucket"
		if status.Code(err) == codes.Unimplemented {
			advice = controlHint
		}
		d.say("status", skipV, strings.Join(d.a.explain(err).lines, "; "), advice)
		return nil
	}
	if mine := buildVersion(); resp.GetVersion() != mine {
		d.say("version", warnV, fmt.Sprintf("quotad is %s, quotactl is %s", resp.GetVersion(), mine), "use the quotactl of the same release")
	} else {
		d.well("version", "%s", mine)
	}
	if resp.GetEngine() == "memory" {
		d.say("durable", failV, "it counts in memory, and forgets everything when it stops", "start it with --data DIR")
	} else {
		d.well("durable", "yes, in %s", resp.GetEngine())
	}
	return resp
}

// clock compares the daemon's time with this machine's. The ledger's time moves with every reading, so it is as fresh as the answer.
func (d *doctor) clock(s *quotadv1.GetStatusResponse) {
	skew := s.GetLedgerTime().AsTime().Sub(d.a.now()).Abs()
	found := fmt.Sprintf("the ledger is at %s, %v from this machine's clock", stamp(s.GetLedgerTime().AsTime()), skew.Round(time.Millisecond))
	switch {
	case skew > skewFail:
		d.say("clock", failV, found, "set both by NTP; if the ledger is ahead it waits until the clock has caught up, and --accept-clock sets it back once")
	case skew > skewWarn:
		d.say("clock", warnV, found, "set both by NTP: windows begin and end by quotad's clock")
	default:
		d.well("clock", "%s", found)
	}
}

// file looks at how full the data file is.
func (d *doctor) file(s *quotadv1.GetStatusResponse) {
	if s.GetFileBytesMax() <= 0 {
		return
	}
	percent := s.GetFileBytes() * 100 / s.GetFileBytesMax()
	found := fmt.Sprintf("%s of at most %s (%d%%)", sizeOf(s.GetFileBytes()), sizeOf(s.GetFileBytesMax()), percent)
	const advice = "raise --max-size, or keep counts for less long with --retain"
	switch {
	case percent >= fullFail:
		d.say("file", failV, found, advice)
	case percent >= fullWarn:
		d.say("file", warnV, found, advice)
	default:
		d.well("file", "%s", found)
	}
	if most := s.GetUndeclaredNamesMax(); most > 0 && s.GetUndeclaredNames()*100/most >= fullWarn {
		d.say("names", warnV, fmt.Sprintf("%d of at most %d undeclared names are counted today", s.GetUndeclaredNames(), most), "somebody may put ids into bucket names: declare what you mean, and --default off refuses the rest")
	}
}

func (d *doctor) problems(s *quotadv1.GetStatusResponse) {
	for _, p := range s.GetProblems() {
		d.say("problem", failV, p, "docs/operations.md and docs/runbooks say what each problem means")
	}
	if len(s.GetProblems()) == 0 {
		d.well("problems", "none")
	}
}

// bucketsDrift compares what is declared with the file that should be.
func (d *doctor) bucketsDrift(ctx context.Context) {
	want, err := config.LoadBuckets(d.o.buckets)
	if err != nil {
		d.say("buckets", failV, err.Error(), "the daemon would refuse this file too")
		return
	}
	if !d.seesAll {
		d.say("buckets", skipV, "you may not see all that is declared", "it takes inspect on ** to compare it with a file")
		return
	}
	resp, err := d.a.listBuckets(ctx, &quotadv1.ListBucketsRequest{DeclaredOnly: true}, true)
	if err != nil {
		d.say("buckets", skipV, strings.Join(d.a.explain(err).lines, "; "), "try again when quotad answers")
		return
	}
	have := make(map[string]quota.Settings)
	for _, v := range resp.GetBuckets() {
		have[v.GetName()] = settingsOf(v.GetDeclared())
	}
	var drift []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := have[name]; !ok {
			drift = append(drift, name+" is not declared")
		} else if !got.Equal(want[name]) {
			drift = append(drift, fmt.Sprintf("%s is %s, and should be %s", name, got, want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			drift = append(drift, name+" is declared, and not in the file")
		}
	}
	if len(drift) == 0 {
		d.well("buckets", "%s is in force", d.o.buckets)
		return
	}
	d.say("buckets", failV, fmt.Sprintf("%s: %s", d.o.buckets, someOf(drift)), "quotad --buckets keeps to a file by itself; quotactl apply -f makes it so once")
}

// policyDrift compares the policy that is in force with the file that should be, by what the daemon noted when it took it.
func (d *doctor) policyDrift(ctx context.Context) {
	want, err := auth.LoadAccess(d.o.policy, d.o.tokens)
	if err != nil {
		d.say("policy", failV, err.Error(), "the daemon would refuse this file too")
		return
	}
	if !d.seesAll {
		d.say("policy", skipV, "you may not see what the daemon noted of its policy", "it takes inspect on ** to compare it with a file")
		return
	}
	resp, err := d.a.listAudit(ctx, &quotadv1.ListAuditRequest{}, auditsRead)
	if err != nil {
		d.say("policy", skipV, strings.Join(d.a.explain(err).lines, "; "), "try again when quotad answers")
		return
	}
	for _, r := range resp.GetRecords() {
		switch {
		case r.GetAction() != "access":
		case strings.HasSuffix(r.GetAfter(), "sum "+want.Sum()):
			d.well("policy", "%s is in force since %s", d.o.policy, stamp(r.GetTime().AsTime()))
			return
		default:
			advice := "copy the file to where quotad --policy reads it; it takes it by itself"
			if d.o.tokens == "" {
				advice = "give --tokens, too, if quotad has it: both are compared together; else " + advice
			}
			d.say("policy", failV, fmt.Sprintf("another one was taken at %s", stamp(r.GetTime().AsTime())), advice)
			return
		}
	}
	d.say("policy", failV, "the daemon has noted no policy", "start it with --policy")
}

// auditsRead is how far back the doctor looks for what it wants in the audit trail.
const auditsRead = 10_000

// records makes a backup and checks every record of it.
func (d *doctor) records(ctx context.Context) {
	dir, err := os.MkdirTemp("", "quotactl-doctor-")
	if err != nil {
		d.say("records", skipV, err.Error(), "it takes room for a copy of the file")
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the directory for temporary files
	made, err := d.a.backup(ctx, filepath.Join(dir, "quotad.db"), false)
	if err != nil {
		d.say("records", failV, strings.Join(d.a.explain(err).lines, "; "), "it takes admin on **; if the copy is not sound keep the file, and see docs/runbooks")
		return
	}
	d.well("records", "a backup of %s verifies: %s, %s", sizeOf(made.Bytes), count(made.Accounts, "count"), count(made.Receipts, "receipt"))
}

// someOf lists the first of many texts.
func someOf(texts []string) string {
	const shown = 5
	if len(texts) <= shown {
		return strings.Join(texts, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(texts[:shown], "; "), len(texts)-shown)
}
