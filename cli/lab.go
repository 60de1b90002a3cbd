package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/lab"
)

// defaultLabDir is the lab's folder unless --dir names another.
const defaultLabDir = "out/lab"

// newLab is `seakeep lab`.
func newLab(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "A real Kubernetes control plane on this machine, with simulated nodes",
		Example: `  seakeep lab up --nodes 100 --pods 1000
  seakeep lab kubeconfig > kubeconfig && kubectl --kubeconfig kubeconfig get nodes
  seakeep lab down`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(
		newLabUp(env),
		newLabDown(env),
		newLabStatus(env),
		newLabKubeconfig(env),
		newLabReplayCommand(env),
		newLabSupervise(env),
		newLabAgents(env),
	)
	return cmd
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", defaultLabDir, "the lab's `folder`")
}

func newLabDown(env *Env) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take the lab down and leave no process behind, even after a crash",
		Long: `Down ends the lab's owner, then every process recorded in the folder that is left, and checks that they are gone. A
process that merely has a recorded number is never touched. Logs and the audit log stay in the folder.`,
		Example: "  seakeep lab down --dir out/lab",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			killed, err := lab.CleanUp(cmd.Context(), dir)
			if len(killed) > 0 {
				fmt.Fprintf(env.Stderr, "killed what its owner had left: %s\n", strings.Join(killed, ", "))
			}
			return labError(err, dir)
		},
	}
	dirFlag(cmd, &dir)
	return cmd
}

func newLabStatus(env *Env) *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the lab's processes, and what they use",
		Example: "  seakeep lab status -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if output != "table" && output != "json" {
				return usageError(fmt.Errorf("output must be table or json, got %q", output), "see 'seakeep lab status --help'")
			}
			status, err := lab.ReadStatus(dir)
			if err != nil {
				return labError(err, dir)
			}
			if output == "json" {
				encoder := json.NewEncoder(env.Stdout)
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			}
			return writeLabStatus(env.Stdout, status)
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table | json")
	return cmd
}

func writeLabStatus(w io.Writer, s lab.Status) error {
	state := "starting"
	switch {
	case s.Owner == 0:
		state = "its owner died: take it down"
	case s.Ready:
		state = "ready"
	}
	fmt.Fprintf(w, "%s: %s; %d nodes, %d pods; server %s\nbounds: %s\n\n", s.Dir, state, s.Nodes, s.Pods, s.Server, s.BoundsMechanism)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PROCESS\tPID\tCPU SECONDS\tMEMORY\tHIGHEST")
	for _, p := range s.Processes {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%d MiB\t%d MiB\n", p.Name, p.PID, p.CPUSeconds, p.RSSBytes>>20, p.MaxRSSBytes>>20)
	}
	return t.Flush()
}

func newLabKubeconfig(env *Env) *cobra.Command {
	var dir, identity, server, caFile string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig for the lab",
		Long: `The kubeconfig names certificate files in the lab's folder. Identities: admin (cluster-admin by RBAC, an engineer's),
masters (group system:masters, which no limit of the API server holds), break-glass (signed by the break-glass
authority), node:NAME (a node's kubelet).`,
		Example: `  seakeep lab kubeconfig > kubeconfig
  seakeep lab kubeconfig --identity node:node-0001
  seakeep lab kubeconfig --server https://127.0.0.1:8443 --ca gate-ca.crt`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			id, err := lab.ParseIdentity(identity)
			if err != nil {
				return usageError(err, "see 'seakeep lab kubeconfig --help'")
			}
			data, err := lab.Kubeconfig(dir, id, server, caFile)
			if err != nil {
				return labError(err, dir)
			}
			_, err = env.Stdout.Write(data)
			return err
		},
	}
	dirFlag(cmd, &dir)
	cmd.Flags().StringVar(&identity, "identity", "admin", "admin, masters, break-glass or node:NAME")
	cmd.Flags().StringVar(&server, "server", "", "`URL` to talk to, such as a gate's (default: the lab's)")
	cmd.Flags().StringVar(&caFile, "ca", "", "certificate authority `file` that verifies --server (default: the lab's)")
	return cmd
}

// newLabAgents is the agent runner as a process of its own; the lab starts it.
func newLabAgents(env *Env) *cobra.Command {
	var o lab.AgentsOptions
	cmd := &cobra.Command{
		Use:     "agents",
		Short:   "Run the agents of annotated DaemonSets (started by the lab)",
		Example: "  seakeep lab agents --kubeconfig agents.kubeconfig --listen 127.0.0.1:21000",
		Args:    cobra.NoArgs,
		Hidden:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = env.Log()
			return lab.RunAgents(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "the runner's kubeconfig")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:0", "address of /metrics and /healthz")
	flags.IntVar(&o.Limit, "limit", 10_000, "most agents at a time")
	flags.Int64Var(&o.Seed, "seed", 0, "makes the agents' jitter repeatable")
	return cmd
}

// labError adds what to do about an error of the lab.
func labError(err error, dir string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, lab.ErrNoBinaries):
		return withHint(err, "'make control-plane' builds them (once, about 6 minutes on 2 cores); or name their folder with --bin-dir or $KUBEBUILDER_ASSETS")
	case errors.Is(err, lab.ErrNoLab):
		return withHint(err, "start one with 'seakeep lab up --dir "+dir+"'")
	case errors.Is(err, lab.ErrRuns):
		return withHint(err, "take it down with 'seakeep lab down --dir "+dir+"', or name another folder with --dir")
	case errors.Is(err, syscall.ENOSPC), strings.Contains(err.Error(), "no space left on device"):
		return withHint(err, "the disk is full: make room, or name a folder on another disk with --dir")
	case strings.Contains(err.Error(), "address already in use"):
		return withHint(err, "another program took a port between the lab's choice and its use: try again")
	}
	return withHint(err, "the components' logs are in "+dir+"/logs")
}
