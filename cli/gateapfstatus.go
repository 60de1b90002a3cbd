package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/apf"
)

// apfLease is who holds one of the leases.
type apfLease struct {
	Holder string `json:"holder,omitempty"`
	// Renewed is when it last showed that it lives, by its own clock.
	Renewed *time.Time `json:"renewed,omitempty"`
}

// apfStatus is the output of status.
type apfStatus struct {
	Ballast  int32            `json:"ballastShares"`
	Edited   []apf.Edit       `json:"edited"`
	Jails    []apf.Jailed     `json:"jails"`
	Levels   []apfLevelStatus `json:"levels"`
	Follower apfLease         `json:"follower"`
	Writer   apfLease         `json:"writer"`
	// Unread says why levels have no seats.
	Unread string `json:"unread,omitempty"`
}

type apfLevelStatus struct {
	Name     string `json:"name"`
	Shares   int32  `json:"shares"`
	Lendable int32  `json:"lendable"`
	// Seats is the nominal limit that the API server says it has.
	Seats *float64 `json:"seats,omitempty"`
}

// newAPFStatus is `seakeep gate apf status`.
func newAPFStatus(env *Env) *cobra.Command {
	var t apfTarget
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what Seakeep has changed in API Priority and Fairness, who is in jail, and who writes",
		Long:  `Reads the priority levels, the jails, the two leases and an API server's metrics. Nothing is changed.`,
		Example: `  seakeep gate apf status
  seakeep gate apf status -o json | jq '.jails[].name'`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAPFStatus(cmd.Context(), env, &t) },
	}
	t.flags(cmd, "table", "json", "yaml")
	t.serverFlag(cmd)
	return cmd
}

func runAPFStatus(ctx context.Context, env *Env, t *apfTarget) error {
	cluster, err := t.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	servers, err := cluster.serversOf(t)
	if err != nil {
		return err
	}
	state, err := apf.Read(ctx, cluster.client, nil)
	if err != nil {
		return withHint(err, apfRights)
	}
	status := &apfStatus{Ballast: state.Ballast, Edited: append([]apf.Edit{}, state.Edited...), Jails: append([]apf.Jailed{}, state.Jails...)}
	seats, err := servers[0].Limits(ctx)
	if err != nil {
		status.Unread = err.Error()
	}
	for _, l := range state.Now {
		row := apfLevelStatus{Name: l.Name, Shares: l.Shares, Lendable: l.Lendable}
		if n, ok := seats[l.Name]; ok {
			row.Seats = &n
		}
		status.Levels = append(status.Levels, row)
	}
	for name, lease := range map[string]*apfLease{apf.FollowerLease: &status.Follower, apf.WriterLease: &status.Writer} {
		if err := cluster.lease(ctx, name, lease); err != nil {
			return withHint(err, apfRights)
		}
	}
	if t.output == "table" {
		return writeAPFStatus(env.Stdout, status, time.Now())
	}
	return t.write(env, status)
}

// lease reads who holds it; nobody does when it is not there.
func (c *apfCluster) lease(ctx context.Context, name string, into *apfLease) error {
	lease, err := c.client.CoordinationV1().Leases(apf.LeaseNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the lease %s/%s: %w", apf.LeaseNamespace, name, err)
	}
	if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" {
		into.Holder = *holder
		if lease.Spec.RenewTime != nil {
			into.Renewed = &lease.Spec.RenewTime.Time
		}
	}
	return nil
}

// newAPFRestore is `seakeep gate apf restore`.
func newAPFRestore(env *Env) *cobra.Command {
	var t apfTarget
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Take the ballast away and put edited levels back, whoever wrote them",
		Long: `Deletes the ballast level and gives every level that Seakeep edited the shares and annotations it had, from the annotation on
the level, or from the journal (--state-dir) where that was stripped. A level that somebody else has changed since keeps what
they wrote. Jails whose time is over end; the others stay ('unjail').

A follower that still runs would write again: end it first.`,
		Example: `  seakeep gate apf restore
  seakeep gate apf restore --kubeconfig admin.kubeconfig -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAPFRestore(cmd.Context(), env, &t) },
	}
	t.flags(cmd, "table", "json", "yaml")
	t.stateFlag(cmd)
	return cmd
}

func runAPFRestore(ctx context.Context, env *Env, t *apfTarget) error {
	cluster, err := t.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	journal, err := cluster.journal(ctx, t.state)
	if err != nil {
		fmt.Fprintf(env.Stderr, "warning: restoring from the cluster alone: %v\n", err)
	}
	writer := cluster.writer(env, journal)
	restored, err := writer.Restore(ctx)
	if err != nil {
		return withHint(err, apfRights)
	}
	if err := writer.Sweep(ctx); err != nil {
		return withHint(err, apfRights)
	}
	var follower apfLease
	if err := cluster.lease(ctx, apf.FollowerLease, &follower); err == nil && follower.Holder != "" {
		fmt.Fprintf(env.Stderr, "warning: %s follows, unless it was killed (last sign of life %s): it would write again\n", printable(follower.Holder), ago(follower.Renewed, time.Now()))
	}
	if t.output == "table" {
		return writeAPFRestored(env.Stdout, restored)
	}
	return t.write(env, restored)
}
