package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token COMMAND [flags]",
		Short: "make, list and revoke the tokens that callers show",
		Long: `Keeps a tokens file, that of quotad --tokens: bearer tokens by their names, each as a SHA-256 alone, so that no token can be had
from the file. It works on the file and asks no daemon; quotad reads the file again when it changes.`,
		Args: noCommandNamed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef(cmd, "a command is missing; want create, list or revoke")
		},
		// The address of a daemon does not matter here.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkFlags(cmd) },
	}
	for _, c := range []*cobra.Command{a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand()} {
		c.Flags().SortFlags = false
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

// fileFlag is the tokens file that a command works on.
func fileFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "file", "", "the tokens file, `FILE` (required)")
}

func wantFile(cmd *cobra.Command, path string) error {
	if path == "" {
		return usagef(cmd, "--file FILE is missing")
	}
	return nil
}

// The bounds of --expires.
const (
	expiresMin = time.Minute
	expiresMax = 36600 * 24 * time.Hour
)

// tokenJSON is a token for programs.
type tokenJSON struct {
	Name    string `json:"name"`
	Token   string `json:"token,omitempty"` // where it is made alone
	SHA256  string `json:"sha256"`
	Created string `json:"created"`
	Expires string `json:"expires,omitempty"`
	Expired bool   `json:"expired"`
}

func (a *app) tokenJSON(name string, t auth.Token) tokenJSON {
	out := tokenJSON{Name: name, SHA256: t.Hash.String(), Created: stamp(t.Created), Expired: t.Expired(a.now())}
	if !t.Expires.IsZero() {
		out.Expires = stamp(t.Expires)
	}
	return out
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var path, expires string
	cmd := &cobra.Command{
		Use:   "create NAME --file FILE [flags]",
		Short: "make a token, and print it this once",
		Long: `Makes a token and prints it, and nothing else, on standard output; remarks go to standard error. The file keeps its SHA-256, so
that it cannot be printed again. A file that is not there is made, with mode 0600; one that is there keeps its mode and owner.

A name that is taken is refused: revoke that token first, or make one of another name beside it, have the callers take it, and
then revoke the old one.`,
		Example: `  TOKEN=$(quotactl token create ci --file /etc/quotad/tokens.yaml --expires 90d)`,
		Args:    operands("NAME"),

		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&expires, "expires", "", "end to accept it after this `DURATION`, such as 90d (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := cmp.Or(wantFile(cmd, path), checkTokenOperand(cmd, name)); err != nil {
			return err
		}
		made := auth.Token{Created: a.now().UTC().Truncate(time.Second)}
		if expires != "" {
			after, err := config.ParseDuration(expires)
			if err != nil || after < expiresMin || after > expiresMax {
				return usagef(cmd, "--expires %q; want a duration from 1m to 36600d, such as 90d", expires)
			}
			made.Expires = made.Created.Add(after)
		}
		secret, err := auth.NewToken(rand.Reader)
		if err != nil {
			return fmt.Errorf("making a token: %w", err)
		}
		made.Hash = secret.Hash()
		if err := a.changeTokens(cmd.Context(), path, true, func(tokens auth.Tokens) error { return addToken(tokens, name, made, path) }); err != nil {
			return err
		}
		return a.showToken(name, path, secret, made)
	}
	return cmd
}

// checkTokenOperand takes a token's name from the command line.
func checkTokenOperand(cmd *cobra.Command, name string) error {
	if err := auth.CheckTokenName(name); err != nil {
		return usagef(cmd, "NAME: %w", err)
	}
	return nil
}

func addToken(tokens auth.Tokens, name string, t auth.Token, path string) error {
	if _, taken := tokens[name]; taken {
		return &hinted{
			err:  fmt.Errorf("%s has a token %s already, and whoever has it would be locked out", path, name),
			hint: "take another name, or end the old one first: quotactl token revoke " + name + " --file " + path,
		}
	}
	if len(tokens) >= auth.TokensMax {
		return &hinted{err: fmt.Errorf("%s has %d tokens, as many as there may be", path, len(tokens)), hint: "quotactl token list shows which have expired; revoke those"}
	}
	tokens[name] = t
	return nil
}

// showToken prints a token that was made. If nobody can have seen it, it is of no use.
func (a *app) showToken(name, path string, secret auth.Secret, t auth.Token) error {
	shown := a.tokenJSON(name, t)
	shown.Token = secret.Reveal()
	var wrote error
	if err := a.emitOwn(shown, func(w io.Writer) { _, wrote = fmt.Fprintln(w, shown.Token) }); err != nil || wrote != nil {
		return &hinted{
			err:  fmt.Errorf("printing the token: %w", errors.Join(err, wrote)),
			hint: "nobody has seen it, and it is in the file: quotactl token revoke " + name + " --file " + path,
		}
	}
	until := ""
	if shown.Expires != "" {
		until = " until " + shown.Expires
	}
	fmt.Fprintf(a.stderr, "quotactl: token %s is in %s%s; keep it now, it is not shown again\n", name, path, until)
	fmt.Fprintf(a.stderr, "quotactl: it opens what the policy allows the principal that is token:%s\n", name)
	return nil
}

func (a *app) tokenListCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "list --file FILE [flags]",
		Short:   "list the tokens in a file",
		Long:    `Lists the tokens in a file by their names, when each was made, and when it expires. With -o json or yaml, their SHA-256 too.`,
		Example: `  quotactl token list --file /etc/quotad/tokens.yaml`,
		Args:    operands(),
	}
	fileFlag(cmd, &path)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := wantFile(cmd, path); err != nil {
			return err
		}
		tokens, err := loadTokens(path)
		if err != nil {
			return err
		}
		list := struct {
			Tokens []tokenJSON `json:"tokens"`
		}{Tokens: []tokenJSON{}}
		rows := a.newTable("NAME", "CREATED", "EXPIRES", "")
		for _, name := range slices.Sorted(maps.Keys(tokens)) {
			t := a.tokenJSON(name, tokens[name])
			list.Tokens = append(list.Tokens, t)
			state := cell{}
			if t.Expired {
				state = cell{text: "expired", style: yellow}
			}
			rows.add(words(t.Name), words(t.Created), words(t.Expires), state)
		}
		return a.emitOwn(list, rows.write)
	}
	return cmd
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "revoke NAME --file FILE [flags]",
		Short: "take a token out of a file",
		Long: `Takes a token out of a file. As soon as quotad has read the file again, calls that show it are refused; calls that are under way
go on. What was reserved with it stays the principal's, and can be settled by whoever else is that principal.`,
		Example: `  quotactl token revoke ci --file /etc/quotad/tokens.yaml`,
		Args:    operands("NAME"),

		ValidArgsFunction: func(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			tokens, err := auth.LoadTokens(path)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names := slices.Sorted(maps.Keys(tokens))
			return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, start) }), cobra.ShellCompDirectiveNoFileComp
		},
	}
	fileFlag(cmd, &path)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := cmp.Or(wantFile(cmd, path), checkTokenOperand(cmd, name)); err != nil {
			return err
		}
		var was auth.Token
		err := a.changeTokens(cmd.Context(), path, false, func(tokens auth.Tokens) error {
			var known bool
			if was, known = tokens[name]; !known {
				return &hinted{err: fmt.Errorf("%s has no token %s", path, name), hint: "quotactl token list --file " + path + " lists those it has"}
			}
			delete(tokens, name)
			return nil
		})
		if err != nil {
			return err
		}
		return a.emitOwn(a.tokenJSON(name, was), func(w io.Writer) {
			fmt.Fprintf(w, "token %s is out of %s\n", name, path)
		})
	}
	return cmd
}

// loadTokens reads a tokens file that has to be there.
func loadTokens(path string) (auth.Tokens, error) {
	tokens, err := auth.LoadTokens(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &hinted{err: err, hint: "quotactl token create NAME --file " + path + " makes it, with a first token"}
	case err != nil:
		return nil, &hinted{err: err, hint: "mend the file; nothing was changed"}
	}
	return tokens, nil
}
