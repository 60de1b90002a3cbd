package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/emergency/preflight"
	"github.com/seakeep/seakeep/internal/pki"
)

// preflightOptions are the flags of `preflight`.
type preflightOptions struct {
	cluster                   clusterTarget
	etcd                      []string
	etcdCA, etcdCert, etcdKey string
	breakGlassCA              string
	selfManaged               bool
	timeout                   time.Duration
	output                    string
}

// preflightReport is the JSON output.
type preflightReport struct {
	Facts *preflight.Facts   `json:"facts"`
	Parts []preflight.Result `json:"parts"`
}

// newPreflight is `seakeep preflight`.
func newPreflight(env *Env) *cobra.Command {
	var o preflightOptions
	cmd := &cobra.Command{
		Use:   "preflight [PART…]",
		Short: "Say what of Seakeep works with a control plane, and why, before anything is installed",
		Long: `Looks at a control plane and says, part by part, works, limited, impossible or unknown, with the reason and what to
change. Nothing on the cluster is changed: it is read, the kubeconfig's own rights are reviewed, and one role is created
as a dry run. What this user may not read is unknown, never guessed.

PART asks for some parts only. The exit code is 3 when something asked for is impossible; without PART the two ways a gate
passes on identities are alternatives, and parts that this version does not have fail nothing.`,
		Example: `  seakeep preflight --kubeconfig admin.kubeconfig
  seakeep preflight gate-front-proxy break-glass --break-glass-ca break-glass-ca.crt
  seakeep preflight -o json --etcd https://10.0.0.1:2379 --etcd-ca ca.crt --etcd-cert client.crt --etcd-key client.key`,
		Args: usageArgs(cobra.ArbitraryArgs),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, part := range preflight.Parts() {
				names = append(names, string(part))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runPreflight(cmd.Context(), env, &o, args) },
	}
	o.cluster.flags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.etcd, "etcd", nil, "an etcd member's client `URL`; may be repeated (default: etcd is not looked at)")
	flags.StringVar(&o.etcdCA, "etcd-ca", "", "with --etcd: CA `file` of the members' certificates")
	flags.StringVar(&o.etcdCert, "etcd-cert", "", "with --etcd: client certificate `file`")
	flags.StringVar(&o.etcdKey, "etcd-key", "", "with --etcd: its key `file`")
	flags.StringVar(&o.breakGlassCA, "break-glass-ca", "", "certificate `file` of your break-glass CA: is it trusted already?")
	flags.BoolVar(&o.selfManaged, "self-managed", false, "you start the API servers yourself, in a way that does not show in the cluster (systemd, say)")
	flags.DurationVar(&o.timeout, "timeout", 15*time.Second, "how long each request may take, 1s to 5m")
	flags.StringVarP(&o.output, "output", "o", "table", "table | json")
	for _, name := range []string{"etcd-ca", "etcd-cert", "etcd-key", "break-glass-ca"} {
		_ = cmd.MarkFlagFilename(name)
	}
	for _, name := range []string{"etcd", "timeout"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runPreflight(ctx context.Context, env *Env, o *preflightOptions, args []string) error {
	const hint = "see 'seakeep preflight --help'"
	if o.output != "table" && o.output != "json" {
		return usageError(fmt.Errorf("output must be table or json, got %q", o.output), hint)
	}
	if o.timeout < time.Second || o.timeout > 5*time.Minute {
		return usageError(fmt.Errorf("--timeout must be 1s to 5m, got %v", o.timeout), hint)
	}
	var parts []preflight.Part
	for _, arg := range args {
		parts = append(parts, preflight.Part(arg))
	}
	if _, err := preflight.Judge(&preflight.Facts{}, parts...); err != nil {
		return usageError(err, hint)
	}
	options, err := o.options(env)
	if err != nil {
		return err
	}
	facts, err := preflight.Gather(ctx, options)
	if errors.Is(err, preflight.ErrUnreachable) {
		return withHint(err, "is the address right, and is this machine let in? When the control plane is down, 'seakeep break-glass check' tries the way round")
	}
	if err != nil {
		return err
	}
	results, err := preflight.Judge(facts, parts...)
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = writeJSON(env.Stdout, preflightReport{facts, results}, true)
	} else {
		err = writePreflight(env.Stdout, facts, results)
	}
	if err == nil && preflight.Failed(results, parts...) {
		return findings()
	}
	return err
}

func (o *preflightOptions) options(env *Env) (preflight.Options, error) {
	const hint = "etcd's files are usually in /etc/kubernetes/pki/etcd on a control-plane host"
	options := preflight.Options{Etcd: o.etcd, SelfManaged: o.selfManaged, Timeout: o.timeout, Now: time.Now}
	var err error
	if options.Config, err = o.cluster.config(env); err != nil {
		return options, err
	}
	for _, endpoint := range o.etcd {
		if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return options, usageError(fmt.Errorf("--etcd must be https://host:port, got %q", endpoint), hint)
		}
	}
	if len(o.etcd) == 0 && o.etcdCA+o.etcdCert+o.etcdKey != "" {
		return options, usageError(errors.New("--etcd-ca, --etcd-cert and --etcd-key need --etcd"), hint)
	}
	options.EtcdTLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.etcdCA != "" {
		if options.EtcdTLS.RootCAs, err = pki.LoadPool(o.etcdCA); err != nil {
			return options, usageError(fmt.Errorf("reading --etcd-ca: %w", err), hint)
		}
	}
	if o.etcdCert+o.etcdKey != "" {
		pair, err := tls.LoadX509KeyPair(o.etcdCert, o.etcdKey)
		if err != nil {
			return options, usageError(fmt.Errorf("reading --etcd-cert and --etcd-key: %w", err), hint)
		}
		options.EtcdTLS.Certificates = []tls.Certificate{pair}
	}
	if o.breakGlassCA != "" {
		if options.BreakGlassCA, err = loadCertificate(o.breakGlassCA); err != nil {
			return options, usageError(fmt.Errorf("reading --break-glass-ca: %w", err), "'seakeep break-glass init' makes one")
		}
	}
	return options, nil
}

func loadCertificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return certs[0], nil
}
