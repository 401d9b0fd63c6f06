package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var head, data string
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "check that no record of the audit trail was changed",
		Long: `Reads the whole audit trail and works the chain of its hashes out anew: each record has a hash over itself and the hash before it,
so that one that was changed, removed, moved or put in between is found. It exits with 1 if there is one, and names it.

Who can write the data file can work the whole chain out anew as well. What shows that is a head that was noted elsewhere: this
command prints the head, and with --head it tells whether one that was printed before is still in the chain. Note the head where
the machine of the daemon cannot reach it, such as in the log of another one.

With --data it reads the data directory of a daemon that has stopped, or a backup, and asks nobody.`,
		Example: `  quotactl audit verify
  quotactl audit verify --head 41:9d1f6b0c...`,
		Args:              operands(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().SortFlags = false
	cmd.DisableFlagsInUseLine = true
	cmd.Flags().StringVar(&head, "head", "", "a head that was noted before, `SEQUENCE:HASH`")
	cmd.Flags().StringVar(&data, "data", "", "read the data directory `DIR` of a stopped daemon, or a backup")
	a.completeFlag(cmd, "head", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var noted quota.AuditPoint
		if cmd.Flags().Changed("head") {
			var err error
			if noted, err = quota.ParseAuditPoint(head); err != nil {
				return usagef(cmd, "--head: %w", err)
			}
		}
		c := trailCheck{noted: noted, source: a.server}
		var err error
		if cmd.Flags().Changed("data") {
			c.source = data
			err = c.file(cmd.Context())
		} else {
			err = c.daemon(cmd.Context(), a)
		}
		if err != nil {
			return err
		}
		if err := a.emitOwn(c.json(), func(w io.Writer) { c.show(w) }); err != nil {
			return err
		}
		return c.verdict()
	}
	return cmd
}

// trailCheck is one verification of the audit trail.
type trailCheck struct {
	source  string           // where it was read
	noted   quota.AuditPoint // the head that was noted before; zero if none was
	there   quota.AuditHash  // the hash that the chain has at its number
	reached bool             // whether the chain has that number
	left    int64            // the last record that had left by the newest of quotad's answers
	store.AuditReport
}

// seen is told of each place in the chain.
func (c *trailCheck) seen(p quota.AuditPoint) {
	if p.Sequence == c.noted.Sequence {
		c.there, c.reached = p.Hash, true
	}
}

func (c *trailCheck) fault(err error) {
	switch {
	case err == nil:
	case len(c.Faults) == 100:
		c.MoreFaults++
	default:
		c.Faults = append(c.Faults, err.Error())
	}
}

// file reads the trail from a directory or a file that nobody has open.
func (c *trailCheck) file(ctx context.Context) error {
	info, err := os.Stat(c.source)
	if err != nil {
		return fmt.Errorf("looking for the data: %w", err)
	}
	var e store.Engine
	if info.IsDir() {
		e, err = boltengine.Open(c.source, boltengine.Options{ReadOnly: true})
	} else {
		e, err = boltengine.OpenFile(c.source)
	}
	if err != nil {
		return offlineError(err)
	}
	c.AuditReport, err = store.VerifyAudit(ctx, e, c.seen)
	return errors.Join(err, e.Close())
}

// readings is how often the trail is read anew where records have left under the reading.
const readings = 3

// daemon reads the trail from quotad.
func (c *trailCheck) daemon(ctx context.Context, a *app) error {
	for range readings {
		c.AuditReport, c.reached, c.left = store.AuditReport{}, false, 0
		if err := c.pages(ctx, a); err != nil {
			return err
		}
		if len(c.Faults) == 0 || c.left <= c.Chain.Base.Sequence {
			return nil
		}
	}
	return &hinted{err: errors.New("records have left by their age while they were read"), hint: "run it again"}
}

// pages reads the trail once. Its pages begin with the newest record and the chain with the oldest, so that the tokens of all pages
// are looked up first, and then the pages are read from the last to the first: there may be more records than fit into memory. What is
// added meanwhile is left out: the head is that of the first answer.
func (c *trailCheck) pages(ctx context.Context, a *app) error {
	newest, err := a.auditPage(ctx, &quotadv1.ListAuditRequest{PageSize: 1000})
	if err != nil {
		return err
	}
	if newest.GetChain() == nil {
		return &hinted{
			err:  fmt.Errorf("quotad at %s does not tell where the chain of its audit trail ends", a.server),
			hint: "it is older than that, or you may not inspect every bucket",
		}
	}
	if c.Chain.Head, err = auditPoint(newest.GetChain().GetHeadSequence(), newest.GetChain().GetHeadHash()); err != nil {
		return err
	}
	var tokens []string
	oldest := newest
	for oldest.GetNextPageToken() != "" {
		tokens = append(tokens, oldest.GetNextPageToken())
		if oldest, err = a.auditPage(ctx, &quotadv1.ListAuditRequest{PageSize: 1000, PageToken: oldest.GetNextPageToken()}); err != nil {
			return err
		}
	}
	var chain *quota.Chain
	if len(tokens) > 0 {
		if chain, err = c.page(chain, oldest); err != nil {
			return err
		}
		for _, token := range slices.Backward(tokens[:len(tokens)-1]) {
			page, err := a.auditPage(ctx, &quotadv1.ListAuditRequest{PageSize: 1000, PageToken: token})
			if err != nil {
				return err
			}
			if chain, err = c.page(chain, page); err != nil {
				return err
			}
		}
	}
	if chain, err = c.page(chain, newest); err != nil {
		return err
	}
	c.fault(chain.End(c.Chain.Head))
	return nil
}

// page adds the records of a page to the chain, which begins where it does when the first of them is read: others may leave
// meanwhile.
func (c *trailCheck) page(chain *quota.Chain, page *quotadv1.ListAuditResponse) (*quota.Chain, error) {
	c.left = max(c.left, page.GetChain().GetBaseSequence())
	if chain == nil || c.Records == 0 {
		base, err := auditPoint(page.GetChain().GetBaseSequence(), page.GetChain().GetBaseHash())
		if err != nil {
			return nil, err
		}
		c.Chain.Base, chain = base, quota.NewChain(base)
		c.seen(base)
	}
	for _, r := range slices.Backward(page.GetRecords()) {
		p, err := auditPoint(r.GetSequence(), r.GetHash())
		if err != nil {
			return nil, err
		}
		c.Records++
		c.fault(chain.Add(quota.AuditRecord{
			Sequence: r.GetSequence(), Time: r.GetTime().AsTime(), Principal: r.GetPrincipal(), Action: r.GetAction(),
			Bucket: r.GetBucket(), Before: r.GetBefore(), After: r.GetAfter(), Reason: r.GetReason(), Hash: p.Hash,
		}))
		c.seen(chain.Last())
	}
	return chain, nil
}

// auditPoint reads a place in the chain as the contract has it, where no hash is none.
func auditPoint(sequence int64, hash []byte) (quota.AuditPoint, error) {
	p := quota.AuditPoint{Sequence: sequence}
	if len(hash) != 0 && len(hash) != len(p.Hash) {
		return p, fmt.Errorf("quotad sent a hash of %d bytes for audit record %d; want %d", len(hash), sequence, len(p.Hash))
	}
	copy(p.Hash[:], hash)
	return p, nil
}

// headFault says what speaks against the head that was noted; "" if nothing does.
func (c *trailCheck) headFault() string {
	switch {
	case c.noted == (quota.AuditPoint{}), c.reached && c.there == c.noted.Hash, c.tooOld():
		return ""
	case c.reached:
		return fmt.Sprintf("audit record %d has another hash than the head that was noted: %s, noted was %s", c.noted.Sequence, c.there, c.noted.Hash)
	case c.noted.Sequence > c.Chain.Head.Sequence:
		return fmt.Sprintf("the head that was noted, %d, is not in the chain: it ends with %d", c.noted.Sequence, c.Chain.Head.Sequence)
	}
	return fmt.Sprintf("the head that was noted, %d, is not in the chain", c.noted.Sequence)
}

// tooOld tells whether the head that was noted has left by its age, so that nothing can be said of it.
func (c *trailCheck) tooOld() bool {
	return c.noted.Sequence > 0 && c.noted.Sequence < c.Chain.Base.Sequence
}

// faults is all that is wrong.
func (c *trailCheck) faults() []string {
	all := append([]string{}, c.Faults...)
	if f := c.headFault(); f != "" {
		all = append(all, f)
	}
	return all
}

// verdict is the error of a trail that has faults.
func (c *trailCheck) verdict() error {
	found := c.faults()
	if len(found) == 0 {
		return nil
	}
	lines := append(faults{fmt.Sprintf("the audit trail of %s is not whole: %s", c.source, count(len(found)+c.MoreFaults, "fault"))}, found...)
	if c.MoreFaults > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", c.MoreFaults))
	}
	hint := "keep the data file, and compare it with a backup: quotactl audit verify --data reads both"
	if len(c.Faults) == 0 {
		hint = "the whole chain was worked out anew after the head was noted, or another ledger is in place: " + hint
	}
	return &hinted{err: lines, hint: hint}
}

// show prints what stands.
func (c *trailCheck) show(w io.Writer) {
	verdict := "whole"
	if len(c.Faults) > 0 {
		verdict = "not whole"
	}
	switch {
	case c.Chain.Head.Sequence == 0 && c.Records == 0:
		fmt.Fprintln(w, "0 records, nothing was ever audited")
	case c.Records == 0:
		fmt.Fprintf(w, "0 records, chain %s, all have left, head %s\n", verdict, c.Chain.Head)
	default:
		fmt.Fprintf(w, "%s, chain %s from %d to %d, head %s\n", count(c.Records, "record"), verdict, c.Chain.Base.Sequence+1, c.Chain.Head.Sequence, c.Chain.Head)
	}
	switch {
	case c.noted == (quota.AuditPoint{}), c.headFault() != "":
	case c.tooOld():
		fmt.Fprintf(w, "the head that was noted, %d, has left by its age: nothing can be said of it\n", c.noted.Sequence)
	default:
		fmt.Fprintf(w, "the head that was noted, %d, is in the chain: nothing up to it was changed since\n", c.noted.Sequence)
	}
}

// trailJSON is a verification for programs.
type trailJSON struct {
	Whole      bool     `json:"whole"`
	Records    int      `json:"records"`
	Base       string   `json:"base,omitempty"` // the last record that has left; absent if none has
	Head       string   `json:"head,omitempty"` // absent if there never was a record
	Noted      string   `json:"noted,omitempty"`
	NotedFound *bool    `json:"noted_found,omitempty"` // absent if there is none, or it has left
	Faults     []string `json:"faults"`
	MoreFaults int      `json:"more_faults"`
}

func (c *trailCheck) json() trailJSON {
	out := trailJSON{Records: c.Records, Faults: c.faults(), MoreFaults: c.MoreFaults}
	out.Whole = len(out.Faults) == 0
	if c.Chain.Base.Sequence > 0 {
		out.Base = c.Chain.Base.String()
	}
	if c.Chain.Head.Sequence > 0 {
		out.Head = c.Chain.Head.String()
	}
	if c.noted != (quota.AuditPoint{}) {
		out.Noted = c.noted.String()
		if found := c.headFault() == ""; !c.tooOld() {
			out.NotedFound = &found
		}
	}
	return out
}
