package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

func (a *app) authCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth COMMAND [flags]",
		Short: "tell who may do what",
		Long:  `Tells whom quotad takes this caller for, and whether somebody may do something with a bucket, and why.`,
		Args:  noCommandNamed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef(cmd, "a command is missing; want can or whoami")
		},
		// With a policy file no daemon is asked, so that its address does not matter.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkFlags(cmd) },
	}
	for _, c := range []*cobra.Command{a.authCanCommand(), a.authWhoAmICommand()} {
		c.Flags().SortFlags = false
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func (a *app) authWhoAmICommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami [flags]",
		Short: "tell whom quotad takes this caller for, and what that one may do",
		Long: `Tells whom quotad takes this caller for, what the connection and the token show about it, and what the policy lets it do. Everybody
may ask, also who may do nothing else.`,
		Example: `  quotactl auth whoami --token-file ~/.quotad-token --tls-ca ca.pem --server quotad.acme.example:7070`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.connectFor(cmd); err != nil {
				return err
			}
			ctx, cancel := a.within(cmd.Context())
			defer cancel()
			resp, err := a.inspect().WhoAmI(ctx, &quotadv1.WhoAmIRequest{})
			if err != nil {
				return err
			}
			return a.emit(resp, func(w io.Writer) { a.showCaller(w, resp) })
		},
	}
}

func (a *app) showCaller(w io.Writer, who *quotadv1.WhoAmIResponse) {
	facts := [][2]string{{"principal", orDash(who.GetPrincipal())}, {"shows", orDash(strings.Join(who.GetIdentities(), ", "))}}
	for _, g := range who.GetGrants() {
		facts = append(facts, [2]string{"may " + g.GetVerb(), strings.Join(g.GetBuckets(), ", ")})
	}
	if len(who.GetGrants()) == 0 {
		facts = append(facts, [2]string{"may", "nothing"})
	}
	if !who.GetPolicy() {
		facts = append(facts, [2]string{"policy", "there is none: whoever reaches quotad may do everything"})
	}
	a.showFacts(w, facts)
}

// whether is a question about a policy.
type whether struct {
	who, verb, bucket string
	policy, tokens    string // files; "" asks the daemon
}

func (a *app) authCanCommand() *cobra.Command {
	var q whether
	cmd := &cobra.Command{
		Use:   "can VERB BUCKET --as WHO [flags]",
		Short: "tell whether somebody may do something, and why; exits with 0 or 3",
		Long: `Tells whether WHO may do VERB with BUCKET, and what decides it: it exits with 0 if so, and 3 if not. VERB is acquire, settle, inspect or
admin. BUCKET is a bucket, a declared pattern such as acme/*, or ** for every bucket. WHO is a principal of the policy, or an identity
such as uid:1000, token:ci, dns:chat.acme.example or spiffe://acme.example/chat.

It asks quotad, of which one has to be allowed to admin every bucket; with --policy it reads that file instead, before quotad does.`,
		Example: `  quotactl auth can --as token:ci acquire acme/build
  quotactl auth can --as chat admin acme/alice --policy policy.yaml --tokens tokens.yaml`,
		Args:              operands("VERB", "BUCKET"),
		ValidArgsFunction: a.completeVerb,
	}
	flags := cmd.Flags()
	flags.StringVar(&q.who, "as", "", "a principal or an identity, `WHO` (required)")
	flags.StringVar(&q.policy, "policy", "", "ask the policy in `FILE`, and no daemon")
	flags.StringVar(&q.tokens, "tokens", "", "the tokens of that policy, `FILE`")
	a.completeFlag(cmd, "as", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q.verb, q.bucket = args[0], args[1]
		verb, err := auth.ParseVerb(q.verb)
		if err != nil {
			return usagef(cmd, "%w", err)
		}
		if q.bucket != string(auth.Everything) {
			if err := quota.CheckPattern(q.bucket); err != nil {
				return usagef(cmd, "bucket: %w; or ** for every bucket", err)
			}
		}
		switch {
		case q.who == "":
			return usagef(cmd, "--as WHO is missing")
		case q.tokens != "" && q.policy == "":
			return usagef(cmd, "--tokens goes with --policy")
		}
		resp, err := a.mayDo(cmd, verb, q)
		if err != nil {
			return err
		}
		err = a.emit(resp, func(w io.Writer) {
			if resp.GetAllowed() {
				fmt.Fprintln(w, resp.GetReason())
			}
		})
		if err != nil || resp.GetAllowed() {
			return err
		}
		return &hinted{err: fmt.Errorf("%s", resp.GetReason()), code: exitDenied}
	}
	return cmd
}

// mayDo asks the files, or the daemon.
func (a *app) mayDo(cmd *cobra.Command, verb auth.Verb, q whether) (*quotadv1.ExplainAccessResponse, error) {
	if q.policy != "" {
		access, err := auth.LoadAccess(q.policy, q.tokens)
		if err != nil {
			return nil, err
		}
		e := access.Explain(q.who, verb, q.bucket, a.now())
		return &quotadv1.ExplainAccessResponse{Allowed: e.Allowed, Principal: e.Principal, Reason: e.Reason}, nil
	}
	if err := a.connectFor(cmd); err != nil {
		return nil, err
	}
	ctx, cancel := a.within(cmd.Context())
	defer cancel()
	return a.admin().ExplainAccess(ctx, &quotadv1.ExplainAccessRequest{Who: q.who, Verb: q.verb, Bucket: q.bucket})
}

// completeVerb completes the first operand with a verb, and the second with a bucket.
func (a *app) completeVerb(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return a.completeBucket(cmd, nil, start)
	}
	var verbs []string
	for _, v := range auth.Verbs() {
		verbs = append(verbs, v.String())
	}
	return verbs, cobra.ShellCompDirectiveNoFileComp
}

// accessHints say what to do about a refusal by the policy, of whom quotad named.
func accessHints(principal, verb, bucket string) []string {
	who, _, _ := strings.Cut(principal, " ")
	first, _, _ := strings.Cut(bucket, ",")
	hints := []string{"quotactl auth whoami tells whom quotad takes this caller for, and what that one may do"}
	if who != "" && verb != "" {
		hints = append(hints, fmt.Sprintf("who may admin everything is told why by: quotactl auth can --as %s %s %s", shellWord(who), verb, shellWord(cmp.Or(first, "**"))))
	}
	return hints
}
