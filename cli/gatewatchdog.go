package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/gate/endpoints"
)

// watchdogOptions are the flags of `gate watchdog`.
type watchdogOptions struct {
	kubeconfig string
	servers    []string
	interval   time.Duration
	output     string
	dryRun     bool
	once       bool
}

// newGateWatchdog is `seakeep gate watchdog`.
func newGateWatchdog(env *Env) *cobra.Command {
	var o watchdogOptions
	cmd := &cobra.Command{
		Use:   "watchdog --kubeconfig FILE --api-server ADDRESS:PORT…",
		Short: "Give the Service default/kubernetes back to the API servers when no gate is live, and to the gates when one is",
		Long: `For clusters whose gates keep the Service default/kubernetes (the field 'service' of their configuration). Run it beside the
API servers, two or three times, never in a gate's process: it is what is left when all gates are dead.

A gate is dead when its Lease was not renewed for as long as it lasts, while an API server answered, and nothing completes a
TLS handshake at its address. API servers that are slow or gone make no gate dead. The Service is never left without an
address. Each change of state is a line on standard output.`,
		Example: `  seakeep gate watchdog --kubeconfig watchdog.conf --api-server 10.0.0.1:6443 --api-server 10.0.0.2:6443
  seakeep gate watchdog --kubeconfig watchdog.conf --api-server 10.0.0.1:6443 --once --dry-run -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runGateWatchdog(cmd.Context(), env, &o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` with the watchdog's credentials and the API servers' authority; its server is not used")
	flags.StringArrayVar(&o.servers, "api-server", nil, "an API server's own `address:port`; may be repeated")
	flags.DurationVar(&o.interval, "interval", 2*time.Second, "how often to look, 500ms–1m")
	flags.StringVarP(&o.output, "output", "o", "text", "text | json")
	flags.BoolVar(&o.dryRun, "dry-run", false, "have every change checked by the API server and none made")
	flags.BoolVar(&o.once, "once", false, "look once, say what is there, change nothing, and end")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.RegisterFlagCompletionFunc("api-server", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runGateWatchdog(ctx context.Context, env *Env, o *watchdogOptions) error {
	const hint = "see 'seakeep gate watchdog --help'"
	switch {
	case o.kubeconfig == "":
		return usageError(errors.New("--kubeconfig is required"), hint)
	case len(o.servers) == 0:
		return usageError(errors.New("--api-server is required: the addresses to give the Service back to"), hint)
	case o.interval < 500*time.Millisecond || o.interval > time.Minute:
		return usageError(fmt.Errorf("interval must be between 500ms and 1m, got %s", o.interval), hint)
	case o.output != "text" && o.output != "json":
		return usageError(fmt.Errorf("output must be text or json, got %q", o.output), hint)
	}
	w, err := newWatchdog(env, o)
	if err != nil {
		return err
	}
	if o.once {
		s := w.Round(ctx)
		if err := writeWatchdog(env, o, s); err != nil {
			return err
		}
		if s.Problem != "" {
			return findings()
		}
		return nil
	}
	w.Run(ctx)
	return nil
}

func newWatchdog(env *Env, o *watchdogOptions) (*endpoints.Watchdog, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, usageError(fmt.Errorf("reading %s: %w", o.kubeconfig, err), "")
	}
	config.Timeout = 10 * time.Second
	options := endpoints.WatchdogOptions{Interval: o.interval, Log: env.Log()}
	for _, server := range o.servers {
		address, err := netip.ParseAddrPort(server)
		if err != nil {
			return nil, usageError(fmt.Errorf("--api-server must be an IP address and a port, got %q", server), "a name would need the DNS that hangs on this Service")
		}
		options.APIServers = append(options.APIServers, address)
		c := rest.CopyConfig(config)
		c.Host = "https://" + server
		client, err := rest.HTTPClientFor(c)
		if err != nil {
			return nil, usageError(fmt.Errorf("reading %s: %w", o.kubeconfig, err), "")
		}
		store, err := endpoints.NewStore(c, client, o.dryRun || o.once)
		if err != nil {
			return nil, err
		}
		options.Stores = append(options.Stores, store)
	}
	tlsConfig, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: config.CAFile, CAData: config.CAData}})
	if err != nil {
		return nil, usageError(fmt.Errorf("reading %s: %w", o.kubeconfig, err), "")
	}
	options.Answers = func(ctx context.Context, g endpoints.Gate) bool {
		return completesHandshake(ctx, tlsConfig, g.Address.String())
	}
	options.Changed = func(s endpoints.Status) {
		if err := writeWatchdog(env, o, s); err != nil {
			env.Log().Error("Writing the state", "reason", err)
		}
	}
	w, ok := endpoints.NewWatchdog(options)
	if !ok {
		return nil, usageError(fmt.Errorf("the API servers %s cannot stand behind one Service: they must have one port and one address family, and no loopback address", strings.Join(o.servers, ", ")), "")
	}
	return w, nil
}

// completesHandshake is true when somebody with a certificate for kubernetes.default.svc is there. A process that is stopped
// accepts connections, because its kernel does, and completes no handshake.
func completesHandshake(ctx context.Context, base *tls.Config, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "kubernetes.default.svc"}
	if base != nil {
		c.RootCAs = base.RootCAs
	}
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: c}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func writeWatchdog(env *Env, o *watchdogOptions, s endpoints.Status) error {
	if o.output == "json" {
		return writeJSON(env.Stdout, s, false)
	}
	text := fmt.Sprintf("%s  %s: live %s", s.Time.Format(time.TimeOnly), s.State, listOf(s.Live))
	if len(s.Silent) > 0 {
		text += ", silent " + listOf(s.Silent)
	}
	if len(s.Addresses) > 0 {
		text += "; the Service stands for " + listOf(s.Addresses)
	}
	switch {
	case s.Changed && s.DryRun:
		text += " (would be changed)"
	case s.Changed:
		text += " (changed)"
	}
	if s.Problem != "" {
		text += "; problem: " + cell(s.Problem)
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}

func listOf(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return cell(strings.Join(names, ", "))
}
