package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/apf"
)

// apfJailing are the flags of `gate apf jail`.
type apfJailing struct {
	apfTarget
	jail   apf.Jail
	dryRun bool
	detach bool
}

// newAPFJail is `seakeep gate apf jail`.
func newAPFJail(env *Env) *cobra.Command {
	var o apfJailing
	cmd := &cobra.Command{
		Use:   "jail",
		Short: "Give one service account, user or group no seat at all, for a time",
		Long: `Sends the client's requests to a priority level that dispatches nothing, on every API server, whichever way they come: one
waits in vain, the others are answered 429 at once. Requests that are executing go on, open watches too. Health checks pass.
system:masters is exempt and cannot be jailed; subjects that the cluster lives by need --system.

The command stays until the time is over or it is ended, and then ends the jail. With --detach, or when it is killed, the jail
ends when its time is over and any 'seakeep gate apf' that writes runs: nothing in a cluster deletes it by itself.`,
		Example: `  seakeep gate apf jail --service-account monitoring/telemetry --for 30m --reason INC-42
  seakeep gate apf jail --user alice --verb list --for 10m --reason "INC-42: her script" --detach`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAPFJail(cmd.Context(), env, &o) },
	}
	o.flags(cmd, "table", "json", "yaml")
	flags := cmd.Flags()
	flags.StringVar(&o.jail.ServiceAccount, "service-account", "", "`namespace/name`; the name may be *")
	flags.StringVar(&o.jail.User, "user", "", "user `name`")
	flags.StringVar(&o.jail.Group, "group", "", "group `name`")
	flags.StringSliceVar(&o.jail.Verbs, "verb", nil, "only these verbs, and only for resources (default everything)")
	flags.DurationVar(&o.jail.For, "for", 0, "how long, 1s to 24h (required)")
	flags.StringVar(&o.jail.Reason, "reason", "", "why; kept with the jail (required)")
	flags.BoolVar(&o.jail.System, "system", false, "also jail what the cluster lives by")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only have the API server check it")
	flags.BoolVar(&o.detach, "detach", false, "do not stay: the jail ends after its time when another 'seakeep gate apf' runs")
	_ = cmd.RegisterFlagCompletionFunc("verb", cobra.FixedCompletions(apf.Verbs(), cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"service-account", "user", "group", "for", "reason"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func runAPFJail(ctx context.Context, env *Env, o *apfJailing) error {
	if o.jail.Reason == "" {
		return usageError(errors.New("--reason is required: whoever finds the jail must know why"), apfHint)
	}
	if err := o.jail.Validate(); err != nil {
		hint := apfHint
		if errors.Is(err, apf.ErrSystem) {
			hint = "--system jails it all the same"
		}
		return usageError(err, hint)
	}
	cluster, err := o.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	writer := cluster.writer(env, nil)
	jailed, err := writer.Jail(ctx, o.jail, o.dryRun)
	if err != nil {
		return withHint(err, apfRights)
	}
	if o.output == "table" {
		err = writeAPFJails(env.Stdout, []apf.Jailed{jailed}, time.Now())
	} else {
		err = o.write(env, jailed)
	}
	if err != nil || o.dryRun || o.detach {
		return err
	}
	fmt.Fprintf(env.Stderr, "in jail until %s, or until this is ended\n", jailed.Expires.Format(time.RFC3339))
	return withHint(guard(ctx, writer, jailed), "'seakeep gate apf unjail "+jailed.Name+"' ends it")
}

// guard waits until the jail's time is over, or until the user ends it, and then ends the jail.
func guard(ctx context.Context, writer *apf.Writer, jailed apf.Jailed) error {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Until(jailed.Expires)+time.Minute)
	defer cancel()
	select {
	case <-ctx.Done():
		clean, cancel := context.WithTimeout(clean, 30*time.Second)
		defer cancel()
		if err := writer.Unjail(clean, jailed.Name); err != nil && !errors.Is(err, apf.ErrNoJail) {
			return fmt.Errorf("ending the jail: %w", err)
		}
		return nil
	case <-time.After(time.Until(jailed.Expires)):
		// Not by name: somebody may have lengthened it meanwhile.
		return writer.Sweep(clean)
	}
}

// newAPFUnjail is `seakeep gate apf unjail`.
func newAPFUnjail(env *Env) *cobra.Command {
	var t apfTarget
	var all bool
	cmd := &cobra.Command{
		Use:   "unjail [NAME…]",
		Short: "End jails before their time",
		Example: `  seakeep gate apf unjail seakeep-jail-monitoring-telemetry-1a2b3c4d
  seakeep gate apf unjail --all`,
		Args: usageArgs(cobra.ArbitraryArgs),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return jailNames(cmd.Context(), env, &t), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runAPFUnjail(cmd.Context(), env, &t, args, all) },
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "end every jail")
	return cmd
}

// jailNames are for completion; none when the cluster does not answer at once.
func jailNames(ctx context.Context, env *Env, t *apfTarget) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cluster, err := t.connect(env)
	if err != nil {
		return nil
	}
	defer cluster.close()
	state, err := apf.Read(ctx, cluster.client, nil)
	if err != nil {
		return nil
	}
	for _, j := range state.Jails {
		names = append(names, j.Name)
	}
	return names
}

func runAPFUnjail(ctx context.Context, env *Env, t *apfTarget, names []string, all bool) error {
	if all == (len(names) > 0) {
		return usageError(errors.New("unjail needs the names of jails, or --all"), "'seakeep gate apf status' lists them")
	}
	cluster, err := t.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	if all {
		state, err := apf.Read(ctx, cluster.client, nil)
		if err != nil {
			return withHint(err, apfRights)
		}
		for _, j := range state.Jails {
			names = append(names, j.Name)
		}
	}
	writer := cluster.writer(env, nil)
	for _, name := range names {
		if err := writer.Unjail(ctx, name); err != nil {
			hint := apfRights
			if errors.Is(err, apf.ErrNoJail) {
				hint = "'seakeep gate apf status' lists them"
			}
			return withHint(err, hint)
		}
		fmt.Fprintf(env.Stdout, "%s: free\n", name)
	}
	return nil
}
