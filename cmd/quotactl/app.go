package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// env is what a command has of the world, so that tests can give it another one.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	isTerminal     func(stream int) bool // 0, 1, 2: standard input, output, error
	now            func() time.Time
}

// app is one run: the world, the flags that every command has, and the connection.
type app struct {
	env
	server  string
	secure  secureFlags
	timeout time.Duration
	output  string
	color   string
	conn    *grpc.ClientConn
}

const defaultServer = "127.0.0.1:7070"

// run runs one command and returns what to exit with.
func run(ctx context.Context, args []string, e env) int {
	a := &app{env: e}
	defer a.close()
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(cmd, err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "quotactl COMMAND [flags]",
		Short: "quotactl works a quotad from a shell",
		Long: `quotactl works a quotad from a shell: it takes quota before a call, shows counts, and changes what is declared.

It exits with 0 if all went well, 1 on an error, 2 if it was called wrongly, and 3 if quotad denied:

  quotactl acquire portfolio && aws bedrock-runtime invoke-model ...`,
		Args:              noCommandNamed,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		SilenceErrors:     true,
		SilenceUsage:      true,
	}
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&a.server, "server", "", "the `ADDRESS` of quotad, host:port or unix:///path (default $QUOTAD_SERVER, else "+defaultServer+")")
	a.secure.register(root)
	flags.DurationVar(&a.timeout, "timeout", 5*time.Second, "the `DURATION` to wait for an answer")
	flags.StringVarP(&a.output, "output", "o", "table", "the `FORMAT` of what is printed: table, json or yaml")
	flags.StringVar(&a.color, "color", "auto", "`WHEN` to use colours: auto, always or never; NO_COLOR turns auto off")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd: cmd, err: err} })
	root.Flags().SortFlags = false
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	root.SetHelpCommand(helpCommand())
	a.addCommands(root)
	fixed := func(words ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	for flag, complete := range map[string]cobra.CompletionFunc{
		"output": fixed("table", "json", "yaml"),
		"color":  fixed("auto", "always", "never"),
		"server": cobra.NoFileCompletions, "timeout": cobra.NoFileCompletions,
	} {
		if err := root.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic("main: a flag that was just made is missing: " + err.Error())
		}
	}
	return root
}

func (a *app) addCommands(root *cobra.Command) {
	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"take", "Take quota:", []*cobra.Command{
			a.acquireCommand(), a.checkCommand(), a.settleCommand(), a.releaseCommand(), a.extendCommand(),
		}},
		{"look", "Look:", []*cobra.Command{
			a.listCommand(), a.getCommand(), a.reservationsCommand(), a.historyCommand(), a.watchCommand(), a.auditCommand(),
		}},
		{"change", "Change:", []*cobra.Command{
			a.setCommand(), a.deleteCommand(), a.overrideCommand(), a.resetCommand(), a.applyCommand(), a.exportCommand(),
		}},
		{"keep", "Keep:", []*cobra.Command{a.backupCommand(), a.restoreCommand(), a.verifyCommand()}},
		{"access", "Who may call:", []*cobra.Command{a.authCommand(), a.tokenCommand()}},
		{"daemon", "The daemon:", []*cobra.Command{a.healthCommand(), a.statusCommand(), a.doctorCommand(), a.versionCommand()}},
		{"shell", "The shell:", []*cobra.Command{a.completionCommand()}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			c.Flags().SortFlags = false
			c.DisableFlagsInUseLine = true
			root.AddCommand(c)
		}
	}
}

// prepare checks the flags that every command has, and makes the connection; it is not dialled before it is used.
func (a *app) prepare(cmd *cobra.Command) error {
	if err := a.checkFlags(cmd); err != nil {
		return err
	}
	if offline(cmd) {
		return nil
	}
	return a.connectFor(cmd)
}

// offline tells whether a command works on files alone, so that it does not matter where quotad is.
func offline(cmd *cobra.Command) bool {
	return slices.Contains([]string{"verify", "restore", "completion"}, cmd.Name()) && cmd.Parent() == cmd.Root()
}

// connectFor connects, and says how the command is called if that cannot be.
func (a *app) connectFor(cmd *cobra.Command) error {
	err := a.connect()
	if wrong, ok := errors.AsType[*usageError](err); ok {
		wrong.cmd = cmd
		return wrong
	}
	if err != nil {
		return &usageError{cmd: cmd, err: err}
	}
	return nil
}

// checkFlags checks those that say how to answer.
func (a *app) checkFlags(cmd *cobra.Command) error {
	formats := []string{"table", "json", "yaml"}
	if cmd.Name() == "history" {
		formats = append(formats, "csv")
	}
	switch {
	case a.output == "csv" && !slices.Contains(formats, "csv"):
		return usagef(cmd, "--output csv is for history alone; want %s", either(formats))
	case !slices.Contains(formats, a.output):
		return usagef(cmd, "--output %q is unknown; want %s", a.output, either(formats))
	case a.color != "auto" && a.color != "always" && a.color != "never":
		return usagef(cmd, "--color %q is unknown; want auto, always or never", a.color)
	case a.timeout <= 0:
		return usagef(cmd, "--timeout %v leaves no time; want a duration such as 5s", a.timeout)
	}
	return nil
}

// connect makes the connection without dialling it.
func (a *app) connect() error {
	a.server = cmp.Or(a.server, a.getenv("QUOTAD_SERVER"), defaultServer)
	if err := checkServer(a.server); err != nil {
		return err
	}
	again := backoff.DefaultConfig
	again.BaseDelay, again.MaxDelay = 50*time.Millisecond, time.Second // a restart takes less than gRPC's own first pause
	opts, err := a.security()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(a.server, append(opts,
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: a.timeout}),
		grpc.WithUserAgent("quotactl/"+buildVersion()))...)
	if err != nil {
		return fmt.Errorf("server %q: %w", a.server, err)
	}
	a.conn = conn
	return nil
}

// checkServer tells what is wrong with an address before gRPC waits for it in vain.
func checkServer(server string) error {
	const right = "; want host:port such as " + defaultServer + ", or unix:///path/to/socket"
	if path, ok := strings.CutPrefix(server, "unix:"); ok {
		if strings.TrimLeft(path, "/") == "" {
			return fmt.Errorf("server %q names no socket%s", server, right)
		}
		return nil
	}
	if strings.Contains(server, "://") {
		return fmt.Errorf("server %q: unknown scheme%s", server, right)
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("server %q is not an address%s", server, right)
	}
	return nil
}

func (a *app) close() {
	if a.conn != nil {
		_ = a.conn.Close() // nothing is under way any more
	}
}

// within bounds a call by --timeout.
func (a *app) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

func (a *app) quota() quotadv1.QuotaServiceClient { return quotadv1.NewQuotaServiceClient(a.conn) }
func (a *app) inspect() quotadv1.InspectServiceClient {
	return quotadv1.NewInspectServiceClient(a.conn)
}
func (a *app) admin() quotadv1.AdminServiceClient { return quotadv1.NewAdminServiceClient(a.conn) }

// usageError is a call of quotactl that was wrong; nothing was done.
type usageError struct {
	cmd  *cobra.Command
	err  error
	hint string // "" means to ask for help
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd: cmd, err: fmt.Errorf(format, args...)}
}

// operands wants the named operands, neither more nor fewer. A name in brackets may be left out.
func operands(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return usagef(cmd, "%q is one operand too many", args[len(names)])
		}
		if len(args) < len(names) && !strings.HasPrefix(names[len(args)], "[") {
			return usagef(cmd, "%s is missing", names[len(args)])
		}
		return nil
	}
}

// atLeast wants the named operand, after which any number of others may come.
func atLeast(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef(cmd, "%s is missing", name)
		}
		return nil
	}
}

// noCommandNamed is reached where no command has the name.
func noCommandNamed(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := &usageError{cmd: root, err: fmt.Errorf("unknown command %q", args[0])}
	for root.SuggestionsMinimumDistance = 1; root.SuggestionsMinimumDistance <= 2; root.SuggestionsMinimumDistance++ {
		if near := root.SuggestionsFor(args[0]); len(near) > 0 {
			err.hint = fmt.Sprintf("did you mean %s?", either(near))
			return err
		}
	}
	return err
}

// either lists words as in "a, b or c".
func either(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// report says on standard error what went wrong, and returns what to exit with.
func (a *app) report(cmd *cobra.Command, err error) int {
	if wrong, ok := errors.AsType[*usageError](err); ok {
		if wrong.cmd == nil {
			wrong.cmd = cmd
		}
		fmt.Fprintf(a.stderr, "quotactl: error: %v\n", err)
		fmt.Fprintf(a.stderr, "quotactl: usage: %s\n", wrong.cmd.UseLine())
		fmt.Fprintf(a.stderr, "quotactl: hint: %s\n", cmp.Or(wrong.hint, wrong.cmd.CommandPath()+" --help says more"))
		return exitUsage
	}
	r := a.explain(err)
	word := "error"
	if r.code == exitDenied {
		word = "denied"
	}
	for _, line := range r.lines {
		fmt.Fprintf(a.stderr, "quotactl: %s: %s\n", a.paint(2, red, word), line)
	}
	for _, line := range r.hints {
		fmt.Fprintf(a.stderr, "quotactl: %s: %s\n", a.paint(2, bold, "hint"), line)
	}
	return r.code
}

// sleep waits, unless the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
