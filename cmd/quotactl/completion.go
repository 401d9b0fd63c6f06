package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL [flags]",
		Short: "print a script that completes commands, flags and buckets",
		Long:  `Prints a script for SHELL, which is bash, zsh, fish or powershell, that completes commands, flags and the names of buckets.`,
		Example: `  source <(quotactl completion bash)
  quotactl completion fish > ~/.config/fish/completions/quotactl.fish`,
		Args:              operands("SHELL"),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(shells, args[0]) {
				return usagef(cmd, "shell %q is unknown; want %s", args[0], either(shells))
			}
			var err error
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				err = root.GenZshCompletion(a.stdout)
			case "fish":
				err = root.GenFishCompletion(a.stdout, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			if err != nil {
				return fmt.Errorf("writing the script: %w", err)
			}
			return nil
		},
	}
}

// helpCommand is cobra's own, but for a word that is no command: that is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "help [COMMAND]",
		Short:                 "explain a command",
		Args:                  operands("[COMMAND]", "[COMMAND]"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, c := range cmd.Root().Commands() {
				if len(args) == 0 && c.IsAvailableCommand() {
					names = append(names, c.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		// Asking for help is no reason to look at the address of a daemon.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return &usageError{cmd: cmd.Root(), err: err}
			}
			if len(rest) > 0 {
				return noCommandNamed(cmd.Root(), rest)
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}
