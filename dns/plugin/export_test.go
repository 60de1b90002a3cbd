package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/coredns/coredns/plugin/file"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/seakeep/seakeep/dns/differential"
)

const exporting = `.:{{.Port}} {
    bind 127.0.0.1
    errors
    seakeep cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        export {
            zone {{.Dir}}/cluster.local.zone
            hosts {{.Dir}}/hosts
            reverse 100.10.in-addr.arpa {{.Dir}}/services.zone
            reverse 128.10.in-addr.arpa {{.Dir}}/pods.zone
            interval 1s
        }
    }
    forward . {{.Upstream}}
}
`

// byFile is CoreDNS with its own plugin file: another program, as far as our code goes.
const byFile = `.:{{.Port}} {
    bind 127.0.0.1
    file {{.Dir}}/cluster.local.zone cluster.local
    file {{.Dir}}/services.zone 100.10.in-addr.arpa
    file {{.Dir}}/pods.zone 128.10.in-addr.arpa
    forward . {{.Upstream}}
}
`

// What the exported zone promises, another server answers from it as ours does from the API server.
func TestExportedZoneAnswersAsWeDo(t *testing.T) {
	r := newRig(t, false)
	dir := t.TempDir()
	ours := r.serveIn(t, "seakeep", exporting, dir)
	last := "web." + r.world.Namespaces[len(r.world.Namespaces)-1].Name
	for _, file := range []string{"cluster.local.zone", "hosts", "services.zone", "pods.zone"} {
		eventually(t, file, func() bool {
			content, err := os.ReadFile(filepath.Join(dir, file))
			return err == nil && (file != "cluster.local.zone" || strings.Contains(string(content), last))
		})
	}
	other := r.serveIn(t, "seakeep", byFile, dir)

	promised, external := promises(r.world)
	compared, found := 0, 0
	for q := range differential.Queries(r.world, "cluster.local.", 11) {
		if compared >= 5000 {
			break
		}
		q = differential.Query{Name: strings.ToLower(q.Name), Type: q.Type, Class: dns.ClassINET, RD: true, TCP: true}
		if !promised(q) {
			continue
		}
		compared++
		a, b := ours.put(t, q), other.put(t, q)
		if diff := cmp.Diff(essence(a, q.Name, external[q.Name]), essence(b, q.Name, external[q.Name])); diff != "" {
			t.Errorf("%s, ours and the file's: %s", q, diff)
		}
		if len(a.Answer) > 0 {
			found++
		}
		if t.Failed() && found > 1000 {
			break
		}
	}
	if found < 500 {
		t.Errorf("%d of %d questions had an answer: hardly anything was compared", found, compared)
	}
}

// essence is what two servers of one zone must agree on: the code, and the records of the name asked for; of an
// alias, where it ends: CoreDNS hides one that leads nowhere. What stands beside an SRV is a server's own choice.
func essence(m *dns.Msg, name string, alias bool) []string {
	var out []string
	if !alias {
		out = append(out, dns.RcodeToString[m.Rcode])
	}
	for _, rr := range m.Answer {
		switch {
		case alias && rr.Header().Rrtype == m.Question[0].Qtype:
			out = append(out, dns.Field(rr, 1))
		case !alias && strings.EqualFold(rr.Header().Name, name):
			out = append(out, differential.Record(rr))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// promises says of a question whether an exported zone answers it: addresses, service records, aliases, the version, and
// the names of cluster IPs and of headless services' endpoints. Names of pods, and of endpoints behind a cluster IP, are not
// in it.
// External are the services that are aliases.
func promises(w *differential.World) (promised func(differential.Query) bool, external map[string]bool) {
	names := map[string]bool{"dns-version.cluster.local.": true}
	headless, endpoints := map[string]bool{}, map[string]bool{}
	for _, s := range w.Services {
		name := fmt.Sprintf("%s.%s.svc.cluster.local.", s.Name, s.Namespace)
		names[name] = true
		names["nothing."+s.Namespace+".svc.cluster.local."] = true
		names["_nothing._tcp."+name] = true
		headless[s.Namespace+"/"+s.Name] = s.Spec.ClusterIP == "None"
		for _, p := range s.Spec.Ports {
			if p.Name != "" {
				names["_"+p.Name+"._"+strings.ToLower(string(p.Protocol))+"."+name] = true
			}
		}
		for _, ip := range s.Spec.ClusterIPs {
			if reverse, err := dns.ReverseAddr(ip); err == nil && strings.HasSuffix(reverse, ".100.10.in-addr.arpa.") {
				names[reverse] = true
			}
		}
	}
	for _, slice := range w.Slices {
		service := slice.Labels[discoveryv1.LabelServiceName]
		if !headless[slice.Namespace+"/"+service] {
			continue
		}
		for _, e := range slice.Endpoints {
			label := strings.NewReplacer(".", "-", ":", "-").Replace(e.Addresses[0])
			if e.Hostname != nil {
				label = *e.Hostname
			}
			name := fmt.Sprintf("%s.%s.%s.svc.cluster.local.", label, service, slice.Namespace)
			names[name], endpoints[name] = true, true
			if reverse, err := dns.ReverseAddr(e.Addresses[0]); err == nil && strings.HasSuffix(reverse, ".128.10.in-addr.arpa.") {
				names[reverse] = true
			}
		}
	}
	external = map[string]bool{}
	for _, s := range w.Services {
		if s.Spec.ExternalName != "" {
			external[fmt.Sprintf("%s.%s.svc.cluster.local.", s.Name, s.Namespace)] = true
		}
	}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeCNAME, dns.TypeTXT, dns.TypePTR}
	return func(q differential.Query) bool {
		switch {
		case !names[q.Name] || !slices.Contains(types, q.Type):
			return false
		case q.Name == "dns-version.cluster.local.":
			return q.Type == dns.TypeTXT
		case strings.HasPrefix(q.Name, "loop."): // an alias of itself
			return false
		case external[q.Name]: // an alias in a zone is one for every type; CoreDNS gives it for addresses only
			return q.Type == dns.TypeA || q.Type == dns.TypeAAAA || q.Type == dns.TypeCNAME
		case q.Name[0] == '_': // CoreDNS gives addresses for it too, which the specification does not know
			return q.Type == dns.TypeSRV
		case strings.HasSuffix(q.Name, ".arpa."): // CoreDNS denies the name when asked for another type
			return q.Type == dns.TypePTR
		case endpoints[q.Name]: // CoreDNS gives service records of single endpoints too
			return q.Type != dns.TypeSRV
		}
		return true
	}, external
}
