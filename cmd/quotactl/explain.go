package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// refusal is an error in words: what went wrong, a line each, and what to do about it.
type refusal struct {
	code  int
	lines []string
	hints []string
}

// hinted is an error with what to do about it, where a command knows better than the reason tells.
type hinted struct {
	err  error
	hint string
	code int // what to exit with; 0 means exitError
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// hint gives a refusal the hint that a command has for its reason; other errors are left as they are.
func hint(err error, hints map[string]string) error {
	st, ok := statusIn(err)
	if !ok || hints[reasonIn(st)] == "" {
		return err
	}
	return &hinted{err: err, hint: hints[reasonIn(st)]}
}

// faults is an error of several lines, none of them more important than the others.
type faults []string

func (f faults) Error() string { return strings.Join(f, "\n") }

// denied is what quotad said no to.
type denied struct{ denial *quotadv1.Denial }

func (e *denied) Error() string { return e.denial.GetMessage() }

// controlHint is what to do where quotad answers applications alone.
const controlHint = "give --server, or QUOTAD_SERVER, the address of --control-listen"

// explain puts an error into words.
func (a *app) explain(err error) refusal {
	r := refusal{code: exitError}
	if e, ok := errors.AsType[*denied](err); ok {
		return a.explainDenial(e.denial)
	}
	if d := denialIn(err); d != nil {
		return a.explainDenial(d)
	}
	if st, ok := statusIn(err); ok {
		r = a.explainStatus(st)
	} else {
		r.lines = strings.Split(err.Error(), "\n")
	}
	if e, ok := errors.AsType[*hinted](err); ok {
		r.hints = nil
		if e.hint != "" {
			r.hints = []string{e.hint}
		}
		if e.code != 0 {
			r.code = e.code
		}
	}
	if e, ok := errors.AsType[*perhaps](err); ok {
		r.hints = append(r.hints, e.hint())
	}
	return r
}

// statusIn returns what an RPC answered, if err comes from one.
func statusIn(err error) (*status.Status, bool) {
	if errors.Is(err, context.Canceled) {
		return status.New(codes.Canceled, err.Error()), true
	}
	with, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	if !ok {
		return nil, false
	}
	return with.GRPCStatus(), true
}

// detailIn returns the first detail of a type that a status carries; the zero value if it carries none.
func detailIn[T any](st *status.Status) T {
	var none T
	for _, d := range st.Details() {
		if d, ok := d.(T); ok {
			return d
		}
	}
	return none
}

// reasonIn returns why quotad itself says that it refused; "" if the status comes from elsewhere.
func reasonIn(st *status.Status) string {
	if info := detailIn[*errdetails.ErrorInfo](st); info.GetDomain() == "quotad" {
		return info.GetReason()
	}
	return ""
}

// denialIn returns the denial that err is; nil if it is something else. gRPC uses the same code for other things, so that it is
// the reason that tells.
func denialIn(err error) *quotadv1.Denial {
	st, ok := statusIn(err)
	if !ok || st.Code() != codes.ResourceExhausted || reasonIn(st) != "LIMIT_EXCEEDED" {
		return nil
	}
	if d := detailIn[*quotadv1.Denial](st); d != nil {
		return d
	}
	return &quotadv1.Denial{Message: st.Message()}
}

// outcomeUnknown tells whether a request that failed may have been carried out all the same.
func outcomeUnknown(err error) bool {
	st, _ := statusIn(err)
	switch st.Code() {
	case codes.Internal:
		return !unsendable(st)
	case codes.DeadlineExceeded, codes.Canceled:
		return true
	case codes.Unavailable:
		reason := reasonIn(st)
		return reason == "OUTCOME_UNKNOWN" || reason == "" && !neverSent(st)
	default:
		return false
	}
}

// neverSent tells whether there was no connection to send a request on.
func neverSent(st *status.Status) bool { return strings.Contains(st.Message(), "while dialing") }

// unsendable tells whether a request could not even be written down: a text in it is not UTF-8.
func unsendable(st *status.Status) bool {
	return st.Code() == codes.Internal && strings.HasPrefix(st.Message(), "grpc: error while marshaling")
}

func (a *app) explainDenial(d *quotadv1.Denial) refusal {
	r := refusal{code: exitDenied}
	never := false
	crowded := ""
	for _, v := range d.GetViolations() {
		r.lines = append(r.lines, a.violation(v))
		never = never || v.GetNever()
		if v.GetMaxInFlight() {
			crowded = v.GetBalance().GetBucket()
		}
	}
	if len(r.lines) == 0 {
		r.lines = []string{d.GetMessage()}
	}
	if n := int(d.GetOmitted()); n > 0 {
		r.lines = append(r.lines, "and "+count(n, "more limit"))
	}
	switch at := d.GetRetryAt(); {
	case at != nil:
		r.hints = []string{fmt.Sprintf("this could pass in %s, at %s, if nothing else is taken", span(at.AsTime().Sub(a.now())), stamp(at.AsTime()))}
	case never:
		r.hints = []string{"no wait can help: ask for less, or have the limit raised"}
	case crowded != "":
		r.hints = []string{"this could pass when a reservation has ended: quotactl reservations " + crowded + " lists those that are open"}
	}
	return r
}

// violation says in a line which limit refused and how much of it is left.
func (a *app) violation(v *quotadv1.Violation) string {
	b := v.GetBalance()
	switch {
	case v.GetMaxInFlight():
		return fmt.Sprintf("%s: %d of %d reservations in flight", b.GetBucket(), b.GetHeld(), v.GetCap())
	case v.GetMaxHold():
		return fmt.Sprintf("%s: one reservation may hold %d of the limit of %d %s/%s; %d asked",
			b.GetBucket(), v.GetCap(), b.GetLimit(), b.GetUnit(), spanOf(b.GetWindow()), v.GetRequested())
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %d of %d %s used", b.GetBucket(), b.GetUsed(), v.GetCap(), b.GetUnit())
	if b.GetHeld() > 0 {
		fmt.Fprintf(&s, " and %d held", b.GetHeld())
	}
	if b.GetEnd() != nil {
		fmt.Fprintf(&s, " this %s", spanOf(b.GetWindow()))
	}
	if v.GetCeiling() {
		s.WriteString(", by the caller's own ceiling")
	} else if b.GetOverridden() {
		s.WriteString(", by an override")
	}
	fmt.Fprintf(&s, "; %d left, %d asked", max(0, v.GetCap()-b.GetUsed()-b.GetHeld()), v.GetRequested())
	if b.GetEnd() != nil {
		fmt.Fprintf(&s, "; resets in %s", span(b.GetEnd().AsTime().Sub(a.now())))
	} else {
		s.WriteString("; never resets")
	}
	return s.String()
}

// explainStatus puts what quotad answered, or what gRPC said in its place, into words.
func (a *app) explainStatus(st *status.Status) refusal {
	r := refusal{code: exitError}
	if bad := detailIn[*errdetails.BadRequest](st); len(bad.GetFieldViolations()) > 0 {
		for _, v := range bad.GetFieldViolations() {
			r.lines = append(r.lines, v.GetField()+": "+v.GetDescription())
		}
		return r
	}
	r.lines = []string{st.Message()}
	if unsendable(st) {
		r.lines = []string{"a text in the request is not UTF-8, so that it was not sent"}
		return r
	}
	if hint := reasonHints[reasonIn(st)]; hint != "" {
		r.hints = []string{hint}
		return r
	}
	switch st.Code() {
	case codes.Unavailable:
		r.lines = []string{fmt.Sprintf("no answer from quotad at %s: %s", a.server, transport(st.Message()))}
		switch {
		case strings.Contains(st.Message(), "authentication handshake failed"):
			r.hints = []string{"--tls-ca names who signed quotad's certificate, --tls-server-name the name it is for; quotad may ask for --tls-cert and --tls-key"}
		case strings.Contains(st.Message(), "reading server preface"):
			r.hints = []string{"does quotad speak TLS there? --tls-ca FILE or --tls speaks it, too"}
		case neverSent(st):
			r.hints = []string{"is quotad running there? quotad --dev starts one to try; --server or QUOTAD_SERVER names another address"}
		}
	case codes.Canceled:
		r.lines = []string{"interrupted"}
	case codes.DeadlineExceeded:
		r.lines = []string{fmt.Sprintf("no answer from quotad at %s within %v", a.server, a.timeout)}
		r.hints = []string{"--timeout waits longer"}
	case codes.Unimplemented:
		r.hints = []string{"this version of quotad does not have that yet; quotactl version shows both versions"}
		if strings.Contains(st.Message(), "(control-listen)") {
			r.hints = []string{controlHint}
		}
	case codes.PermissionDenied:
		about := detailIn[*errdetails.ErrorInfo](st).GetMetadata()
		r.hints = accessHints(about["principal"], about["verb"], about["bucket"])
	case codes.Unauthenticated:
		r.hints = []string{"show quotad who this is: --token-file FILE or QUOTAD_TOKEN_FILE has a token that is not revoked and has not expired, --tls-cert and --tls-key a certificate"}
	case codes.Internal, codes.Unknown:
		r.hints = []string{"a defect in quotad: please report it, with what its log says"}
	default:
	}
	return r
}

// reasonHints say what to do about a refusal, by the reason that quotad gives.
var reasonHints = map[string]string{
	"UNKNOWN_BUCKET":    `declare it with quotactl set, as in: quotactl set NAME "50 calls/day"`,
	"TOO_MANY_BUCKETS":  `declare the bucket, or a pattern such as "acme/*" for all of its kind, or a limit for the unit, with quotactl set`,
	"DECLARED_IN_FILE":  "that is the file of quotad --buckets; it is read again when it changes",
	"REQUEST_ID_REUSED": "one id stands for one request; leave --id out to have a fresh one",
	"RECORD_CORRUPT":    "stop quotad, see what quotactl verify finds in its data directory, and restore a backup",
	"OVERLOADED":        "nothing was changed; try again in a moment",
	"SHUTTING_DOWN":     "nothing was changed; try again when quotad is back",
	"STORAGE_FULL":      "nothing was changed; make room on the disk, or raise the size limit of quotad's file",
	"BACKUP_RUNNING":    "one backup is made at a time; try again when it is done",
	"BACKUP_NO_ROOM":    "the copy is made beside quotad's file first; make room on that disk",
	"OUTCOME_UNKNOWN":   "quotad's disk failed and it stops; look at the machine's log before you start it again",

	"UNKNOWN_RESERVATION": "quotactl reservations --state all lists those that are known; a receipt is kept for a day after its last change",
	"NOT_A_RESERVATION":   "quotactl release gives it back; with --hold, quotactl acquire makes one that can be settled and extended",
	"ALREADY_SETTLED":     "a settlement stands; a correction has to be an acquire or a reservation of its own",
	"ALREADY_RELEASED":    "acquire anew, under another id, what is used all the same",
	"RESERVATION_EXPIRED": "quotactl settle still corrects the count, quotactl release still gives it back; acquire anew to go on",
}

// acquireHints are for an acquire that was made before under its id.
var acquireHints = map[string]string{
	"ALREADY_RELEASED":    "use a new --id to acquire again, or leave --id out to have a fresh one",
	"RESERVATION_EXPIRED": "what it held was given back: use a new --id to acquire again; quotactl settle still counts what was used",
}

// extendHints are for an extension. What has ended holds nothing that could be extended.
var extendHints = map[string]string{
	"REQUEST_ID_REUSED": "one extension id stands for one extension; leave --extend-id out to have a fresh one",
	"ALREADY_SETTLED":   "it holds nothing any more: what is used beyond the settlement has to be an acquire or a reservation of its own",
	"ALREADY_RELEASED":  "it holds nothing any more: acquire anew, under another id, to go on",
}

// transport takes gRPC's own wrapping off the reason for which there was no connection.
func transport(message string) string {
	if _, inner, ok := strings.Cut(message, "while dialing: "); ok {
		return strings.Trim(inner, `"`)
	}
	return message
}
