package plugin

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seakeep/seakeep/dns/export"
	"github.com/seakeep/seakeep/dns/guard"
)

// The values of the kubernetes plugin's option pods.
const (
	podsDisabled = "disabled"
	podsVerified = "verified"
)

// options are those of the kubernetes plugin that it keeps to itself, and ours.
type options struct {
	// The kubernetes plugin's, already checked by it.
	ttl                  uint32
	podMode              string
	endpointNames        bool
	zonal                bool
	noEndpoints          bool
	selector, nsSelector labels.Selector
	multicluster         []string
	startup              time.Duration
	qps                  float32
	burst, inflight      int
	primaryZone          string
	search               []string // of this host's resolv.conf, for autopath

	// Ours.
	cluster     string // UID of its kube-system; empty: whichever the API server or the snapshot says
	snapshot    string // folder; empty: nothing is kept
	snapshotKey string // file with the key of the snapshot's HMAC
	state       string // host:port of /state
	socket      string // unix socket of the operator's commands
	guard       guard.Config
	policy      policy
	export      *export.Options // nil: nothing is exported
	sources     []sourceOption  // in order; none: the API server
	relay       *relayOption    // nil: nothing is relayed
	fast        fastOptions
}

// fastOptions are those of the fast path.
type fastOptions struct {
	off     bool
	sockets int   // 0: one for each core
	memory  int64 // bytes of answers
}

// ours are the options that the kubernetes plugin does not know.
var ours = map[string]func(o *options, c *caddy.Controller) error{
	"cluster":   parseOne(func(o *options) *string { return &o.cluster }),
	"snapshot":  parseSnapshot,
	"state":     parseOne(func(o *options) *string { return &o.state }),
	"socket":    parseOne(func(o *options) *string { return &o.socket }),
	"guard":     parseGuard,
	"staleness": parseStaleness,
	"source":    parseSource,
	"relay":     parseRelay,
	"export":    parseExport,
	"fastpath":  parseFast,
}

// parse reads a stanza: what is ours is taken out, and the kubernetes plugin reads the rest.
func parse(c *caddy.Controller) (*kubernetes.Kubernetes, *options, error) {
	rest, own, err := split(c)
	if err != nil {
		return nil, nil, err
	}
	upstreams := *c
	upstreams.Dispenser = caddyfile.NewDispenserTokens(c.File(), rest)
	upstreams.Next()
	k, err := kubernetes.ParseStanza(&upstreams)
	if err != nil {
		return nil, nil, err
	}
	o := &options{ttl: 5, podMode: podsDisabled, startup: 5 * time.Second, guard: guard.Defaults(), fast: fastOptions{memory: 32 << 20}}
	upstreams.Dispenser = caddyfile.NewDispenserTokens(c.File(), rest)
	upstreams.Next()
	if err := o.read(&upstreams, k.Zones); err != nil {
		return nil, nil, err
	}
	o.policy = defaultPolicy(o.ttl)
	for _, tokens := range own {
		option := *c
		option.Dispenser = caddyfile.NewDispenserTokens(c.File(), tokens)
		option.Next()
		if err := ours[option.Val()](o, &option); err != nil {
			return nil, nil, err
		}
	}
	return k, o, nil
}

// split returns the stanza's tokens without our options, and each of ours.
func split(c *caddy.Controller) (rest []caddyfile.Token, own [][]caddyfile.Token, err error) {
	depth, line, file := 0, -1, ""
	taking := false // one of ours, which goes on to the next line of its depth
	for c.Next() {
		token := caddyfile.Token{File: c.File(), Line: c.Line(), Text: c.Val()}
		first := token.Line != line || token.File != file
		line, file = token.Line, token.File
		if first && depth == 0 && len(rest) > 0 && token.Text != "{" {
			return nil, nil, plugin.ErrOnce
		}
		if first && depth == 1 {
			_, taking = ours[token.Text]
			if taking {
				own = append(own, nil)
			}
		}
		switch token.Text {
		case "{":
			depth++
		case "}":
			depth--
			taking = taking && depth >= 1
		}
		if taking {
			own[len(own)-1] = append(own[len(own)-1], token)
		} else {
			rest = append(rest, token)
		}
	}
	return rest, own, nil
}

// read takes what we need too from the options that the kubernetes plugin has accepted.
func (o *options) read(c *caddy.Controller, zones []string) (err error) {
	i := slices.IndexFunc(zones, func(z string) bool { return dnsutil.IsReverse(z) == 0 })
	o.primaryZone = zones[i]
	if rc, err := dns.ClientConfigFromFile("/etc/resolv.conf"); err == nil {
		plugin.Zones(rc.Search).Normalize()
		o.search = rc.Search
	}
	c.RemainingArgs()
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		switch name {
		case "ttl":
			var ttl uint64
			ttl, err = strconv.ParseUint(args[0], 10, 32)
			o.ttl = uint32(ttl)
		case "pods":
			o.podMode = args[0]
		case "endpoint_pod_names":
			o.endpointNames = true
		case "zonal":
			o.zonal = true
		case "noendpoints":
			o.noEndpoints = true
		case "labels":
			o.selector, err = selector(args)
		case "namespace_labels":
			o.nsSelector, err = selector(args)
		case "multicluster":
			o.multicluster = plugin.OriginsFromArgsOrServerBlock(args, nil)
		case "startup_timeout":
			o.startup, err = time.ParseDuration(args[0])
		case "apiserver_qps":
			var qps float64
			qps, err = strconv.ParseFloat(args[0], 32)
			o.qps = float32(qps)
		case "apiserver_burst":
			o.burst, err = strconv.Atoi(args[0])
		case "apiserver_max_inflight":
			o.inflight, err = strconv.Atoi(args[0])
		}
		if err != nil {
			return c.Errf("%s: %v", name, err)
		}
	}
	return nil
}

func selector(args []string) (labels.Selector, error) {
	parsed, err := metav1.ParseToLabelSelector(strings.Join(args, " "))
	if err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(parsed)
}

func parseOne(to func(*options) *string) func(*options, *caddy.Controller) error {
	return func(o *options, c *caddy.Controller) error {
		if !c.Args(to(o)) || c.NextArg() {
			return c.ArgErr()
		}
		return nil
	}
}

// parseSnapshot reads: snapshot FOLDER [KEYFILE].
func parseSnapshot(o *options, c *caddy.Controller) error {
	args := c.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return c.ArgErr()
	}
	o.snapshot = args[0]
	if len(args) == 2 {
		o.snapshotKey = args[1]
	}
	return nil
}

// parseGuard reads: guard off, or guard { hold DURATION; window DURATION; emptied RATIO; lost RATIO; shrink RATIO }.
func parseGuard(o *options, c *caddy.Controller) error {
	if args := c.RemainingArgs(); len(args) > 0 {
		if len(args) != 1 || args[0] != "off" {
			return c.Errf("guard takes \"off\" or a block, got %q", strings.Join(args, " "))
		}
		o.guard.Off = true
		return nil
	}
	durations := map[string]*time.Duration{"hold": &o.guard.MaxHold, "window": &o.guard.Window}
	ratios := map[string]*float64{"emptied": &o.guard.EmptiedRatio, "lost": &o.guard.LostRatio, "shrink": &o.guard.ShrinkRatio}
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		if len(args) != 1 {
			return c.ArgErr()
		}
		var err error
		if d, ok := durations[name]; ok {
			*d, err = time.ParseDuration(args[0])
		} else if r, ok := ratios[name]; ok {
			*r, err = strconv.ParseFloat(args[0], 64)
		} else {
			return c.Errf("guard: unknown property '%s'", name)
		}
		if err == nil {
			err = o.guard.Validate()
		}
		if err != nil {
			return c.Errf("guard: %s: %v", name, err)
		}
	}
	return nil
}

// parseStaleness reads: staleness CLASS TTL [LONGEST].
func parseStaleness(o *options, c *caddy.Controller) error {
	args := c.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return c.ArgErr()
	}
	kind := class(args[0])
	s, known := o.policy.stale[kind]
	if !known {
		return c.Errf("staleness: no class is named %q; there are %v", kind, slices.Sorted(maps.Keys(o.policy.stale)))
	}
	ttl, err := time.ParseDuration(args[1])
	if err != nil || ttl < time.Second || ttl > time.Hour || ttl%time.Second != 0 {
		return c.Errf("staleness %s: the TTL must be 1s–1h in whole seconds, got %q", kind, args[1])
	}
	s.ttl = uint32(ttl / time.Second)
	if len(args) == 3 {
		if s.longest, err = time.ParseDuration(args[2]); err != nil || s.longest < 0 {
			return c.Errf("staleness %s: the longest age must be a duration ≥ 0, 0 being no limit, got %q", kind, args[2])
		}
	}
	o.policy.stale[kind] = s
	return nil
}

// parseFast reads: fastpath off, or fastpath [{ sockets N; memory BYTES }].
func parseFast(o *options, c *caddy.Controller) error {
	if args := c.RemainingArgs(); len(args) > 0 {
		if len(args) != 1 || args[0] != "off" {
			return c.Errf("fastpath takes \"off\" or a block, got %q", strings.Join(args, " "))
		}
		o.fast.off = true
		return nil
	}
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		if len(args) != 1 {
			return c.ArgErr()
		}
		switch name {
		case "sockets":
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > 64 {
				return c.Errf("fastpath: sockets must be 1–64, got %q", args[0])
			}
			o.fast.sockets = n
		case "memory":
			quantity, err := resource.ParseQuantity(args[0])
			if err != nil || quantity.Value() < 1<<20 {
				return c.Errf("fastpath: memory must be a quantity ≥ 1Mi, got %q", args[0])
			}
			o.fast.memory = quantity.Value()
		default:
			return c.Errf("fastpath: unknown property '%s'", name)
		}
	}
	return nil
}
