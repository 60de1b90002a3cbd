package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
)

// newEmergency is `seakeep emergency`: what an engineer does to gates when nothing else answers.
func newEmergency(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emergency",
		Short: "Throttle, block or lock down at the gates, at once and without the API server",
		Long: `Emergency rules stand before every configured rule, are in force on the next request, end by themselves, and are kept
over a gate's restart. They never reach the break-glass lane. A gate is named by its admin socket (--socket, on its own
host) or by its remote admin address (--addr, with --cert, --key and --ca); both may be repeated, and every gate is acted
on and reported.`,
		Example: `  seakeep emergency status
  seakeep emergency throttle --user-agent 'telemetry-agent/*' --requests-per-second 1 --for 30m --reason INC-42
  seakeep emergency block --service-account monitoring/telemetry --verb list --for 1h --reason INC-42
  seakeep emergency lockdown --except-group sre --for 15m --reason "INC-42: recover step by step"
  seakeep emergency lift block-1a2b3c4d --reason "INC-42 over"`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError(errors.New("emergency needs an action: throttle, block, lockdown, passthrough, lift or status"), emergencyHint)
		},
	}
	cmd.AddCommand(
		newEmergencyThrottle(env), newEmergencyBlock(env), newEmergencyLockdown(env), newEmergencyPassthrough(env),
		newEmergencyLift(env), newEmergencyStatus(env),
	)
	return cmd
}

const emergencyHint = "see 'seakeep emergency --help'"

// emergencyTarget is which gates, and how the answer is printed.
type emergencyTarget struct {
	sockets, addresses []string
	files              emergency.Credentials
	output             string
}

func (t *emergencyTarget) flags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&t.sockets, "socket", nil, "a gate's admin socket, may be repeated (default "+defaultSocket+" when no gate is named)")
	flags.StringArrayVar(&t.addresses, "addr", nil, "a gate's remote admin endpoint, host:port, may be repeated")
	flags.StringVar(&t.files.CertFile, "cert", "", "with --addr: your client certificate")
	flags.StringVar(&t.files.KeyFile, "key", "", "with --addr: its key")
	flags.StringVar(&t.files.CAFile, "ca", "", "with --addr: the CA of the gate's certificate")
	flags.StringVar(&t.files.ServerName, "server-name", "", "with --addr: the name in the gate's certificate, if it is not the host")
	flags.StringVarP(&t.output, "output", "o", "table", "table | json")
}

func (t *emergencyTarget) gates() ([]*emergency.Gate, error) {
	if t.output != "table" && t.output != "json" {
		return nil, usageError(fmt.Errorf("output must be table or json, got %q", t.output), emergencyHint)
	}
	sockets := t.sockets
	if len(sockets)+len(t.addresses) == 0 {
		sockets = []string{defaultSocket}
	}
	var gates []*emergency.Gate
	for _, path := range sockets {
		gates = append(gates, emergency.OnSocket(path))
	}
	for _, address := range t.addresses {
		if t.files.CertFile == "" || t.files.KeyFile == "" || t.files.CAFile == "" {
			return nil, usageError(fmt.Errorf("--addr %s needs --cert, --key and --ca", address), emergencyHint)
		}
		gate, err := emergency.OnAddress(address, t.files)
		if err != nil {
			return nil, usageError(fmt.Errorf("preparing to call %s: %w", address, err), "")
		}
		gates = append(gates, gate)
	}
	return gates, nil
}

// emergencyRule are the flags every rule has.
type emergencyRule struct {
	reason string
	length time.Duration
	dryRun bool
	shadow bool
}

// shadowFlag is for the rules that turn somebody away.
func (r *emergencyRule) shadowFlag(flags *pflag.FlagSet) {
	flags.BoolVar(&r.shadow, "shadow", false, "turn nobody away, and count whom the rule would have: 'seakeep gate shadow'")
}

// mode is in which the rule is set.
func (r *emergencyRule) mode(rule *v1alpha1.EmergencyRule) *v1alpha1.EmergencyRule {
	if r.shadow {
		rule.Mode = v1alpha1.Shadow
	}
	return rule
}

func (r *emergencyRule) flags(flags *pflag.FlagSet) {
	flags.StringVar(&r.reason, "reason", "", "why; goes to the audit log and to the clients that are turned away (required)")
	flags.DurationVar(&r.length, "for", 0, "how long, 1s to 24h; the rule ends by itself (required)")
	flags.BoolVar(&r.dryRun, "dry-run", false, "only have the gates check the rule")
}

func (r *emergencyRule) check() error {
	switch {
	case r.reason == "":
		return usageError(errors.New("--reason is required: it goes to the audit log and to the clients that are turned away"), emergencyHint)
	case r.length == 0:
		return usageError(errors.New("--for is required: every emergency rule ends by itself"), emergencyHint)
	}
	return nil
}

// emergencyMatch are the flags that select requests.
type emergencyMatch struct {
	match           v1alpha1.LimitMatch
	serviceAccounts []string
	scopes          []string
}

func (m *emergencyMatch) flags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&m.match.UserAgents, "user-agent", nil, "user agents, globs: 'telemetry-agent/*'; this and the following may be repeated, and all given must match")
	flags.StringArrayVar(&m.match.Users, "user", nil, "user names, globs; 'unverified:<address>' for unverified callers")
	flags.StringSliceVar(&m.serviceAccounts, "service-account", nil, "service accounts, namespace/name; the name may be a glob")
	flags.StringArrayVar(&m.match.Pods, "pod", nil, "pods that service accounts' tokens were issued to, globs over namespace/name")
	flags.StringArrayVar(&m.match.Groups, "group", nil, "group names")
	flags.StringSliceVar(&m.match.Verbs, "verb", nil, "verbs: list, get, …; list includes watches that ask for initial events")
	flags.StringSliceVar(&m.match.Resources, "resource", nil, "resources: pods, pods/log, '*'")
	flags.StringSliceVar(&m.match.APIGroups, "api-group", nil, "API groups")
	flags.StringSliceVar(&m.match.Namespaces, "namespace", nil, "namespaces the request is in, globs")
	flags.StringSliceVar(&m.match.Names, "name", nil, "names of single objects, globs")
	flags.StringSliceVar(&m.scopes, "scope", nil, "Object, Namespace, Cluster, NonResource")
	flags.StringSliceVar(&m.match.NonResourcePaths, "path", nil, "paths outside the resource API, globs")
	flags.StringSliceVar(&m.match.SourceCIDRs, "source", nil, "client addresses, CIDRs")
}

func (m *emergencyMatch) build() (v1alpha1.LimitMatch, error) {
	match := m.match
	match.Users = slices.Clone(match.Users)
	for _, account := range m.serviceAccounts {
		namespace, name, ok := strings.Cut(account, "/")
		if !ok || namespace == "" || name == "" {
			return match, usageError(fmt.Errorf("--service-account must be namespace/name, got %q", account), emergencyHint)
		}
		match.Users = append(match.Users, "system:serviceaccount:"+namespace+":"+name)
	}
	for _, scope := range m.scopes {
		match.Scopes = append(match.Scopes, v1alpha1.RequestScope(scope))
	}
	return match, nil
}

func newEmergencyThrottle(env *Env) *cobra.Command {
	var (
		target      emergencyTarget
		common      emergencyRule
		match       emergencyMatch
		rate        float64
		burst       int
		concurrency int
		bytes       string
		per         string
	)
	cmd := &cobra.Command{
		Use:   "throttle",
		Short: "Bound what some clients take, besides what the configured rules allow them",
		Long: `Bounds what some clients take. Their open watches, execs and LISTs are ended and come back through the throttle. A
throttle that names no resource does not reach a node's own lease and status, leader election and reviews.`,
		Example: `  seakeep emergency throttle --user-agent 'telemetry-agent/*' --requests-per-second 1 --per Rule --for 30m --reason INC-42`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := common.check(); err != nil {
				return err
			}
			selected, err := match.build()
			if err != nil {
				return err
			}
			throttle := v1alpha1.Throttle{Per: v1alpha1.LimitKey(per)}
			if cmd.Flags().Changed("requests-per-second") {
				throttle.RequestsPerSecond = &rate
			}
			if cmd.Flags().Changed("burst") {
				throttle.Burst = &burst
			}
			if cmd.Flags().Changed("concurrency") {
				throttle.Concurrency = &concurrency
			}
			if bytes != "" {
				quantity, err := resource.ParseQuantity(bytes)
				if err != nil {
					return usageError(fmt.Errorf("--bytes-per-second must be a quantity such as 4Mi, got %q", bytes), emergencyHint)
				}
				throttle.BytesPerSecond = &quantity
			}
			return setEmergency(cmd.Context(), env, &target, common.mode(emergency.Throttle(selected, throttle, common.reason, common.length)), common.dryRun)
		},
	}
	flags := cmd.Flags()
	flags.Float64Var(&rate, "requests-per-second", 0, "sustained rate")
	flags.IntVar(&burst, "burst", 0, "how many may come at once (default the rate, at least 1)")
	flags.IntVar(&concurrency, "concurrency", 0, "how many may run at once")
	flags.StringVar(&bytes, "bytes-per-second", "", "sustained response bytes, a quantity: 4Mi")
	flags.StringVar(&per, "per", string(v1alpha1.PerUser), "who shares the bounds: User | UserAgent | Source | Rule (all that match)")
	match.flags(flags)
	common.flags(flags)
	common.shadowFlag(flags)
	target.flags(flags)
	return cmd
}

func newEmergencyBlock(env *Env) *cobra.Command {
	var (
		target emergencyTarget
		common emergencyRule
		match  emergencyMatch
	)
	cmd := &cobra.Command{
		Use:     "block",
		Short:   "Deny what some clients ask for, and end their open requests",
		Example: `  seakeep emergency block --service-account monitoring/telemetry --verb list --for 1h --reason INC-42`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := common.check(); err != nil {
				return err
			}
			selected, err := match.build()
			if err != nil {
				return err
			}
			return setEmergency(cmd.Context(), env, &target, common.mode(emergency.Block(selected, common.reason, common.length)), common.dryRun)
		},
	}
	match.flags(cmd.Flags())
	common.flags(cmd.Flags())
	common.shadowFlag(cmd.Flags())
	target.flags(cmd.Flags())
	return cmd
}

func newEmergencyLockdown(env *Env) *cobra.Command {
	var (
		target        emergencyTarget
		common        emergencyRule
		users, groups []string
		round         firewallFlags
	)
	cmd := &cobra.Command{
		Use:   "lockdown",
		Short: "Deny everyone but those who repair, and end everyone else's open requests",
		Long: `Denies everyone but the users and groups named. Nodes' own leases and status, leader election and reviews still pass:
without leases every node would turn NotReady and every Service lose its endpoints when a controller is let in again.
The break-glass lane is not affected.

A gate denies only what comes through it. For what goes round it, firewall rules are printed below the result (to standard
error with -o json), to be read and run by you: they drop everyone but the sources named from the API servers' port, and
end by themselves with the lockdown.`,
		Example: `  seakeep emergency lockdown --except-group sre --for 15m --reason "INC-42: recover step by step"
  seakeep emergency lockdown --except-group sre --for 15m --reason INC-42 --firewall iptables \
    --gate-source 10.0.0.11,10.0.0.12 --peer-source 10.0.0.0/29 --break-glass-source 192.0.2.7`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := common.check(); err != nil {
				return err
			}
			plan, err := round.plan(target.addresses, common.length)
			if err != nil {
				return err
			}
			err = setEmergency(cmd.Context(), env, &target, common.mode(emergency.Lockdown(users, groups, common.reason, common.length)), common.dryRun)
			var exit *exitError
			wrong := errors.As(err, &exit) && exit.code == ExitUsage // nothing was tried
			// When no gate answers, the rules are what is left.
			if plan != nil && !wrong && !common.shadow && (!common.dryRun || cmd.Flags().Changed("firewall")) {
				round.write(env, plan, target.output)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&users, "except-user", nil, "users who may enter, globs")
	cmd.Flags().StringArrayVar(&groups, "except-group", nil, "groups who may enter")
	round.flags(cmd)
	common.flags(cmd.Flags())
	common.shadowFlag(cmd.Flags())
	target.flags(cmd.Flags())
	return cmd
}

func newEmergencyPassthrough(env *Env) *cobra.Command {
	var (
		target emergencyTarget
		common emergencyRule
	)
	cmd := &cobra.Command{
		Use:   "passthrough",
		Short: "Switch every limit off, for the day Seakeep itself is the suspect",
		Long: `Makes the gate a plain proxy: no configured rule, no emergency rule and no squeeze is in force. Identities are still
checked and passed on as before.`,
		Example: `  seakeep emergency passthrough --for 10m --reason "INC-43: are the limits the cause?"`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := common.check(); err != nil {
				return err
			}
			return setEmergency(cmd.Context(), env, &target, emergency.Passthrough(common.reason, common.length), common.dryRun)
		},
	}
	common.flags(cmd.Flags())
	target.flags(cmd.Flags())
	return cmd
}

func newEmergencyLift(env *Env) *cobra.Command {
	var (
		target emergencyTarget
		reason string
		all    bool
	)
	cmd := &cobra.Command{
		Use:   "lift ID… | --all",
		Short: "Take emergency rules out of force",
		Example: `  seakeep emergency lift block-1a2b3c4d --reason "INC-42 over"
  seakeep emergency lift --all --reason "INC-42 over"`,
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, ids []string) error {
			switch {
			case all == (len(ids) > 0):
				return usageError(errors.New("lift takes either rule IDs or --all"), "'seakeep emergency status' shows the IDs")
			case reason == "":
				return usageError(errors.New("--reason is required: it goes to the audit log"), emergencyHint)
			}
			return liftEmergency(cmd.Context(), env, &target, ids, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; goes to the audit log (required)")
	cmd.Flags().BoolVar(&all, "all", false, "every rule in force on the gates named")
	target.flags(cmd.Flags())
	return cmd
}

func newEmergencyStatus(env *Env) *cobra.Command {
	var target emergencyTarget
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Say whom the gates reject now and why, which emergency rules are in force, and what does not work",
		Example: `  seakeep emergency status --socket /run/seakeep/gate.sock`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showEmergency(cmd.Context(), env, &target)
		},
	}
	target.flags(cmd.Flags())
	return cmd
}
