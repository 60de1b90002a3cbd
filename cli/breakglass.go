package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency/credentials"
	"github.com/seakeep/seakeep/gate/breakglass"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/config"
)

func newBreakGlass(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "break-glass",
		Short: "The way in when nothing else answers: a lane of its own, credentials made offline, both tried daily",
		Example: `  seakeep break-glass init --dir ca
  seakeep break-glass serve --config break-glass.yaml
  seakeep break-glass issue --ca-cert ca/break-glass-ca.crt --ca-key ca/break-glass-ca.key \
    --name alice --server https://10.0.0.1:7443,https://10.0.0.1:6443 --server-ca cluster-ca.crt --out alice.kubeconfig
  seakeep break-glass check --kubeconfig alice.kubeconfig`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newBreakGlassServe(env), newBreakGlassInit(env), newBreakGlassIssue(env), newBreakGlassCheck(env), newBreakGlassAudit(env))
	return cmd
}

func newBreakGlassServe(env *Env) *cobra.Command {
	var file string
	var cgroups []string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the break-glass lane",
		Long: `Run the break-glass lane: a process of its own in front of the API servers that hears only certificates of the
break-glass CA. It needs its configuration file and nothing else to start.`,
		Example: `  seakeep break-glass serve --config break-glass.yaml --cgroup /sys/fs/cgroup/seakeep-break-glass`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError(errors.New("--config must name the lane's configuration"), "'seakeep config defaults BreakGlassConfiguration' prints one")
			}
			c, doc, err := config.LoadKind[*v1alpha1.BreakGlassConfiguration](file, env.Stdin)
			if err != nil {
				return usageError(err, "")
			}
			log := env.Log()
			// Said, and not fatal: an expired authority in a bundle must not lock the engineers out. What the lane
			// cannot do without is an error of New.
			if err := doc.CheckFiles(time.Now()); err != nil {
				log.Warn("The configuration names files that need a look", "reason", err)
			}
			breakglass.Reserve(breakglass.Reservation{
				MemoryLimit:   c.MemoryLimit.Value(),
				GoMemLimitSet: env.Getenv("GOMEMLIMIT") != "",
				Cgroups:       cgroups,
			}, log)
			registry := prometheus.NewRegistry()
			registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
			lane, err := breakglass.New(breakglass.Options{Config: c, Log: log, Stderr: env.Stderr, Registerer: registry, Gatherer: registry})
			if err != nil {
				return withHint(err, "the lane needs the files its configuration names and a free address, and nothing else")
			}
			return lane.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file of kind BreakGlassConfiguration, - for standard input")
	cmd.Flags().StringArrayVar(&cgroups, "cgroup", nil, "cgroup folder to run in, made when missing; again for each controller of cgroup v1")
	return cmd
}

func newBreakGlassInit(env *Env) *cobra.Command {
	var dir, name, output string
	var lifetime time.Duration
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make a break-glass CA, offline",
		Example: `  seakeep break-glass init --dir ca`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if dir == "" {
				return usageError(errors.New("--dir must name a folder for the CA"), "keep the folder off the cluster, in a safe place")
			}
			certFile, keyFile := filepath.Join(dir, credentials.AuthorityCertFile), filepath.Join(dir, credentials.AuthorityKeyFile)
			if dryRun {
				fmt.Fprintf(env.Stderr, "Would write %s and %s.\n", certFile, keyFile)
				return nil
			}
			ca, err := credentials.InitAuthority(credentials.AuthorityOptions{Dir: dir, Name: name, Lifetime: lifetime, Now: time.Now()})
			if err != nil {
				return withHint(err, "an existing CA is never replaced: choose another folder to make a new one")
			}
			if output == "json" {
				return printJSON(env.Stdout, map[string]any{"certFile": certFile, "keyFile": keyFile, "name": name, "notAfter": ca.Certificate.NotAfter})
			}
			fmt.Fprintf(env.Stdout, "%s\n%s\n", certFile, keyFile)
			fmt.Fprintf(env.Stderr, `
CA %q is valid until %s. What to do with it:
1. Keep %s offline: whoever holds it can be anyone on the cluster.
2. So that its credentials also work without the lane, append the certificate to the file that each API server's
   --client-ca-file names (the API server reads it again by itself):
     cat %s >> /etc/kubernetes/pki/client-ca-bundle.crt
3. In the lane's configuration (kind BreakGlassConfiguration):
     listen:
       clientCAFile: %s
4. Issue credentials with 'seakeep break-glass issue' and try them daily with 'seakeep break-glass check'.
`, name, ca.Certificate.NotAfter.UTC().Format(time.RFC3339), keyFile, certFile, certFile)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the CA, made with mode 0700")
	cmd.Flags().StringVar(&name, "name", "seakeep-break-glass", "common name of the CA")
	cmd.Flags().DurationVar(&lifetime, "lifetime", 5*365*24*time.Hour, "how long the CA is valid")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be written")
	outputFlag(cmd, &output)
	return cmd
}

// issueFlags are the flags of `break-glass issue`.
type issueFlags struct {
	caCert, caKey, name, csr, key, out, output string
	lifetime                                   time.Duration
	allowLong, replace, dryRun                 bool
	groups, servers, serverCAs                 []string
}

func newBreakGlassIssue(env *Env) *cobra.Command {
	var f issueFlags
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Make one engineer's credential, offline, as a kubeconfig",
		Long: `Make one engineer's credential as a kubeconfig with two contexts: break-glass goes through the lane, direct to the API
server. It needs the break-glass CA and no network. The API server cannot revoke a client certificate: the life time is
what bounds a lost one, so it is short.`,
		Example: `  seakeep break-glass issue --ca-cert ca/break-glass-ca.crt --ca-key ca/break-glass-ca.key \
    --name alice --lifetime 8h --server https://10.0.0.1:7443,https://10.0.0.1:6443 --server-ca cluster-ca.crt --out alice.kubeconfig`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return issue(env, &f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.caCert, "ca-cert", "", "the break-glass CA's certificate")
	flags.StringVar(&f.caKey, "ca-key", "", "the break-glass CA's key, readable by its owner only")
	flags.StringVar(&f.name, "name", "", "the engineer's name: the user the API server and the audit see")
	flags.StringSliceVar(&f.groups, "groups", []string{credentials.Masters}, "the user's groups")
	flags.DurationVar(&f.lifetime, "lifetime", credentials.DefaultLifetime, "how long the credential is valid, at most 168h without --allow-long")
	flags.BoolVar(&f.allowLong, "allow-long", false, "allow more than 168h; what is lost then stays valid")
	flags.StringVar(&f.csr, "csr", "", "PEM certificate request: certify its key instead of making one; its names are not used")
	flags.StringVar(&f.key, "key", "", "with --csr: the path of the key on the engineer's machine, written into the kubeconfig")
	flags.StringSliceVar(&f.servers, "server", nil, "https URL of the lane, then those of API servers to reach directly")
	flags.StringSliceVar(&f.serverCAs, "server-ca", nil, "PEM file that verifies the servers: one for all, or one for each")
	flags.StringVar(&f.out, "out", "", "kubeconfig to write, mode 0600; - for standard output")
	flags.BoolVar(&f.replace, "replace", false, "replace an existing file")
	flags.BoolVar(&f.dryRun, "dry-run", false, "check everything, write nothing")
	outputFlag(cmd, &f.output)
	return cmd
}

// issued is what `break-glass issue -o json` prints. It never holds a key.
type issued struct {
	Name        string    `json:"name"`
	Groups      []string  `json:"groups"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Servers     []string  `json:"servers"`
	Out         string    `json:"out"`
	DryRun      bool      `json:"dryRun"`
}

func issue(env *Env, f *issueFlags) error {
	for _, flag := range []struct{ name, value string }{
		{"--ca-cert", f.caCert}, {"--ca-key", f.caKey}, {"--name", f.name}, {"--server", strings.Join(f.servers, ",")},
		{"--server-ca", strings.Join(f.serverCAs, ",")}, {"--out", f.out},
	} {
		if flag.value == "" {
			return usageError(fmt.Errorf("%s is required", flag.name), "see 'seakeep break-glass issue --help'")
		}
	}
	if f.out == "-" && f.output == "json" {
		return usageError(errors.New("--out - and -o json both want standard output"), "name a file with --out")
	}
	servers, err := readServers(f.servers, f.serverCAs)
	if err != nil {
		return usageError(err, "--server-ca names one file for all servers, or one for each, in the same order")
	}
	now := time.Now()
	ca, err := credentials.LoadAuthority(f.caCert, f.caKey, now)
	if err != nil {
		return usageError(err, "'seakeep break-glass init' makes a break-glass CA")
	}
	request := credentials.Request{Name: f.name, Groups: f.groups, Lifetime: f.lifetime, AllowLong: f.allowLong, Now: now}
	if f.csr != "" {
		if request.CSR, err = os.ReadFile(f.csr); err != nil {
			return usageError(fmt.Errorf("reading the CSR: %w", err), "")
		}
		if f.key == "" {
			return usageError(errors.New("--csr needs --key: where the engineer keeps the key"), "")
		}
	}
	credential, err := ca.Issue(request)
	if err != nil {
		return usageError(err, "--allow-long lifts the cap on the life time")
	}
	kubeconfig, err := credentials.Kubeconfig(credential, servers, f.key)
	if err != nil {
		return usageError(err, "")
	}
	if !f.dryRun {
		if f.out == "-" {
			if _, err := env.Stdout.Write(kubeconfig); err != nil {
				return err
			}
		} else if err := credentials.WriteKubeconfig(f.out, kubeconfig, f.replace); err != nil {
			return withHint(err, "--replace replaces an existing file")
		}
	}
	return describeIssued(env, f, credential)
}

func describeIssued(env *Env, f *issueFlags, credential *credentials.Credential) error {
	c := credential.Certificate
	made := issued{
		Name: c.Subject.CommonName, Groups: c.Subject.Organization, Serial: credentials.Serial(c), Fingerprint: credentials.Fingerprint(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Servers: f.servers, Out: f.out, DryRun: f.dryRun,
	}
	if f.output == "json" {
		return printJSON(env.Stdout, made)
	}
	verb := "Wrote"
	if f.dryRun {
		verb = "Would write"
	}
	fmt.Fprintf(env.Stderr, `%s %s
  user         %s, groups %s
  serial       %s
  sha-256      %s
  valid until  %s
Try it:   seakeep break-glass check --kubeconfig %s
Revoke it at the lane: add the serial to the file that listen.deniedSerialsFile names; it is in force within seconds.
          echo '%s # %s' >> denied-serials
The API server knows no list of denied certificates: there it stays valid until %s, or until the break-glass CA is
taken out of --client-ca-file.
`, verb, f.out, made.Name, strings.Join(made.Groups, ","), made.Serial, made.Fingerprint, made.NotAfter.UTC().Format(time.RFC3339),
		f.out, made.Serial, made.Name, made.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

func readServers(urls, caFiles []string) ([]credentials.Server, error) {
	if len(caFiles) != 1 && len(caFiles) != len(urls) {
		return nil, fmt.Errorf("%d servers and %d CA files", len(urls), len(caFiles))
	}
	servers := make([]credentials.Server, len(urls))
	for i, url := range urls {
		ca, err := os.ReadFile(caFiles[min(i, len(caFiles)-1)])
		if err != nil {
			return nil, fmt.Errorf("reading the CA of %s: %w", url, err)
		}
		servers[i] = credentials.Server{URL: url, CA: ca}
	}
	return servers, nil
}

func newBreakGlassCheck(env *Env) *cobra.Command {
	var kubeconfig, output string
	var timeout, expiresWithin time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Try a credential end to end, through the lane and directly, changing nothing",
		Long: `Try a credential end to end: its expiry, the lane, who the API server takes it for, what it may do, and a dry-run PATCH;
then the same directly against the API server. It changes nothing and can run daily. Exit code 3: something would not
work in an emergency.`,
		Example: `  seakeep break-glass check --kubeconfig alice.kubeconfig
  seakeep break-glass check --kubeconfig alice.kubeconfig -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kubeconfig == "" {
				return usageError(errors.New("--kubeconfig is required: the credential to try"), "'seakeep break-glass issue' makes one")
			}
			report, err := credentials.Check(cmd.Context(), credentials.CheckOptions{
				Kubeconfig: kubeconfig, Timeout: timeout, ExpiresWithin: expiresWithin, Now: time.Now,
			})
			if err != nil {
				return usageError(err, "")
			}
			if err := printCheckReport(env.Stdout, report, output); err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return context.Cause(cmd.Context())
			}
			if !report.Passed() {
				return findings()
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "the credential, made by 'seakeep break-glass issue'")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long each step may take")
	cmd.Flags().DurationVar(&expiresWithin, "expires-within", 0, "a credential that expires sooner is a finding (default: a quarter of its life time)")
	outputFlag(cmd, &output)
	return cmd
}

func printCheckReport(w io.Writer, report *credentials.Report, output string) error {
	if output == "json" {
		return printJSON(w, report)
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "CONTEXT\tCHECK\tSTATUS\tSECONDS\tDETAIL")
	for _, step := range report.Steps {
		fmt.Fprintf(table, "%s\t%s\t%s\t%.3f\t%s\n", step.Context, step.Check, step.Status, step.Seconds, strings.ReplaceAll(step.Detail, "\n", " "))
	}
	return table.Flush()
}

func newBreakGlassAudit(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Read what the lane put on record",
		Example: `  seakeep break-glass audit verify /var/log/seakeep/break-glass.audit`,
		Args:    cobra.NoArgs,
	}
	var output string
	verify := &cobra.Command{
		Use:     "verify FILE",
		Short:   "Check that no line of an audit file was changed, removed or inserted",
		Example: `  seakeep break-glass audit verify /var/log/seakeep/break-glass.audit`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			summary, err := auditlog.Verify(args[0])
			var broken *auditlog.BreakError
			if err != nil && !errors.As(err, &broken) {
				return usageError(err, "")
			}
			result := struct {
				File     string `json:"file"`
				Whole    bool   `json:"whole"`
				Lines    uint64 `json:"lines"`
				LastHash string `json:"lastHash"`
				Torn     int    `json:"tornBytes"`
				Break    string `json:"break,omitempty"`
			}{File: args[0], Whole: broken == nil, Lines: summary.Lines, LastHash: summary.LastHash, Torn: summary.Torn}
			if broken != nil {
				result.Break = broken.Error()
			}
			if output == "json" {
				if err := printJSON(env.Stdout, result); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(env.Stdout, "lines      %d\nlast hash  %s\ntorn bytes %d\n", result.Lines, result.LastHash, result.Torn)
				if broken != nil {
					fmt.Fprintf(env.Stdout, "BROKEN     %s\n", result.Break)
				} else {
					fmt.Fprintln(env.Stdout, "whole      yes; keep the last hash elsewhere, so that a cut end can be seen")
				}
			}
			if broken != nil {
				return findings()
			}
			return nil
		},
	}
	outputFlag(verify, &output)
	cmd.AddCommand(verify)
	return cmd
}

// outputFlag adds -o table|json, checked before the verb runs.
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table | json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *output != "table" && *output != "json" {
			return usageError(fmt.Errorf("output must be table or json, got %q", *output), "see '"+cmd.CommandPath()+" --help'")
		}
		return nil
	}
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
