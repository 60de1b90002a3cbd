package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/internal/config"
)

func newConfig(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check configuration files, print defaults and schemas",
		Example: `  seakeep config check gate.yaml
  seakeep config defaults GateConfiguration > gate.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(errors.New("config needs a command: check, defaults or schema"), "see '"+cmd.CommandPath()+" --help'")
		},
	}
	cmd.AddCommand(newConfigCheck(env), newConfigDefaults(env), newConfigSchema(env))
	return cmd
}

func newConfigCheck(env *Env) *cobra.Command {
	var skipFiles bool
	cmd := &cobra.Command{
		Use:   "check FILE…",
		Short: "Check files as the program that reads them does, without running it",
		Long: `Reads every document of the files ("-" is standard input) and reports all that is wrong, one line each, as
file:line: field: value: rule. The files a document names are opened too: keys must be readable and fit their
certificates, certificates must be valid now, authorities and key sets must parse. Exit code 2 when anything is wrong.`,
		Example: `  seakeep config check gate.yaml break-glass.yaml
  seakeep config check --skip-files - < gate.yaml`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			var errs []error
			for _, file := range files {
				errs = append(errs, checkConfig(env, file, skipFiles))
			}
			if err := config.Join(errs...); err != nil {
				return usageError(err, "'seakeep config schema KIND' lists every field, 'seakeep config defaults KIND' shows a whole file")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&skipFiles, "skip-files", false, "do not open the files named inside: for checking on another machine")
	return cmd
}

// checkConfig prints what it found good on Stdout and returns what is wrong.
func checkConfig(env *Env, file string, skipFiles bool) error {
	docs, err := config.Load(file, env.Stdin)
	if err != nil {
		return err
	}
	var errs []error
	for i := range docs {
		if skipFiles {
			continue
		}
		errs = append(errs, docs[i].CheckFiles(time.Now()))
	}
	if err := config.Join(errs...); err != nil {
		return err
	}
	for i := range docs {
		if _, err := fmt.Fprintf(env.Stdout, "%s:%d: %s ok\n", docs[i].Source, docs[i].Locate(""), docs[i].Kind); err != nil {
			return err
		}
	}
	return nil
}

func newConfigDefaults(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "defaults [KIND]",
		Short: "Print a kind as a commented file with its defaults",
		Long:  kindHelp("For GateConfiguration the limit rules that ship with Seakeep follow, as comments."),
		Example: `  seakeep config defaults > gate.yaml
  seakeep config defaults BreakGlassConfiguration > break-glass.yaml`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := kindArg(args)
			text, err := config.Defaults(kind)
			if err != nil {
				return usageError(err, "see '"+cmd.CommandPath()+" --help'")
			}
			if kind == v1alpha1.KindGateConfiguration {
				text = append(text, "\n# In force without being written here, tried after the rules above while defaultLimits is Enabled. To change one,\n# write your own into limits with the same match: the first match decides.\n#\n"...)
				text = append(text, config.Commented(limit.ShippedYAML())...)
			}
			_, err = env.Stdout.Write(text)
			return err
		},
	}
}

func newConfigSchema(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print a kind's JSON Schema, for editors",
		Long:  kindHelp("The schema knows every field and closed set; rules that join fields are checked by 'config check' only."),
		Example: `  seakeep config schema GateConfiguration > gate.schema.json
  # first line of gate.yaml, for editors with a YAML language server:
  # yaml-language-server: $schema=gate.schema.json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, err := config.Schema(kindArg(args))
			if err != nil {
				return usageError(err, "see '"+cmd.CommandPath()+" --help'")
			}
			_, err = env.Stdout.Write(schema)
			return err
		},
	}
}

// kindArg is the kind asked for; the gate's is the one most people write.
func kindArg(args []string) string {
	if len(args) == 0 {
		return v1alpha1.KindGateConfiguration
	}
	return args[0]
}

func kindHelp(text string) string {
	return text + "\n\nKIND is one of " + strings.Join(v1alpha1.Kinds(), ", ") + "; without it, " + v1alpha1.KindGateConfiguration + "."
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(err, "see '"+cmd.CommandPath()+" --help'")
		}
		return nil
	}
}
