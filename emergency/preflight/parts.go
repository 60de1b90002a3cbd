package preflight

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// margin is how long before its end a certificate is worth a word: a month to plan a renewal.
const margin = 30 * 24 * time.Hour

func judgeLimits(f *Facts, v *verdict) {
	name, managed, _ := f.managed()
	if managed {
		v.limited("nodes and pods reach the API servers at addresses that "+name+" sets: only clients whose kubeconfig you write come through a gate",
			"point the clients you own at the gate, and hold back the others with a firewall: 'seakeep emergency lockdown --firewall cloud'")
		return
	}
	round := f.roundTheGate()
	for _, r := range round {
		v.limited(r.who+": "+r.server+" leads past a gate that listens elsewhere", r.change)
	}
	known := 0
	for _, c := range f.Clients {
		if _, ok := c.Server.Get(); ok {
			known++
		} else {
			v.note("what address is given to " + c.Who + ": " + c.Server.Why())
		}
	}
	if known == 0 {
		v.unknown("where the nodes' kubelets go cannot be seen from here", "look at /etc/kubernetes/kubelet.conf on a node")
	}
	if endpoints, ok := f.Endpoints.Get(); !ok {
		v.unknown("where pods go: "+f.Endpoints.Why(), "")
	} else if len(endpoints) == 0 {
		v.note("the kubernetes Service has no endpoints: the API servers do not announce themselves (--endpoint-reconciler-type=none)")
	}
	v.note("'seakeep gate bypass' says what goes round once a gate stands")
}

type roundabout struct{ who, server, change string }

// roundTheGate lists who was told to go to the API servers themselves.
func (f *Facts) roundTheGate() []roundabout {
	var list []roundabout
	if endpoints, ok := f.Endpoints.Get(); ok && len(endpoints) > 0 {
		list = append(list, roundabout{"pods, through the kubernetes Service", strings.Join(endpoints, ", "),
			"for pods: let the gate have these addresses and ports, and the API servers others (--secure-port), or --advertise-address the gate"})
	}
	for _, c := range f.Clients {
		if server, ok := c.Server.Get(); ok {
			list = append(list, roundabout{c.Who, server, "for " + c.Who + ": let that name or balancer lead to the gates"})
		}
	}
	return list
}

func judgeLedger(f *Facts, v *verdict) {
	v.note("it counts what comes through the gate and asks nothing of the control plane")
	if _, ok := f.Flags.Get(); !ok {
		return
	}
	if path, ok := f.flag("audit-log-path"); ok && path != "" && path != "-" {
		v.note("clients can be ranked before a gate stands: 'seakeep gate top --audit " + path + "' on an API server's host")
	} else {
		v.note("the API servers write no audit log to a file: without a gate clients cannot be ranked")
	}
}

func judgeBypass(f *Facts, v *verdict) {
	if _, ok := f.About.Get(); !ok {
		if allowed, known := f.may(ReadMetrics); known && !allowed {
			v.impossible("this user may not read /metrics", "use a user with ClusterRole system:monitoring")
		} else {
			v.unknown("the counters: "+f.About.Why(), "")
		}
		return
	}
	f.everyServer(v, "name each: 'seakeep gate bypass --server URL --server URL'")
	if path, ok := f.flag("audit-log-path"); ok && path != "" && path != "-" {
		v.note("by client too, on the API servers' hosts: --audit-log " + path)
	} else {
		v.note("by verb and resource; by client only where an audit log can be read")
	}
}

// everyServer: behind one address one of several API servers answers, by chance.
func (f *Facts) everyServer(v *verdict, change string) {
	servers, ok := f.APIServers.Get()
	balanced, known := f.Balanced.Get()
	switch {
	case !ok:
		v.unknown("how many API servers there are: "+f.APIServers.Why(), "")
	case len(servers) > 1 && (balanced || !known):
		if name, managed, _ := f.managed(); managed {
			v.limited(fmt.Sprintf("%s has %d API servers behind one address: which of them answers is chance", name, len(servers)), "")
			return
		}
		v.limited(fmt.Sprintf("there are %d API servers, and %s leads to one of them", len(servers), f.Server), change)
	}
}

func judgeCertificates(f *Facts, v *verdict) {
	check := func(what string, c Certificate) {
		switch left := c.NotAfter.Sub(f.Taken); {
		case left <= 0:
			v.limited(what+" "+c.Subject+" expired "+day(c.NotAfter), "renew it")
		case left < margin:
			v.limited(what+" "+c.Subject+" expires "+day(c.NotAfter), "renew it")
		}
	}
	if serving, ok := f.Serving.Get(); ok {
		check("the serving certificate", serving)
	} else {
		v.unknown("the serving certificate: "+f.Serving.Why(), "")
	}
	if client, ok := f.Client.Get(); ok {
		check("this kubeconfig's certificate", client)
	}
	if a, ok := f.Authentication.Get(); ok {
		for _, c := range a.ClientCAs {
			check("the client CA", c)
		}
		for _, c := range a.RequestHeaderCAs {
			check("the front-proxy CA", c)
		}
	} else {
		v.note("the CAs are not known: " + f.Authentication.Why())
	}
	if v.Status == Works {
		v.note("what the handshake and the API servers show is good for more than 30 days")
	}
}

func judgeRelay(f *Facts, v *verdict) {
	v.feature(f, "ConsistentListFromCache", "each most-recent LIST is read from etcd")
	v.feature(f, "WatchList", "informers start with a LIST")
	v.needs(f, "the relay's own user needs ClusterRole system:auth-delegator", DelegateTokens, DelegateAccess)
}

func judgeOverload(f *Facts, v *verdict) {
	if _, ok := f.About.Get(); !ok {
		v.unknown("the metrics: "+f.About.Why(), "the gate's own user needs ClusterRole system:monitoring")
		return
	}
	f.everyServer(v, "the gate must reach each API server by an address of its own")
}

func judgeDNS(f *Facts, v *verdict) {
	v.needs(f, "its own user needs ClusterRole system:coredns", WatchSlices, WatchServices)
}

func judgeRollout(f *Facts, v *verdict) {
	v.needs(f, "its own user needs to patch daemonsets and delete pods", PatchDaemonSets, DeletePods)
}

func judgeJail(f *Facts, v *verdict) {
	state, ok := f.PriorityAndFairness.Get()
	switch {
	case !ok:
		v.unknown("API Priority and Fairness: "+f.PriorityAndFairness.Why(), "")
		return
	case len(state.Versions) == 0:
		v.impossible("the API server serves no flowcontrol.apiserver.k8s.io", "--enable-priority-and-fairness=true on the API servers")
		return
	case !state.On:
		v.impossible("API Priority and Fairness is off: answers do not name a FlowSchema", "--enable-priority-and-fairness=true on the API servers")
		return
	case !slices.Contains(state.Versions, "v1"):
		v.limited("only "+strings.Join(state.Versions, ", ")+" of its API is served", "v1 came with Kubernetes 1.29")
	}
	v.needs(f, "its own user needs to create flowschemas and prioritylevelconfigurations", CreateFlowSchemas, CreateLevels)
}

func judgeMonitor(f *Facts, v *verdict) {
	if _, ok := f.About.Get(); ok {
		f.everyServer(v, "it must reach each API server by an address of its own")
	} else {
		v.unknown("the metrics: "+f.About.Why(), "its own user needs ClusterRole system:monitoring")
	}
	if _, ok := f.Etcd.Get(); !ok {
		v.limited("etcd: "+f.Etcd.Why(), "--etcd URL --etcd-cert … where etcd can be reached")
	}
}

func judgeEtcd(f *Facts, v *verdict) {
	members, ok := f.Etcd.Get()
	if !ok {
		if name, managed, _ := f.managed(); managed {
			v.impossible(name+" shows etcd to nobody", "")
		} else {
			v.unknown("etcd: "+f.Etcd.Why(), "name etcd's client URLs: --etcd URL --etcd-cert FILE --etcd-key FILE --etcd-ca FILE")
		}
		return
	}
	reached := 0
	for _, m := range members {
		if m.Unreachable != "" {
			v.unknown(m.Endpoint+" does not answer: "+m.Unreachable, "")
			continue
		}
		reached++
		judgeMember(m, v)
	}
	if reached == 0 {
		return
	}
	versions, count := []string{}, 0
	for _, m := range members {
		if m.Unreachable == "" && !slices.Contains(versions, m.Version) {
			versions = append(versions, m.Version)
		}
		count = max(count, m.Members-m.Learners)
	}
	if len(versions) > 1 {
		v.limited("members run "+strings.Join(versions, " and "), "finish the upgrade")
	}
	if count > 1 && count%2 == 0 {
		v.limited(fmt.Sprintf("%d voting members: an even number bears no more failures than one less", count), "add or remove a member")
	}
	if count > reached {
		v.limited(fmt.Sprintf("%d of %d voting members answered here", reached, count), "name every member with --etcd")
	}
}

func judgeMember(m EtcdMember, v *verdict) {
	if !m.HasLeader {
		v.limited(m.Endpoint+" sees no leader", "")
	}
	if !m.Healthy {
		v.limited(m.Endpoint+" says it is not healthy", "")
	}
	if m.Learners > 0 {
		v.note(fmt.Sprintf("%s knows %d learners, which do not vote", m.Endpoint, m.Learners))
	}
	for _, alarm := range m.Alarms {
		v.limited(m.Endpoint+" has the alarm "+alarm, "")
	}
	switch {
	case m.QuotaBytes == 0:
		v.note(fmt.Sprintf("%s: %s, %d MiB; it does not say its quota", m.Endpoint, m.Version, m.DBBytes>>20))
	case m.DBBytes*10 > m.QuotaBytes*8:
		v.limited(fmt.Sprintf("%s holds %d of %d MiB: more than 80 %% of its quota", m.Endpoint, m.DBBytes>>20, m.QuotaBytes>>20), "defragment, or raise --quota-backend-bytes")
	default:
		v.note(fmt.Sprintf("%s: %s, %d of %d MiB", m.Endpoint, m.Version, m.DBBytes>>20, m.QuotaBytes>>20))
	}
}

func soonest(certificates []Certificate) Certificate {
	return slices.MinFunc(certificates, func(a, b Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

func subjects(certificates []Certificate) string {
	names := make([]string, len(certificates))
	for i, c := range certificates {
		names[i] = c.Subject
	}
	return strings.Join(names, ", ")
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }
